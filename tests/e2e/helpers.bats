# The rig and the helpers themselves: a suite that cannot notice a failure proves nothing.
# weight: 40
load lib/helpers

@test "every kind of leftover fails its test" {
    local f=$TOP/tests/e2e/lib/fixtures/leftovers.bats kinds
    [ -n "${IN_RIG:-}" ] || skip "leaves things behind on purpose: only in the rig"
    kinds=$(grep -c '^@test' "$f")
    LEFTOVER_SECS=1 run -1 env -u BATS_TEST_TIMEOUT TMPDIR="$D" bats --tap "$f"
    echo "$output"
    [ "$(grep -c '^not ok' <<< "$output")" = "$kinds" ]
    [ "$(grep -c '^ok' <<< "$output")" = 0 ]
    [ "$(grep -c '^# left behind: ' <<< "$output")" -ge "$kinds" ]
    umount "$D"/bats-run-*/test/*/d 2> /dev/null || true
    rm -rf /tmp/minivmm-* /dev/shm/minivmm-* "${D:?}"/bats-run-*
}

@test "a machine that ends early is told apart from one that is slow" {
    mkdir "$D/bin"
    printf '#!/bin/sh\necho last words\nexit 3\n' > "$D/bin/dies"
    chmod +x "$D/bin/dies"
    MINIVMM=$D/bin/dies vm_start a < /dev/null
    run -0 vm_line a 'last words' 5
    run -1 vm_line a 'never said' 5
    [[ $output == *"minivmm ended with status 3 before"* ]]
    run -3 vm_exit a
}

@test "a machine that hangs leaves evidence" {
    printf '#!/bin/sh\ntrap "echo registers >&2" USR1\necho here\nwhile :; do sleep 1; done\n' > "$D/hangs"
    chmod +x "$D/hangs"
    MINIVMM=$D/hangs vm_start a < /dev/null
    run -124 vm_line a 'never said' 2
    [[ $output == *"evidence: "* ]]
    local e=$MINIVMM_EVIDENCE/helpers-$BATS_TEST_NUMBER
    grep -q "waited in vain for: console line 'never said'" "$e/a.hang"
    grep -q '^-- syscall' "$e/a.threads.$(vm_pid a)"
    grep -q '^registers' "$D/a/stderr"
    rm -rf "$e"
    kill -KILL "-$(vm_pid a)"
    run vm_exit a 5
}

@test "a limit is kept" {
    run -1 wait_for 2 false
    run -1 socket_wait "$D/nobody" 1
}

@test "the host of the guests lets device processes build their jail" {
    run -0 unshare -Urmpnf --uts --ipc --cgroup sh -c '
        mount -t tmpfs none /mnt && mkdir /mnt/old && cd /mnt && pivot_root . old'
    grep -q ' /sys/fs/cgroup cgroup2 ' /proc/self/mounts
}
