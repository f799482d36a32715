# Disks that are other processes: somebody's daemon and our own in one guest, and one that we are told to start.
# weight: 65
load lib/helpers

device() { # ID LINE...
    printf '[[device]]\nid = "%s"\nvirtio = "blk"\n' "$1"
    shift
    printf '%s\n' "$@"
}

# Where a file is no memory of its host's: minivmm-blk then uses io_uring.
disk_dir() {
    mkdir "$D/fs"
    [ "$(stat -fc %T "$D")" = tmpfs ] && [ "$(id -u)" = 0 ] || return 0
    modprobe -q loop || true
    truncate -s 200M "$D/fs.img"
    mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=0 "$D/fs.img"
    mount -o loop "$D/fs.img" "$D/fs"
}
teardown() {
    ! mountpoint -q "$D/fs" || umount "$D/fs" || umount -l "$D/fs"
    e2e_teardown
}

# An unmounted ext4 image, read by programs of this host's: sound, and each file as in the list.
image_holds() { # IMAGE LIST
    e2fsck -fn "$1"
    mkdir "$D/out"
    debugfs -R "rdump /tree $D/out" "$1" 2> /dev/null
    (cd "$D/out/tree" && sha256sum --quiet -c "$2")
    [ "$(find "$D/out" -type f | wc -l)" = "$(wc -l < "$2")" ]
    rm -rf "$D/out"
}

@test "qemu-storage-daemon (split ring) and minivmm-blk (packed) in one guest: fio, ext4, a tree, a reboot, and what the host reads" {
    need qemu-storage-daemon e2fsck debugfs mke2fs
    disk_dir
    truncate -s 64M "$D/fs/theirs.img" "$D/fs/ours.img"
    peer_start qsd qemu-storage-daemon \
        --blockdev "driver=file,node-name=f,filename=$D/fs/theirs.img,discard=unmap" \
        --export "type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path=$D/qsd.sock"
    socket_wait "$D/qsd.sock"
    {
        CPUS=2 MEMORY=384M vm_boot debian minivmm.agent minivmm.tools=/dev/vdc
        device theirs 'via = "vhost-user"' "socket = \"$D/qsd.sock\""
        device ours "image = \"$D/fs/ours.img\""
        device tools "image = \"$GUEST/tools.img\"" 'readonly = true'
    } | vm_start a

    run -0 vm_guest a 'cut -c 35 /sys/block/vda/device/features; cut -c 35 /sys/block/vdb/device/features'
    [ "$output" = $'0\n1' ]
    # fio reads back each block that it wrote, and knows which belongs where
    run -0 vm_guest a -t 120 '
        cd /run
        fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=24M \
            --verify=crc32c --verify_fatal=1 --do_verify=1 --time_based=0 --minimal \
            --name=theirs --filename=/dev/vda --name=ours --filename=/dev/vdb > fio.out
        rc=$?
        cut -d ";" -f 1-3,5,6,47 fio.out
        exit $rc'
    echo "$output"
    run -0 vm_guest a -t 120 '
        set -e
        cd /tools/usr && find bin share -type f | sort | xargs sha256sum > /run/sums
        modprobe ext4
        for d in vda vdb; do
            mkfs.ext4 -q -E lazy_itable_init=0,nodiscard /dev/$d
            mkdir -p /mnt/$d
            mount /dev/$d /mnt/$d
            mkdir /mnt/$d/tree
            cp -a bin share /mnt/$d/tree/
            umount /mnt/$d
        done
        cat /run/sums'
    grep -E '^[0-9a-f]{64}  ' <<< "$output" > "$D/sums"
    [ "$(wc -l < "$D/sums")" -ge 10 ]
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a -t 120 '
        set -e
        for d in vda vdb; do
            mkdir -p /mnt/$d
            mount -o ro /dev/$d /mnt/$d
            (cd /mnt/$d/tree && find bin share -type f | sort | xargs sha256sum) | sha256sum
            umount /mnt/$d
        done'
    sum=$(sha256sum < "$D/sums")
    [ "$output" = "$sum"$'\n'"$sum" ] || fail "after the reboot: $output, written: $sum"
    vm_stop a
    peer_stop qsd
    rm -f "$D/qsd.sock"
    image_holds "$D/fs/theirs.img" "$D/sums"
    image_holds "$D/fs/ours.img" "$D/sums"
}

@test "a back-end that minivmm starts: exec, {fd}, sandbox = none" {
    local blk
    truncate -s 16M "$D/disk.img"
    {
        vm_boot rig minivmm.agent
        device mine 'via = "vhost-user"' 'sandbox = "none"' \
            "exec = [\"$MINIVMM_BLK\", \"--fd={fd}\", \"--image=$D/disk.img\", \"--serial=by-exec\"]"
    } | vm_start a
    run -0 vm_guest a 'cat /sys/block/vda/serial; echo; printf "%s\n" hello | dd of=/dev/vda bs=512 seek=7 conv=sync,fsync 2> /dev/null'
    [ "$output" = by-exec ]
    [ "$(dd if="$D/disk.img" bs=1 skip=3584 count=5 2> /dev/null)" = hello ]
    # our child, and in no name space of the launcher's making
    blk=$(pgrep -P "$(vm_pid a)" -x minivmm-blk)
    vm_stop a
    wait_for 3 pid_gone "$blk"
}
