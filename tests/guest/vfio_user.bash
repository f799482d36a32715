# A PCI function of a vfio-user server's (tests/native/vfio_user_server.py), driven by the guest vfio_user.
# shellcheck shell=bash disable=SC2034,SC2154

VFIO_USER_SERVER=$(dirname "${BASH_SOURCE[0]}")/../native/vfio_user_server.py

listens() { awk -v s="$1" '$8 == s && $4 == "00010000" { f = 1 } END { exit !f }' /proc/net/unix; }

vfio_user_server() { # ARG...
    rm -f "$T/v.sock"
    "$VFIO_USER_SERVER" "$@" "$T/v.sock" 2> "$T/server.log" &
    server=$!
    wait_for 10 listens "$T/v.sock" || not_ok "the server listens" "$(tail -n 1 "$T/server.log")"
}

vfio_user_device() { # LINE...
    { printf '[[device]]\nid = "dev0"\nvia = "vfio-user"\n'; printf '%s\n' "$@"; } >> "$T/vm.toml"
}

server_end() {
    wait_for 5 gone "$server" || not_ok "the server ended" "still there"
    kill -KILL "$server" 2> /dev/null
    wait "$server"
    check "the server ended as it was told" [ $? = 3 ]
    [ ! -s "$T/server.log" ] || not_ok "the server had nothing to complain of" "$(tail -n 1 "$T/server.log")"
    check "the end is in the log, once for each" [ "$(grep -c 'dev0: .*the guest sees it no more' "$T/log")" = "$((1 + $(grep -c 'dev0: .* is back after' "$T/log")))" ]
}

vfio_user_run() { # CMDLINE SERVER-ARGS [LINE]...
    local args=$2
    machine vfio_user "$1"
    # shellcheck disable=SC2086
    vfio_user_server $args
    vfio_user_device "socket = \"$T/v.sock\"" "${@:3}"
    go
    server_end
}

scenario_vfio_user() { vfio_user_run '' ''; }
scenario_vfio_user_twin_socket() { vfio_user_run '' --twin; }
scenario_vfio_user_without_shared_memory() { vfio_user_run 'shared=0 moves=10' '' 'dma = "messages"'; }
scenario_vfio_user_twin_without_shared_memory() { vfio_user_run 'shared=0 moves=10' --twin 'dma = "messages"'; }
scenario_vfio_user_reboots() {
    local on_reboot=restart
    vfio_user_run 'reboots=3 moves=10' ''
    check "three times as new" [ "$(grep -ac 'PASS as new' "$T/console")" = 3 ]
}
scenario_vfio_user_all_trapped() { vfio_user_run 'mapped=0 eventfds=0 moves=10 posted=16' --no-file 'io_fds = false'; }
scenario_vfio_user_posted_writes_answered() {
    vfio_user_run 'mapped=0 eventfds=0 moves=10 posted=1' '--no-file --fault answers' 'io_fds = false'
}
scenario_vfio_user_unsealed_file_B20() {
    vfio_user_run 'mapped=0 moves=10' '--fault unsealed'
    check "why it is not mapped is in the log" log_has 'not sealed against shrinking'
}
scenario_long_vfio_user_10000_moves() {
    LIMIT=200 # twenty exits a move
    vfio_user_run moves=10000 ''
}

scenario_vfio_user_started() {
    machine vfio_user moves=10
    vfio_user_device "exec = [\"$(command -v python3)\", \"$(realpath "$VFIO_USER_SERVER")\", \"--fd\", \"{fd}\"]" 'sandbox = "none"'
    go
    check "its exit status is in the log" log_has 'exit status 3'
}

