# Our device programs are anybody's: the same disk under QEMU, and back; a network and random numbers.
# weight: 45
load lib/helpers

@test "minivmm-blk under QEMU as the front-end, packed ring: fio, ext4, a tree, and what the host reads" {
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
        cut -c 35 /sys/block/vda/device/features # RING_PACKED
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
        -chardev "socket,id=c0,path=$D/blk.sock" -device vhost-user-blk-pci,chardev=c0,num-queues=2,packed=on \
        -chardev "socket,id=c1,path=$D/tools.sock" -device vhost-user-blk-pci,chardev=c1,num-queues=1
    touch "$D/q/console"
    cp "$D/q.pid" "$D/q/pid"
    run -0 vm_result q 220
    [ "${lines[0]}" = under-qemu ]
    [ "${lines[1]}" = 1 ]
    grep -E '^[0-9a-f]{64}  ' <<< "$output" > "$D/sums"
    [ "$(wc -l < "$D/sums")" -ge 10 ]
    wait_for 15 pid_gone "$(peer_pid q)" || fail "QEMU does not end"
    # a front-end that left may be followed by another, and the disk is whole
    ! pid_gone "$(peer_pid blk)" || fail "minivmm-blk ended with its front-end"
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

got_all() { [ "$(stat -c %s "$D/got")" = 4194304 ]; }

@test "minivmm-net and minivmm-rng under QEMU as the front-end, packed rings: a file each way, random numbers" {
    local words
    need qemu-system-x86_64 socat
    modprobe tun 2> /dev/null || true
    [ -w /dev/net/tun ] && [ "$(id -u)" = 0 ] || skip "no right to make a tap"
    ip tuntap add mini-q mode tap
    ip addr add 10.0.1.254/24 dev mini-q
    ip link set mini-q up
    peer_start net "$TOP/minivmm-net" --vhost-user "$D/net.sock" --tap mini-q
    peer_start rng "$TOP/minivmm-rng" --vhost-user "$D/rng.sock"
    socket_wait "$D/net.sock"
    socket_wait "$D/rng.sock"
    head -c 4194304 /dev/urandom > "$D/file"
    peer_start get socat -u TCP-LISTEN:5002,reuseaddr "CREATE:$D/got"
    peer_start put socat -u "OPEN:$D/file" TCP-LISTEN:5003,reuseaddr
    words=$(guest_words '
        cut -c 35,36 /sys/class/net/eth0/device/features # RING_PACKED, IN_ORDER
        ip addr add 10.0.1.1/24 dev eth0 && ip link set eth0 up
        ping -c 3 -W 5 10.0.1.254 > /run/ping || cat /run/ping
        head -c 4194304 /dev/urandom > /run/file
        until nc 10.0.1.254 5002 < /run/file > /dev/null 2>&1; do sleep 0.2; done
        sha256sum < /run/file
        until nc 10.0.1.254 5003 < /dev/null > /run/got; do sleep 0.2; done
        sha256sum < /run/got
        cat /sys/class/misc/hw_random/rng_current
        cut -c 35 /sys/bus/virtio/drivers/virtio_rng/virtio*/features
        dd if=/dev/hwrng of=/run/numbers bs=512 count=64 iflag=fullblock 2> /dev/null
        gzip -c /run/numbers | wc -c')
    mkdir "$D/q"
    touch "$D/q/vm.toml" "$D/q/stderr" "$D/q/console"
    peer_start q qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 -accel kvm -cpu host \
        -m 128 -object memory-backend-memfd,id=mem,size=128M,share=on -machine memory-backend=mem \
        -kernel "$GUEST/rig-bzImage" -initrd "$GUEST/rig-initrd" -serial "file:$D/q/console" \
        -append "console=ttyS0 panic=-1 quiet $words" -chardev "socket,id=c0,path=$D/net.sock" \
        -netdev vhost-user,id=n0,chardev=c0 -device virtio-net-pci,netdev=n0,packed=on \
        -chardev "socket,id=c1,path=$D/rng.sock" -device vhost-user-rng-pci,chardev=c1
    cp "$D/q.pid" "$D/q/pid"
    run -0 vm_result q 120
    echo "$output"
    [[ "${lines[0]}" = 1? ]]
    wait_for 15 pid_gone "$(peer_pid q)" || fail "QEMU does not end"
    wait_for 5 got_all
    [ "${lines[1]}" = "$(sha256sum < "$D/got")" ]
    [ "${lines[2]}" = "$(sha256sum < "$D/file")" ]
    [[ ${lines[3]} = virtio_rng.* ]]
    [ "${lines[4]}" = 1 ]
    [ "${lines[5]}" -gt 32768 ] # nothing to compress
    peer_stop net
    peer_stop rng
    rm -f "$D/net.sock" "$D/rng.sock"
    ip link del mini-q
}
