# What scenarios are made of: a configuration, a monitor that runs, and what becomes of it.
# shellcheck shell=bash disable=SC2034,SC2119,SC2120

LIMIT=20 # seconds for one run

# A guest of many exits and doorbell changes: seconds on an idle machine, ten times that on one with much else to do.
slow() { LIMIT=90; }

# ---- results ---------------------------------------------------------------------------------------------------

ok() { echo "ok - $label$1" >> "$T/tap"; }
not_ok() { # NAME WHY
    echo "not ok - $label$1" >> "$T/tap"
    echo "# $2" >> "$T/tap"
    failed=1
}
skip() { echo "ok - $label$1 # skip $2" >> "$T/tap"; }
# check NAME COMMAND...: the command's status is the result
check() {
    local name=$1
    shift
    if "$@"; then ok "$name"; else not_ok "$name" "$*"; fi
}

evidence() {
    local f
    for f in "$T/console" "$T/log" "$T.stderr"; do
        [ -s "$f" ] || continue
        echo "# ---- ${f##*/}"
        tail -n 40 "$f" | tr -d '\000' | cut -c 1-300 | sed 's/^/# /'
    done
}

run_one() {
    label="$1: " failed='' pid='' disks=()
    T=$WORK/$1
    mkdir "$T"
    "scenario_$1"
    [ -z "$pid" ] || finish
    leftovers
    {
        cat "$T/tap"
        [ -z "$failed" ] || evidence
        echo "# scenario $1"
    } 2>&1
}

# ---- the machine -----------------------------------------------------------------------------------------------

# machine GUEST CMDLINE [CPUS]
machine() {
    disks=()
    cat > "$T/vm.toml" << END
[vm]
memory = "64M"
cpus = ${3:-1}
on_reboot = "${on_reboot:-exit}"
[boot]
kernel = "$GUESTS/$1.elf"
cmdline = "cpus=${3:-1} memory=64 $2"
END
    rm -f "$T/console" "$T/log" "$T/in"
    : > "$T/console"
}

# disk ID [LINE]...: a disk of 4 MiB, with these lines of TOML
disk() {
    local id=$1
    shift
    [ -e "$T/$id.img" ] || truncate -s 4M "$T/$id.img"
    disks+=("$T/$id.img")
    {
        printf '[[device]]\nid = "%s"\nvirtio = "blk"\nimage = "%s.img"\n' "$id" "$id"
        [ $# = 0 ] || printf '%s\n' "$@"
    } >> "$T/vm.toml"
}

two_disks() { disk disk0 'queues = 2'; disk disk1; }

# In the background; its standard input is a pipe that `tell` writes to.
start() {
    mkfifo "$T/in"
    exec {in}<> "$T/in"
    "$MINIVMM" -v -c "$T/vm.toml" "$@" < "$T/in" > "${out:-$T/console}" 2> "${err:-$T/log}" {in}>&- &
    pid=$!
}

tell() { printf '%s\n' "$1" > "$T/in"; }

# wait_for SECONDS COMMAND...: until the command succeeds
wait_for() {
    local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
    shift
    until "$@"; do
        [ "${EPOCHREALTIME/./}" -lt "$end" ] || return 1
        sleep 0.01
    done
}

has_line() { grep -aqF -- "$1" "$T/console" 2> /dev/null; }
wait_line() { wait_for 10 has_line "$1" || not_ok "waits for \"$1\"" "the guest did not print it"; }
log_has() { grep -aqF -- "$1" "$T/log" 2> /dev/null; }
gone() { ! kill -0 "$1" 2> /dev/null || [ "$(ps -o stat= -p "$1" | cut -c 1)" = Z ]; }
child() { pgrep -P "$pid" -f -- "--serial=$1( |\$)"; } # the process behind a disk

# Waits for the monitor's end: $rc, and $took in milliseconds.
finish() {
    local begin=${EPOCHREALTIME/./}
    if ! wait_for "${1:-$LIMIT}" gone "$pid"; then
        not_ok "ends" "still there after ${1:-$LIMIT} s; registers are in the log"
        kill -USR1 "$pid"
        sleep 0.3
        kill -KILL "$pid"
    fi
    wait "$pid" 2> /dev/null
    rc=$?
    took=$(((${EPOCHREALTIME/./} - begin) / 1000))
    pid=''
    [ -z "${in:-}" ] || exec {in}>&-
    in=''
}

# No process of the machine is left: its images are not locked any more.
unlocked() {
    local i
    for i in "${disks[@]}"; do
        ! grep -q ":$(stat -c %i "$i") " /proc/locks || return 1
    done
}
leftovers() {
    [ ${#disks[@]} = 0 ] || wait_for 1 unlocked || not_ok "leaves no process behind" "an image is still locked"
}

# The guest's own results.
report() {
    local line
    while IFS= read -r line; do
        case $line in
        PASS\ *) ok "${line#PASS }" ;;
        SKIP\ *) skip "${line#SKIP }" "see the guest" ;;
        FAIL\ *) not_ok "${line#FAIL }" "" ;;
        esac
    done < <(tr -d '\000' < "$T/console")
    grep -aqE '^[0-9]+ passed, 0 failed, [0-9]+ skipped$' "$T/console" ||
        not_ok "runs to its end" "no line that counts the results"
    [ "$rc" = 0 ] || not_ok "the machine ends well" "exit status $rc"
}

# A guest that needs nothing from outside.
go() {
    start "$@"
    finish
    report
}