scenario_vfio_user_returns_started() {
    machine vfio_user 'moves=10 returns=4'
    vfio_user_device "exec = [\"$(command -v python3)\", \"$(realpath "$VFIO_USER_SERVER")\", \"--fd\", \"{fd}\"]" 'sandbox = "none"'
    go
    check "each return is in the log" [ "$(grep -c 'dev0: .* is back after' "$T/log")" = 4 ]
    check "and what became of its state" log_has 'dev0: the device is there again, as after a reset'
}
scenario_vfio_user_returns_kept() {
    vfio_user_run 'moves=10 returns=4 kept=1' ''
    check "each return is in the log" [ "$(grep -c 'dev0: .* is back after' "$T/log")" = 4 ]
    check "and what became of its state" log_has 'dev0: the device is there again, as it was'
}
scenario_vfio_user_returns_kept_twin_without_shared_memory() {
    vfio_user_run 'shared=0 moves=10 returns=4 kept=1' --twin 'dma = "messages"'
}
scenario_vfio_user_replug_started() {
    machine vfio_user 'moves=10 replugs=4'
    vfio_user_device "exec = [\"$(command -v python3)\", \"$(realpath "$VFIO_USER_SERVER")\", \"--fd\", \"{fd}\"]" 'sandbox = "none"' \
        'on_return = "replug"'
    go
    check "each time is in the log" [ "$(grep -c 'dev0: the guest saw the device go, and sees it plugged in anew' "$T/log")" = 4 ]
}
scenario_vfio_user_replug_kept() {
    vfio_user_run 'moves=10 returns=4 kept=1' '' 'on_return = "replug"'
    check "it goes on" log_has 'dev0: the device is there again, as it was'
}
scenario_vfio_user_replug_not_looked_at() {
    slow
    machine vfio_user 'moves=10 returns=1'
    vfio_user_device "exec = [\"$(command -v python3)\", \"$(realpath "$VFIO_USER_SERVER")\", \"--fd\", \"{fd}\"]" 'sandbox = "none"' \
        'on_return = "replug"'
    go
    check "as without" log_has 'dev0: the device is there again, as after a reset'
}
scenario_vfio_user_replug_never_returns() {
    vfio_user_run 'moves=10 gone=1' '' 'reconnect = "never"' 'on_return = "replug"'
}
scenario_vfio_user_replug_as_another() {
    machine vfio_user 'moves=10 gone=1'
    vfio_user_server
    vfio_user_device "socket = \"$T/v.sock\"" 'on_return = "replug"'
    { until gone "$server"; do sleep 0.05; done; rm -f "$T/v.sock"; exec timeout 20 "$VFIO_USER_SERVER" --fault odd "$T/v.sock"; } &
    local second=$!
    go
    kill -TERM "$second" 2> /dev/null
    check "it is refused, and why" grep -q "dev0: .*: another device: region 0 of .*; it stays dead" "$T/log"
}
scenario_vfio_user_eject_storm() {
    slow
    machine vfio_user 'moves=10 storm=2000' 2
    vfio_user_server
    vfio_user_device "socket = \"$T/v.sock\""
    go
    server_end
}
scenario_vfio_user_returns_as_another() {
    machine vfio_user 'moves=10 late=3000'
    vfio_user_server
    vfio_user_device "socket = \"$T/v.sock\""
    { until gone "$server"; do sleep 0.05; done; rm -f "$T/v.sock"; exec timeout 20 "$VFIO_USER_SERVER" --fault odd "$T/v.sock"; } &
    local second=$!
    go
    kill -TERM "$second" 2> /dev/null
    check "it is refused, and why" grep -q "dev0: .*: another device: region 0 of .*; it stays dead" "$T/log"
}
scenario_vfio_user_never_returns() {
    vfio_user_run 'moves=10' '' 'reconnect = "never"'
    check "that is in the log" [ "$(grep -c 'dev0: .*waiting until' "$T/log")" = 0 ]
}

# Rows B21, B23, C07: what is refused when the machine is built, with one sentence and nothing left.
scenario_vfio_user_refused_B21_C07() {
    local fault at text
    while read -r fault at text; do
        machine vfio_user ''
        vfio_user_server --fault "$fault" --at "$at" --once
        vfio_user_device "socket = \"$T/v.sock\""
        start
        finish
        check "$fault: status 1" [ "$rc" = 1 ]
        check "$fault: in time" [ "$took" -le 6000 ]
        check "$fault: in few words" [ "$(grep -c '^minivmm: dev0: ' "$T/log")" -le 2 ]
        check "$fault: why" log_has "$text"
        wait_for 5 gone "$server" || not_ok "$fault: the connection ended" "the server is still there"
        kill -KILL "$server" 2> /dev/null
    done << 'END'
odd 0 a power of two from 16 on is possible
error DMA_MAP the server refuses it: Input/output error
close DMA_MAP closed its connection
silence DMA_MAP does not answer (DMA_MAP, deadline missed)
lie REGION_READ broke the protocol
overlap 0 sparse areas overlap
END
    machine vfio_user ''
    vfio_user_device "socket = \"$T/absent.sock\""
    start
    finish
    check "no server: status 1" [ "$rc" = 1 ]
    check "no server: why" log_has 'No such file or directory (has the program that listens there been started?)'
}

