# shellcheck shell=bash
# helpers.bash - what the end-to-end tests are written with.  A test file says
# `load lib/helpers` and nothing else; setup and teardown come from here.
#
# Virtual machines have names.  What belongs to one lies in $D/NAME: vm.toml,
# console, stderr, pid, status.  $D is a folder of the test's own.
#
#   vm_start NAME [ARG]... < CONFIG  start minivmm on the configuration on stdin
#   vm_boot NAME KIND [WORD]...      the usual [vm] and [boot] tables on stdout, for
#                                    a guest of KIND debian or rig ($CPUS, $MEMORY,
#                                    $IMAGE bzImage or vmlinux)
#   vm_line NAME REGEX [SECS]        wait until the console has such a line
#   vm_count NAME REGEX COUNT [SECS] the same for that many lines
#   vm_guest NAME [-t SECS] COMMAND  run COMMAND in a guest with minivmm.agent: its
#                                    output on stdout, its status returned
#   vm_result NAME [SECS]            what a guest's minivmm.run= printed and gave
#   vm_send NAME TEXT                type TEXT on the serial port
#   vm_exit NAME [SECS]              wait for minivmm to end, return its status
#   vm_stop NAME [SECS]              press the power button (SIGTERM), then vm_exit
#   peer_start NAME COMMAND...       start somebody's program, output in $D/NAME.log
#   peer_stop NAME                   TERM, then wait for its end
#   wait_for [SECS] COMMAND...       until COMMAND succeeds
#   socket_wait PATH [SECS]          until someone listens there
#   program_disk IMAGE PROGRAM       a disk with a program of this host and its libraries; in a guest that
#                                    mounted it at /s, `on_disk PROGRAM` runs it
#   tool NAME                        path of a program, or skip saying why
#   guest_words TEXT                 minivmm.run64= for the kernel command line
#
# Nothing here waits without a limit, and no limit that is reached is tried
# again: the guest's console, every thread's name, state, kernel stack and
# system call, minivmm's registers (SIGUSR1) and a debugger's backtrace go to
# $MINIVMM_EVIDENCE, and the test fails.
#
# A test must end what it started.  Teardown fails it when a process, a socket, a
# temporary file or a mount is left behind.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd -P)
MINIVMM=${MINIVMM:-$TOP/minivmm}
MINIVMM_BLK=${MINIVMM_BLK:-$TOP/minivmm-blk}
GUEST=${MINIVMM_GUEST_DIR:-${MINIVMM_CACHE:-$HOME/.cache/minivmm}/guest}
MINIVMM_EVIDENCE=${MINIVMM_EVIDENCE:-$TOP/build/e2e}
# Nested emulation is slow: limits are for a hang, not for a speed.
BOOT_SECS=${BOOT_SECS:-90}
COMMAND_SECS=${COMMAND_SECS:-60}
STOP_SECS=${STOP_SECS:-30}
bats_require_minimum_version 1.8.0

# shellcheck source=tests/e2e/lib/leftovers.bash
. "$TOP/tests/e2e/lib/leftovers.bash"
# shellcheck source=tests/e2e/lib/evidence.bash
. "$TOP/tests/e2e/lib/evidence.bash"

setup() { e2e_setup; }
teardown() { e2e_teardown; }

e2e_setup() {
    D=$BATS_TEST_TMPDIR/d
    export TMPDIR=$BATS_TEST_TMPDIR/tmp
    mkdir -p "$D" "$TMPDIR"
    # A descriptor that never has anything to read: a sleep without a process.
    exec {NAP}<> <(:)
    untraced leftovers_note
}

e2e_teardown() {
    local name failed=0
    [ -n "${BATS_TEST_COMPLETED:-}" ] || failed=1
    if [ $failed = 1 ]; then
        for name in $(vm_names); do evidence_tail "$name"; done
        evidence_keep
    fi
    untraced leftovers_check $failed
}

# bats traces each command of a test, at some milliseconds in the rig: not in loops.
untraced() {
    local -
    set +T
    "$@"
}

nap() { read -rt "$1" -u "$NAP" _ || true; }
now() { printf '%(%s)T' -1; }

