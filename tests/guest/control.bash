# The control socket: minivmm ctl, pauses, and clients that mean no good.
# shellcheck shell=bash disable=SC2154

ctl() { "$MINIVMM" ctl "$T/c.sock" "$@" 2>&1; }
said() { # TEXT COMMAND...: its output holds the text
    local text=$1
    shift
    [[ $(ctl "$@") = *"$text"* ]]
}
with_control() { sed -i 's/^\[vm\]/&\ncontrol = "c.sock"/' "$T/vm.toml"; }

# Ticks of processor time that the monitor and its guest have had.
ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat"; }
ticks_above() { [ "$(ticks)" -gt "$1" ]; }
goes() { wait_for 10 ticks_above $(($(ticks) + 20)); }
stands() {
    local before
    before=$(ticks)
    sleep 0.5
    [ "$(ticks)" -lt $((before + 5)) ]
}

has_dumps() { [ "$(grep -c 'rip ' "$T/log")" = "$1" ]; }

scenario_control() {
    machine machine 'do=crash by=spin' 2
    disk disk0
    with_control
    start
    wait_line crashing
    check 'ctl status: running' said 'state   running' status
    check 'and the machine in numbers' said $'cpus    2\nmemory  64 MiB\n' status
    check 'ctl device list' said 'disk0            slot 1   ours        blk       no driver' device list
    check 'a guest that spins uses a processor' goes
    check 'ctl pause' ctl pause
    check 'status says so' said 'state   paused' status
    check 'and it uses none' stands
    kill -USR1 "$pid"
    check 'SIGUSR1 shows the registers of both CPUs' wait_for 5 has_dumps 2
    check 'pause again' ctl pause
    check 'ctl resume' ctl resume
    check 'status: running' said 'state   running' status
    check 'it goes on' goes
    check 'resume again' ctl resume
    check 'an unknown command says which there are' said 'status, pause, resume, powerdown, quit, device list' device frob
    check 'its exit status is 1' [ "$(ctl frob > /dev/null; echo $?)" = 1 ]
    check 'without a command: 2' [ "$("$MINIVMM" ctl "$T/c.sock" > /dev/null 2>&1; echo $?)" = 2 ]
    check 'the socket is its owner'"'"'s alone' [ "$(stat -c %a "$T/c.sock")" = 600 ]
    check 'ctl pause, once more' ctl pause
    check 'ctl quit, of a paused machine' ctl quit
    finish 5
    check 'exit status 0' [ "$rc" = 0 ]
    check 'the socket is gone' [ ! -e "$T/c.sock" ]
    check 'nobody there: says so' said "$T/c.sock" status
}

scenario_control_powerdown() {
    machine machine 'do=button'
    with_control
    start
    wait_line ready
    check 'pause' ctl pause
    check 'powerdown of a paused machine says when it comes' said 'when it goes on' powerdown
    sleep 0.2
    check 'the guest has not seen it' [ "$(grep -c pressed "$T/console")" = 0 ]
    check 'resume' ctl resume
    wait_line pressed
    finish 5
    check 'the guest powered off' [ "$rc" = 0 ]
}

# Pauses at any moment: nothing of what the disk did is lost, none is too early or too late for a reset.
pauses() { # until the machine has ended: how many
    local n=0
    while ! gone "$pid"; do
        if ctl pause > /dev/null; then n=$((n + 1)); fi
        ctl resume > /dev/null
    done
    echo "$n"
}
scenario_control_pauses_under_io() {
    local n
    slow
    machine io 'count=40000'
    disk disk0
    with_control
    start
    wait_line begin
    n=$(pauses)
    finish
    check "$n pauses under I/O" [ "$n" -gt 10 ]
    check 'every request was answered, once' has_line 'end: 40000 requests, 0 bad'
    check 'exit status 0' [ "$rc" = 0 ]
}
scenario_control_pauses_and_reboots() {
    local n on_reboot=restart
    slow
    machine machine 'do=reboot by=0 all=1 times=30' 4
    disk disk0
    with_control
    start
    wait_line boot
    n=$(pauses)
    finish
    report
    check "$n pauses while the machine reboots" [ "$n" -gt 5 ]
}

# Two who want the contrary of each other, and one that says what it likes.
scenario_control_hostile_clients() {
    local calls before after
    machine machine 'do=wait'
    disk disk0
    with_control
    start
    wait_line ready
    before=$(find "/proc/$pid/fd" | wc -l)
    calls=$(timeout 60 python3 "$(dirname "${BASH_SOURCE[0]}")/control-clients" "$T/c.sock" 2>&1)
    check "hostile clients: ${calls##*$'\n'}" [ "${calls##*$'\n'}" = done ]
    [ "${calls##*$'\n'}" = done ] || echo "# $calls" >> "$T/tap"
    check 'after them: running' said 'state   running' status
    after=$(find "/proc/$pid/fd" | wc -l)
    check "descriptors: $before before, $after after" [ "$after" -le $((before + 4)) ]
    tell x
    ctl quit > /dev/null
    finish 5
    check 'exit status 0' [ "$rc" = 0 ]
}