scenario_vfio_user_jailed() {
    # The distribution's: modules of another one lie where a jail lets nothing be executed.
    local python=/usr/bin/python3 stdlib
    if ! [ -x "$python" ]; then
        skip "a server in a jail" "no $python"
        return
    fi
    stdlib=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    machine vfio_user moves=10
    vfio_user_device "exec = [\"$python\", \"-S\", \"$(realpath "$VFIO_USER_SERVER")\", \"--fd\", \"{fd}\"]" \
        "paths = [\"$stdlib\", \"$(dirname "$(realpath "$VFIO_USER_SERVER")")\"]"
    go
    check "its exit status is in the log" log_has 'exit status 3'
}

# Our own server, in the place of the first of two disks: what guests do with those, they do with it.
minivmm_blk_server() { # ARG...
    [ -e "$T/disk0.img" ] || truncate -s 4M "$T/disk0.img"
    "$MINIVMM_BLK" --image "$T/disk0.img" --vfio-user "$T/v.sock" "$@" 2> "$T/server.log" &
    server=$!
    wait_for 10 listens "$T/v.sock" || not_ok "the server listens" "$(tail -n 1 "$T/server.log")"
    vfio_user_device "socket = \"$T/v.sock\"" 'slot = 1'
}

scenario_vfio_user_minivmm_blk_io() {
    machine io ''
    printf 'written by the harness' > "$T/disk1.img"
    truncate -s 4M "$T/disk1.img"
    minivmm_blk_server --queues 2 --serial disk0
    disk disk1 'readonly = true'
    go
    kill -TERM "$server"
}

# Our own programs by `exec`, over either protocol: in a jail, and behind their own walls in it.
scenario_our_programs_in_their_jail() {
    machine io ''
    truncate -s 4M "$T/disk0.img"
    printf 'written by the harness' > "$T/disk1.img"
    truncate -s 4M "$T/disk1.img"
    vfio_user_device "exec = [\"$MINIVMM_BLK\", \"--image\", \"$T/disk0.img\", \"--queues\", \"2\", \"--serial\", \"disk0\", \"--vfio-user\", \"fd:{listen}\"]" \
        "paths = [\"$T/disk0.img:rw\"]" 'slot = 1'
    printf '[[device]]\nid = "disk1"\nvia = "vhost-user"\nvirtio = "blk"\nexec = ["%s", "--image", "%s", "--readonly", "--serial", "disk1", "--fd", "{fd}"]\nsandbox = "minivmm"\npaths = ["%s"]\n' \
        "$MINIVMM_BLK" "$T/disk1.img" "$T/disk1.img" >> "$T/vm.toml"
    "$MINIVMM" explain -c "$T/vm.toml" > "$T/explained"
    check "explain says that their own walls go up inside" [ "$(grep -c '^  jail  *minivmm: our device programs: .*until their own walls are up' "$T/explained")" = 2 ]
    go
}
scenario_our_programs_in_their_jail_and_walls() {
    local p
    machine machine do=wait
    truncate -s 4M "$T/disk0.img"
    vfio_user_device "exec = [\"${MINIVMM_BLK%blk}nvme\", \"--image\", \"$T/disk0.img\", \"--fd\", \"{fd}\"]" "paths = [\"$T/disk0.img:rw\"]"
    start
    wait_line ready
    p=$(pgrep -P "$pid" -f minivmm-nvme)
    check 'both filters hold it' grep -qzP 'NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2' "/proc/$p/status"
    check 'it has no capability' grep -qzP 'CapInh:\t0+\nCapPrm:\t0+\nCapEff:\t0+\n' "/proc/$p/status"
    if [ "$(id -u)" = 0 ]; then
        check 'its root is empty' [ -z "$(ls -A "/proc/$p/root/")" ]
        check 'and nothing else is mounted' [ "$(wc -l < "/proc/$p/mountinfo")" = 1 ]
    fi
    kill -INT "$pid"
    finish 5
}

scenario_vfio_user_minivmm_blk_msix() {
    machine msix '' 2
    minivmm_blk_server --queues 2 --serial disk0
    disk disk1
    go
    kill -TERM "$server"
}
