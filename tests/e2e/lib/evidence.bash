# shellcheck shell=bash
# evidence.bash - keep what is needed to understand a failure: called by
# helpers.bash when a limit is reached or a test has failed.  It changes nothing
# but makes minivmm print its registers.

evidence_dir() {
    local dir
    dir=$MINIVMM_EVIDENCE/$(basename "$BATS_TEST_FILENAME" .bats)-$BATS_TEST_NUMBER
    mkdir -p "$dir"
    echo "$dir"
}

evidence_tail() { # NAME
    echo "--- $1: the end of its console"
    tail -n 30 "$D/$1/console" | tr -d '\r'
    echo "--- $1: the end of its stderr"
    grep -v ': CPU [0-9]*: ' "$D/$1/stderr" | tail -n 20 # without the registers, which are asked for last
    dmesg 2> /dev/null | grep 'audit: type=1326' | tail -n 3 || true # whom a filter killed, and for which call
    echo "---"
}

# Each thread of a process: what it is called and what it is doing.
evidence_threads() { # PID
    local t f
    for t in "/proc/$1"/task/[0-9]*; do
        echo "== ${t#/proc/}"
        for f in comm wchan syscall stack status; do
            echo "-- $f"
            cat "$t/$f" 2>&1
            echo
        done
    done
}

# The process and all that descend from it.
evidence_family() { # PID
    local c
    echo "$1"
    cat "/proc/$1"/task/*/children 2> /dev/null | tr ' ' '\n' | while read -r c; do
        [ -z "$c" ] || evidence_family "$c"
    done
}

evidence_hang() { # NAME WHAT
    local name=$1 dir pid p
    dir=$(evidence_dir)
    pid=$(vm_pid "$name")
    {
        echo "$name: waited in vain for: $2"
        date
        uptime
        ps -eo pid,ppid,stat,pcpu,time,wchan:24,args
    } > "$dir/$name.hang" 2>&1
    for p in $(evidence_family "$pid"); do
        evidence_threads "$p" > "$dir/$name.threads.$p" 2>&1
    done
    # twice: registers that stand still are a deadlock, moving ones a loop
    kill -USR1 "$pid" 2> /dev/null && nap 1
    kill -USR1 "$pid" 2> /dev/null && nap 1
    if command -v gdb > /dev/null; then
        timeout 60 gdb -q -batch -p "$pid" -ex 'thread apply all backtrace' \
            > "$dir/$name.gdb" 2>&1 < /dev/null 3>&- || true
    fi
    dmesg 2> /dev/null | tail -n 50 > "$dir/$name.dmesg" || true
    echo "evidence: $dir"
}

# The text files of a test that failed.
evidence_keep() {
    local dir
    dir=$(evidence_dir)
    (cd "$D" && find . -type f -size -2M ! -name '*.img' ! -name '*.raw' -print0 |
        tar -cf - --null -T -) | tar -C "$dir" -xf -
    echo "kept in $dir"
}