# wait_for [SECS] COMMAND...: 0 as soon as COMMAND succeeds, 1 at the limit.
wait_for() { untraced wait_for_loop "$@"; }
wait_for_loop() {
    local limit=10 end
    case $1 in [0-9]*) limit=$1; shift ;; esac
    end=$(($(now) + limit))
    until "$@"; do
        [ "$(now)" -lt "$end" ] || return 1
        nap 0.1
    done
}

fail() {
    echo "$*" >&2
    return 1
}

tool() {
    local name=$1 tree=${MINIVMM_CACHE:-$HOME/.cache/minivmm}/rig/root
    if command -v "$name" > /dev/null; then
        command -v "$name"
    elif [ -x "$tree/usr/bin/$name" ]; then
        # the rig's tree has it: run it there, by that tree's loader
        printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' \
            "$tree/lib64/ld-linux-x86-64.so.2" "$tree/usr/lib/x86_64-linux-gnu" \
            "$tree/usr/bin/$name" > "$D/$name"
        chmod +x "$D/$name"
        echo "$D/$name"
    else
        return 1
    fi
}

# need PROGRAM...: skip the test where one is not to be had.
need() {
    local p
    for p in "$@"; do
        tool "$p" > /dev/null || skip "$p is not installed"
    done
}

# ---- virtual machines ---------------------------------------------------------

vm_names() {
    local f
    for f in "$D"/*/vm.toml; do
        [ -e "$f" ] || continue
        f=${f%/vm.toml}
        echo "${f##*/}"
    done
}

vm_pid() { cat "$D/$1/pid"; }
vm_ended() { [ -e "$D/$1/status" ]; }
vm_console() { tr -d '\r' < "$D/$1/console"; }

guest_words() { printf 'minivmm.run64=%s' "$(base64 -w 0 <<< "$1")"; }

vm_boot() {
    local kind=$1
    shift
    cat << CONFIG
[vm]
cpus = ${CPUS:-1}
memory = "${MEMORY:-256M}"

[boot]
kernel = "$GUEST/$kind-${IMAGE:-bzImage}"
initrd = "$GUEST/$kind-initrd"
cmdline = '''console=ttyS0 panic=-1 quiet $*'''

CONFIG
}

# bats waits until nobody has its pipes any more: descriptor 3, and in setup_file 4.
# Its own process group with default signals: a background job of a plain shell
# would ignore SIGINT.  The FIFO is opened for both ways, so that its input never ends.
vm_start() {
    local name=$1 dir=$D/$1
    shift
    rm -rf "$dir"
    mkdir -p "$dir"
    cat > "$dir/vm.toml"
    mkfifo "$dir/in"
    : > "$dir/console"
    (
        set -m
        echo "$BASHPID" > "$dir/keeper"
        cd "$dir" || exit
        "$MINIVMM" -c "$dir/vm.toml" "$@" <> "$dir/in" > "$dir/console" 2> "$dir/stderr" 3>&- 4>&- &
        echo $! > "$dir/pid.new"
        mv "$dir/pid.new" "$dir/pid"
        rc=0
        wait $! || rc=$?
        echo $rc > "$dir/status.new"
        mv "$dir/status.new" "$dir/status"
    ) > /dev/null 2>&1 3>&- 4>&- &
    wait_for 10 test -e "$dir/pid" || fail "$name: not started"
}

# Wait for CONDITION..., while the machine lives; evidence when it does not come.
vm_wait() { untraced vm_wait_loop "$@"; }
vm_wait_loop() { # NAME SECS WHAT CONDITION...
    local name=$1 secs=$2 what=$3 end
    shift 3
    [ -e "$D/$name/console" ] || { fail "there is no machine called '$name'"; return 2; }
    end=$(($(now) + secs))
    until "$@"; do
        if vm_ended "$name"; then
            # its last words may have come in between
            if "$@"; then return 0; fi
            echo "$name: minivmm ended with status $(cat "$D/$name/status") before $what" >&2
            return 1
        fi
        if [ "$(now)" -ge "$end" ]; then
            echo "$name: no $what within $secs s" >&2
            evidence_hang "$name" "$what" >&2
            return 124
        fi
        nap 0.2
    done
}

