# Memory that one vhost-user back-end shares with another through minivmm (SHARED_OBJECT), of the kind that devices share: a dma-buf.
# weight: 25
load lib/helpers

teardown() {
    local p
    [ ! -e "$D/a/pid" ] || vm_ended a || kill -KILL "$(vm_pid a)" || true
    for p in owner asker; do
        ! [ -e "$D/$p.pid" ] || kill -KILL "$(peer_pid $p)" 2> /dev/null || true
    done
    e2e_teardown
}

object_disk() { # NAME ROLE: the table of a disk whose back-end has that role
    peer_start "$1" "$TOP/tests/guest/object-back-end" "$D/$1.sock" "$2"
    socket_wait "$D/$1.sock"
    disks+=("[[device]]" "id = \"$1\"" 'via = "vhost-user"' 'virtio = "blk"' "socket = \"$D/$1.sock\"")
}

texts() { # DISK...: what each shows, a line
    vm_guest a "for d in $*; do dd if=/dev/\$d bs=4096 count=1 iflag=direct 2> /dev/null | tr -d '\0'; echo; done"
}

@test "a dma-buf: its user finds it by its UUID, reads what the owner wrote, also later; it is gone with the owner" {
    local disks=() n=0
    need python3
    [ -e /dev/udmabuf ] || modprobe -q udmabuf || true
    [ -w /dev/udmabuf ] || skip "this kernel makes no dma-buf of a memfd (CONFIG_UDMABUF), or this user may not"
    object_disk owner dma-buf
    object_disk asker asker
    { vm_boot rig minivmm.agent; printf '%s\n' "${disks[@]}"; } | vm_start a
    for _ in 1 2; do
        run -0 texts vda vdb
        [[ ${lines[0]} =~ ^object\ ([0-9]+)\ of\ $(peer_pid owner)$ ]] || fail "$output"
        [ "${BASH_REMATCH[1]}" -gt $n ] || fail "$output"
        n=${BASH_REMATCH[1]}
        [ "${lines[1]}" = "dma-buf ${lines[0]}" ] || fail "$output"
    done
    kill -KILL "$(peer_pid owner)"
    wait_for 10 grep -q 'owner: ' "$D/a/stderr"
    run -0 texts vdb
    [ "$output" = nothing ] || fail "$output"
    rm "$D/owner.sock"
    object_disk owner dma-buf
    run -0 texts vda vdb
    [[ ${lines[0]} == "object "*" of $(peer_pid owner)" && ${lines[1]} == "dma-buf ${lines[0]}" ]] || fail "$output"
    vm_stop a
    peer_stop owner
    peer_stop asker
    rm "$D"/*.sock
}
