# shellcheck shell=bash
# leftovers.bash - notice what a test leaves behind.  In the rig every new
# process, file and mount counts; on a machine that others use, what is minivmm's
# or a peer's by its name.  Called by setup and teardown of helpers.bash.

leftover_names='^(minivmm|qemu|virtiofsd|passt|fio|socat)'

# Without a fork, so as not to count its own children: "PID COMM" into the array named.
# shellcheck disable=SC2034
leftovers_processes() { # ARRAY
    local -n list=$1
    local d stat rest
    list=()
    for d in /proc/[0-9]*; do
        { read -r stat < "$d/stat"; } 2> /dev/null || continue
        rest=${stat##*) }
        # children of kthreadd are the kernel's; zombies await their parent
        case $rest in Z*) continue ;; esac
        rest=${rest#* }
        case ${rest%% *} in 0 | 2) [ "${d##*/}" = 1 ] || continue ;; esac
        stat=${stat#*(}
        list[${d##*/}]=${stat%)*}
    done
}

leftovers_files() {
    local at=(/tmp /run /dev/shm /var/tmp)
    local name='*'
    [ -n "${IN_RIG:-}" ] || name='*minivmm*'
    find "${at[@]}" -mindepth 1 -maxdepth 2 -name "$name" -not -path "$BATS_RUN_TMPDIR*" \
        -not -path '/tmp/bats-*' -not -path "${MINIVMM_EVIDENCE}*" 2> /dev/null | sort
}

leftovers_note() {
    leftovers_files > "$BATS_TEST_TMPDIR/files"
    cat /proc/self/mounts > "$BATS_TEST_TMPDIR/mounts"
    leftovers_processes LEFTOVERS_BEFORE
}

leftovers_new() {
    local pid f keepers=' '
    local -a after
    new=()
    leftovers_processes after
    # the shells of vm_start, which end with their machines
    for f in "$D"/*/keeper; do
        [ ! -e "$f" ] || keepers+="$(< "$f") "
    done
    for pid in "${!after[@]}"; do
        [ "${LEFTOVERS_BEFORE[pid]-}" != "${after[pid]}" ] || continue
        [ "$pid" != "$BASHPID" ] || continue
        case $keepers in *" $pid "*) continue ;; esac
        if [ -z "${IN_RIG:-}" ] && ! [[ ${after[pid]} =~ $leftover_names ]]; then continue; fi
        new+=("$pid")
    done
    [ ${#new[@]} = 0 ]
}

# FAILED: the test has failed already: clean up, and blame it for nothing more.
leftovers_check() {
    local failed=$1 pid bad=0 f
    local -a new
    # what was told to end may need a moment
    if [ "$failed" = 0 ]; then wait_for "${LEFTOVER_SECS:-3}" leftovers_new || true; else leftovers_new || true; fi
    for pid in "${new[@]}"; do
        if [ "$failed" = 0 ]; then
            echo "left behind: process $pid: $(tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null)"
            bad=1
        fi
        kill -KILL "$pid" 2> /dev/null || true
    done
    [ ${#new[@]} = 0 ] || wait_for 5 leftovers_new || echo "left behind: it does not die of SIGKILL: ${new[*]}"
    [ "$failed" = 0 ] || return 0
    while read -r f; do
        echo "left behind: $f"
        bad=1
    done < <(
        find "$D" -type s
        find "$TMPDIR" -mindepth 1
        leftovers_files | comm -13 "$BATS_TEST_TMPDIR/files" -
        comm -13 <(sort "$BATS_TEST_TMPDIR/mounts") <(sort /proc/self/mounts) | sed 's/^/mount /'
    )
    return $bad
}
