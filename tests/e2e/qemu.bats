# minivmm-blk is anybody's device: the same disk under QEMU, and back.
# weight: 45
load lib/helpers

@test "minivmm-blk under QEMU as the front-end: fio, ext4, a tree, and what the host reads" {
    local words
    need qemu-system-x86_64 e2fsck debugfs
    truncate -s 48M "$D/disk.img"
    peer_start blk "$MINIVMM_BLK" --vhost-user "$D/blk.sock" --image "$D/disk.img" --serial under-qemu --queues 2
    peer_start tools "$MINIVMM_BLK" --vhost-user "$D/tools.sock" --image "$GUEST/tools.img" --readonly
    socket_wait "$D/blk.sock"
    socket_wait "$D/tools.sock"
    words=$(guest_words '
        set -e
        cat /sys/block/vda/serial; echo
        cd /run
        fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=16M --verify=crc32c \
            --verify_fatal=1 --do_verify=1 --minimal --name=a --filename=/dev/vda > fio.out || { cat fio.out; exit 1; }
        modprobe ext4
        mkfs.ext4 -q -E lazy_itable_init=0 /dev/vda
        mount /dev/vda /mnt
        cp -a /tools/usr/bin /mnt/tree
        umount /mnt
        mount -o ro /dev/vda /mnt
        cd /mnt/tree
        find . -type f | sort | xargs sha256sum
        cd /; umount /mnt')
    mkdir "$D/q"
    touch "$D/q/vm.toml" "$D/q/stderr"
    peer_start q qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 -accel kvm -cpu host \
        -smp 2 -m 384 -object memory-backend-memfd,id=mem,size=384M,share=on -machine memory-backend=mem \
        -kernel "$GUEST/debian-bzImage" -initrd "$GUEST/debian-initrd" -serial "file:$D/q/console" \
        -append "console=ttyS0 panic=-1 quiet minivmm.tools=/dev/vdb $words" \
        -chardev "socket,id=c0,path=$D/blk.sock" -device vhost-user-blk-pci,chardev=c0,num-queues=2 \
        -chardev "socket,id=c1,path=$D/tools.sock" -device vhost-user-blk-pci,chardev=c1,num-queues=1
    touch "$D/q/console"
    cp "$D/q.pid" "$D/q/pid"
    run -0 vm_result q 150
    [ "${lines[0]}" = under-qemu ]
    grep -E '^[0-9a-f]{64}  ' <<< "$output" > "$D/sums"
    [ "$(wc -l < "$D/sums")" -ge 10 ]
    wait_for 15 pid_gone "$(peer_pid q)" || fail "QEMU does not end"
    # a front-end that left may be followed by another, and the disk is whole
    ! pid_gone "$(peer_pid blk)"
    {
        vm_boot rig 'minivmm.run="mount -o ro /dev/vda /mnt && cd /mnt/tree && find . -type f | sort | xargs sha256sum"'
        printf '[[device]]\nid = "again"\nvirtio = "blk"\nvia = "vhost-user"\nsocket = "%s"\n' "$D/blk.sock"
    } | vm_start a
    run -0 vm_result a
    [ "$(grep -E '^[0-9a-f]{64}  ' <<< "$output" | sha256sum)" = "$(sha256sum < "$D/sums")" ]
    vm_exit a
    peer_stop blk
    peer_stop tools
    rm -f "$D/blk.sock" "$D/tools.sock"
    e2fsck -fn "$D/disk.img"
    mkdir "$D/out"
    debugfs -R "rdump /tree $D/out" "$D/disk.img" 2> /dev/null
    (cd "$D/out/tree" && sha256sum --quiet -c "$D/sums")
}
