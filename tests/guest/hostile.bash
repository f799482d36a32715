# A back-end that is hostile (bad-back-end) under the real monitor, beside a disk of ours.  The single messages are in
# tests/fault/vhost_user_peer.c; here it is what a running machine makes of it: it goes on, and nothing of its host's grows.
# shellcheck shell=bash disable=SC2154,SC2034

bad_back_end() { # FAULT [SEED]
    rm -f "$T/bad.sock"
    "$(dirname "${BASH_SOURCE[0]}")/bad-back-end" "$T/bad.sock" "$@" 2> "$T/bad.log" &
    bad=$!
    wait_for 5 test -S "$T/bad.sock"
}

bad_end() {
    kill "$bad" 2> /dev/null
    wait "$bad" 2> /dev/null
}

hostile_device() { # ID [LINE]...
    printf '[[device]]\nid = "%s"\nvia = "vhost-user"\nvirtio = "blk"\nsocket = "bad.sock"\n' "$1" >> "$T/vm.toml"
    shift
    printf '%s\n' "$@" >> "$T/vm.toml"
}

# Milliseconds of processor time that the monitor's loop has used.
loop_ms() { awk '{ sub(/.*\) /, ""); print ($12 + $13) * 10 }' "/proc/$pid/task/$pid/stat"; }
# The most that it has within a quarter of a second: each start of a device changes them.
descriptors() {
    local i n most=0
    for ((i = 0; i < 10; i++)); do
        n=$(find "/proc/$pid/fd" -mindepth 1 2> /dev/null | wc -l)
        [ "$n" -le "$most" ] || most=$n
        sleep 0.025
    done
    echo "$most"
}
surprises() { [ "$(grep -c '^connection' "$T/bad.log")" -ge "$1" ]; }
acts() { sed -n 's/ times$//p' "$T/bad.log"; }

# How often each must have happened to be worth its name; a call flood is in units of 20,000.
declare -A least=([config-flood]=200 [channel-requests]=100 [call-flood]=10)