console_has() { [ "$(vm_console "$1" | grep -aEc -- "$2")" -ge "$3" ]; }
vm_line() { vm_wait "$1" "${3:-$BOOT_SECS}" "console line '$2'" console_has "$1" "$2" 1; }
vm_count() { vm_wait "$1" "${4:-$BOOT_SECS}" "$3 console lines '$2'" console_has "$1" "$2" "$3"; }

vm_send() { printf '%s' "$2" > "$D/$1/in"; }

vm_guest() {
    local name=$1 secs=$COMMAND_SECS n
    shift
    if [ "$1" = -t ]; then
        secs=$2
        shift 2
    fi
    if [ ! -e "$D/$name/commands" ]; then
        vm_line "$name" '^MINIVMM-AGENT' || return
        echo 0 > "$D/$name/commands"
    fi
    n=$(($(cat "$D/$name/commands") + 1))
    echo $n > "$D/$name/commands"
    vm_send "$name" "c$n $(base64 -w 0 <<< "$*")"$'\n'
    vm_wait "$name" "$secs" "end of '$*'" console_has "$name" "^MINIVMM-END c$n [0-9]+" 1 || return 124
    vm_console "$name" | sed -n "/^MINIVMM-BEGIN c$n\$/,/^MINIVMM-END c$n /{//!p}" | sed '$d'
    return "$(vm_console "$name" | sed -n "s/^MINIVMM-END c$n //p")"
}

vm_result() {
    local name=$1
    vm_wait "$name" "${2:-$BOOT_SECS}" "guest's result" console_has "$name" '^MINIVMM-EXIT [0-9]+' 1 || return 124
    vm_console "$name" | sed -n '/^MINIVMM-INIT$/,/^MINIVMM-EXIT /{//!p}' | sed '$d'
    return "$(vm_console "$name" | sed -n 's/^MINIVMM-EXIT //p' | tail -n 1)"
}

vm_exit() {
    vm_wait "$1" "${2:-$STOP_SECS}" "end of minivmm" vm_ended "$1" || return 124
    return "$(cat "$D/$1/status")"
}

vm_stop() {
    vm_ended "$1" || kill -TERM "$(vm_pid "$1")"
    vm_exit "$@"
}

# ---- other programs -----------------------------------------------------------

program_disk() { # IMAGE PROGRAM
    local f dir=$D/program
    mkdir -p "$dir/lib"
    cp -L "$(command -v "$2")" "$dir/"
    ldd "$dir/$2" | sed -n 's,^[^/]*\(/[^ ]*\) (.*,\1,p' | while read -r f; do cp -L "$f" "$dir/lib/"; done
    cp -L "$(dirname "$(ldd "$dir/$2" | sed -n 's,.* => \(.*libc\.so\.6\) .*,\1,p')")/libgcc_s.so.1" "$dir/lib/" # libc loads it to end a thread
    truncate -s 24M "$1"
    mke2fs -q -t ext4 -O ^has_journal -d "$dir" "$1"
}
on_disk() { echo "/s/lib/ld-linux-x86-64.so.2 --library-path /s/lib /s/$1"; }

peer_start() {
    local name=$1
    shift
    (
        set -m
        "$@" < /dev/null > "$D/$name.log" 2>&1 3>&- 4>&- &
        echo $! > "$D/$name.pid"
    )
}

peer_pid() { cat "$D/$1.pid"; }
pid_gone() { ! kill -0 "$1" 2> /dev/null; }

peer_stop() {
    local pid
    pid=$(peer_pid "$1")
    kill -TERM "$pid" 2> /dev/null || true
    if ! wait_for 10 pid_gone "$pid"; then
        kill -KILL "$pid"
        fail "$1 (pid $pid) did not end on SIGTERM"
    fi
}

listens() { grep -q "^[^ ]* [^ ]* [^ ]* 00010000 .* $1\$" /proc/net/unix; }
socket_wait() { wait_for "${2:-10}" listens "$1" || fail "nobody listens on $1"; }