# A machine lives beside FAULT for SECONDS: the loop takes at most a share of a processor, the log is bounded.
beside() { # ROW FAULT SECONDS [SEED]
    local row=$1 fault=$2 seconds=$3 before after ms lines begin took_here
    label="$row $fault: "
    rm -f "$T"/*.img
    machine beside 'do=hostile'
    bad_back_end "$fault" ${4:+"$4"}
    hostile_device disk0 "${bad_lines:-}"
    disk disk1
    start
    wait_line ready
    before=$(descriptors) ms=$(loop_ms) lines=$(wc -l < "$T/log")
    begin=${EPOCHREALTIME/./}
    kill -USR1 "$bad"
    sleep "$seconds"
    [ "$fault" != random ] || wait_for 50 surprises 12 || true
    kill -USR1 "$bad"
    took_here=$(((${EPOCHREALTIME/./} - begin) / 1000))
    ms=$(($(loop_ms) - ms)) lines=$(($(wc -l < "$T/log") - lines))
    tell settle
    wait_for 60 has_line settled: || not_ok 'settles' 'the guest did not say so'
    after=$(descriptors)
    tell end
    finish
    report
    case $fault in
    random | base* | queues* | slots*) ;;
    *) check "it did that $(acts) times" [ "$(acts)" -ge "${least[$fault]:-5}" ] ;;
    esac
    case $fault in
    kick* | used* | random | channel-junk) check 'the guest felt it' eval '! has_line ", 0 bad"' ;;
    esac
    # one more: the interrupt for changes of the configuration gets its own when it is first used
    check "no descriptor is lost ($before, $after)" [ "$after" -le $((before + 1)) ]
    check "the loop took $ms ms of $took_here ms" [ "$ms" -le $((took_here * 3 / 10)) ]
    check "$lines lines of log" [ "$lines" -le $((took_here / 50 + 20)) ]
    bad_end
}

scenario_hostile_config_flood_B12() { beside B12 config-flood 2; }
scenario_hostile_channel_B13_B14() {
    beside B13/B14 channel-requests 2
    beside B13 channel-junk 2
}
scenario_hostile_base_B15() { beside B15 base-garbage 1; }
scenario_hostile_call_flood_B16() { beside B16 call-flood 1; }
scenario_hostile_kick_B17() {
    beside B17 kick-drained 1
    beside B17 kick-closed 1
}
scenario_hostile_kick_full_B17() { beside B17 kick-full 2; }
scenario_hostile_used_index_B18() { beside B18 used-index 2; }
scenario_hostile_random() {
    slow
    beside random random 6 "${SEED:-}"
    check "a new surprise for each of many connections, $(head -n 1 "$T/bad.log")" surprises 12
    cat "$T/bad.log" >> "$T/log"
}

# It writes all over the guest, which is its right; the monitor ends or stops as one does.
scenario_hostile_scribble_B18() {
    machine beside 'do=hostile'
    bad_back_end scribble
    hostile_device disk0
    disk disk1
    start
    wait_line ready
    kill -USR1 "$bad"
    sleep 1
    [ -n "$pid" ] && kill -INT "$pid" 2> /dev/null
    finish 8
    check "B18 guest memory scribbled over: the monitor ends in order (status $rc)" [ "$rc" = 0 -o "$rc" = 1 ]
    bad_end
}

scenario_hostile_numbers_B10() {
    local fault
    for fault in queues-0 slots-0; do
        machine beside 'do=hostile'
        bad_back_end $fault
        hostile_device disk0
        disk disk1
        start
        finish 8
        check "B10 $fault: refused" [ "$rc" = 1 ]
        check "B10 $fault: in one sentence" [ "$(grep -c 'says that it' "$T/log")" = 1 ]
        bad_end
    done
    beside B10 queues-65535 1
    beside B10 'queues-2^64-1' 1
    beside B10 'slots-2^63' 1
}

# Sixteen that answer a byte a second: the start fails by one deadline, 10 s, and not by sixteen.
scenario_long_hostile_slow_loris_B30() {
    local i
    LIMIT=40
    machine beside 'do=hostile'
    bad_back_end slow-loris
    for i in {0..15}; do hostile_device "disk$i"; done
    start
    finish
    check 'B30 sixteen slow-loris back-ends: refused' [ "$rc" = 1 ]
    check "B30 by one deadline ($took ms)" [ "$took" -lt 14000 ]
    bad_end
}

scenario_all_devices_reset_R05() {
    local i on_reboot=restart
    slow
    machine beside 'do=all disks=31 queues=64'
    for ((i = 0; i < 31; i++)); do disk "disk$i" 'queues = 64'; done
    start
    wait_for 40 has_line resetting || not_ok 'starts' 'it did not come to the reset'
    finish
    report
}

# Back-ends that are mute when the machine is reset, or ends, cost it one deadline together, 10 s, and the others nothing.
mute_ones() { # restart|exit
    local i on_reboot=$1
    machine beside 'do=all disks=6 queues=2 mute=4'
    for ((i = 0; i < 4; i++)); do disk "disk$i" 'queues = 2' 'restart = "never"'; done
    for ((i = 4; i < 6; i++)); do disk "disk$i" 'queues = 2'; done
    start
    wait_line 'mute?'
    for ((i = 0; i < 4; i++)); do kill -STOP "$(child "disk$i")"; done
    tell go
    finish 50
    [ "$1" = exit ] || report
    check "B30 four mute ones cost one deadline of 10 s ($took ms)" [ "$took" -gt 9000 -a "$took" -lt 14000 ]
}
scenario_long_mute_at_reboot_B30() { mute_ones restart; }
scenario_long_mute_at_the_end_B30() { mute_ones exit; }

# ---- a page of the back-end's as the guest's doorbell -----------------------------------------------------------

giving_back_end() { # PROGRAM
    rm -f "$T/bad.sock"
    "$(dirname "${BASH_SOURCE[0]}")/$1" "$T/bad.sock" 2> "$T/bad.log" &
    bad=$!
    wait_for 5 test -S "$T/bad.sock"
}

# A guest under whose eyes PROGRAM takes back what it gave, gives it again, and is killed and followed.
given_and_taken() { # GUEST PROGRAM LINE
    machine "$1" ''
    giving_back_end "$2"
    hostile_device disk0 "$3"
    start
    wait_line withdraw
    [ "$(id -u)" != 0 ] || check 'explain says what is mapped' eval '"$here/lib/explain-check" "$MINIVMM" "$T/vm.toml" "$pid" > "$T/explained"'
    kill -USR1 "$bad"
    tell on
    wait_line give
    kill -USR1 "$bad"
    tell on
    wait_line kill
    kill -KILL "$bad"
    wait_line start
    giving_back_end "$2"
    tell on
    finish
    report
    bad_end
}

scenario_doorbell_page() { given_and_taken doorbell doorbell-back-end 'host_notifier = true'; }

scenario_doorbell_page_not_told() {
    machine doorbell pages=0
    giving_back_end doorbell-back-end
    hostile_device disk0
    go
    bad_end
}

scenario_shared_memory() { given_and_taken shared shared-back-end 'shared_memory = "2M"'; }

scenario_shared_memory_not_told() {
    machine shared shared=0
    giving_back_end shared-back-end
    hostile_device disk0
    go
    bad_end
}

scenario_hostile_shared_memory_B14_B20() {
    bad_lines='shared_memory = "256K"' beside B14/B20 shared-memory 3
}

scenario_hostile_doorbell_pages_B14_B20() {
    bad_lines='host_notifier = true' beside B14/B20 doorbell-pages 3
}

# ---- one back-end's memory, found by another ---------------------------------------------------------------------

object_back_end() { # ID
    rm -f "$T/$1.sock"
    "$(dirname "${BASH_SOURCE[0]}")/object-back-end" "$T/$1.sock" "$1" 2> "$T/bad.log" &
    bad=$!
    wait_for 5 grep -q " 00010000 .* $T/$1.sock\$" /proc/net/unix
}

scenario_shared_objects() {
    local asker
    machine beside do=objects
    printf '[[device]]\nid = "%s"\nvia = "vhost-user"\nvirtio = "blk"\nsocket = "%s.sock"\n' disk0 owner disk1 asker >> "$T/vm.toml"
    object_back_end asker
    asker=$bad
    object_back_end owner
    start
    wait_line kill
    check 'the monitor is sealed all the while' grep -q '^Seccomp:.*2$' "/proc/$pid/status"
    kill -KILL "$bad"
    wait "$bad" 2> /dev/null
    tell on
    wait_line start
    object_back_end owner
    wait_for 5 log_has 'owner.sock is back' # a request without a record, meanwhile, would cost a reset
    tell on
    finish
    report
    kill "$asker"
    bad_end
}
