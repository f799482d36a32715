# What a guest's driver can ask of minivmm-blk besides reading and writing.
# weight: 28
load lib/helpers

device() { # ID IMAGE LINE...
    printf '[[device]]\nid = "%s"\nvirtio = "blk"\nimage = "%s"\n' "$1" "$2"
    shift 2
    printf '%s\n' "$@"
}

allocated_kb() { stat -c '%b %B' "$1" | awk '{ print int($1 * $2 / 1024) }'; }

@test "read-only, 4096-byte blocks, discard, write zeros, flush, write cache, serial" {
    local sum before filled
    head -c 1M /dev/urandom > "$D/ro.img"
    truncate -s 64M "$D/rw.img" "$D/big.img"
    sum=$(sha256sum < "$D/ro.img")
    {
        vm_boot debian minivmm.agent minivmm.tools=/dev/vdd
        device disk0 "$D/ro.img" 'readonly = true' 'serial = "twenty-bytes-long-01"'
        device disk1 "$D/rw.img" 'poll = true' 'cpus = "0-1"'
        device disk2 "$D/big.img" 'block_size = 4096'
        device tools "$GUEST/tools.img" 'readonly = true'
    } | vm_start a

    run -0 vm_guest a 'cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial; echo; cat /sys/block/vd[abc]/ro
        cat /sys/block/vd[abc]/queue/logical_block_size'
    [ "$output" = $'twenty-bytes-long-01\ndisk1\n1\n0\n0\n512\n512\n4096' ] || fail "$output"

    # read-only: all of it is read, nothing is written
    run -0 vm_guest a 'sha256sum < /dev/vda; ! dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2> /dev/null'
    [ "$output" = "$sum" ]
    [ "$(sha256sum < "$D/ro.img")" = "$sum" ]

    # blocks of 4096 bytes: none smaller is to be had, and all end up where they belong
    run -0 vm_guest a '
        /tools/usr/bin/dd if=/dev/vdc of=/dev/null bs=512 count=1 iflag=direct 2> /dev/null && echo "512 read"
        yes block | head -c 12288 > /run/b
        /tools/usr/bin/dd if=/run/b of=/dev/vdc bs=4k seek=100 oflag=direct 2> /dev/null
        sha256sum < /run/b'
    [ "$output" = "$(dd if="$D/big.img" bs=4k skip=100 count=3 2> /dev/null | sha256sum)" ] || fail "$output"

    # discard gives memory back to the host
    run -0 vm_guest a -t 120 '
        set -e
        modprobe ext4
        mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 /dev/vdb
        mount /dev/vdb /mnt
        dd if=/dev/urandom of=/mnt/file bs=1M count=24 2> /dev/null
        sync'
    filled=$(allocated_kb "$D/rw.img")
    [ "$filled" -ge $((24 << 10)) ]
    run -0 vm_guest a 'rm /mnt/file && sync && fstrim -v /mnt && umount /mnt'
    echo "$output"
    [ "$(allocated_kb "$D/rw.img")" -le $((filled - (20 << 10))) ] ||
        fail "allocated before fstrim: $filled KiB, after: $(allocated_kb "$D/rw.img")"
    e2fsck -fn "$D/rw.img"

    # write zeros, and flush
    run -0 vm_guest a '
        set -e
        dd if=/dev/urandom of=/dev/vdc bs=1M count=2 conv=fsync 2> /dev/null
        [ $(cat /sys/block/vdc/queue/write_zeroes_max_bytes) -gt 0 ]
        /tools/usr/bin/blkdiscard -z -o 1048576 -l 524288 /dev/vdc
        set -- $(cat /sys/block/vdc/stat)
        echo flushes $([ ${16} -gt 0 ] && echo some)
        cat /sys/block/vdc/cache_type
        echo "write through" > /sys/block/vdc/cache_type
        cat /sys/block/vdc/cache_type
        dd if=/dev/zero of=/dev/vdc bs=4k seek=1000 count=1 conv=fsync 2> /dev/null'
    [ "$output" = $'flushes some\nwrite back\nwrite through' ] || fail "$output"
    cmp -n 524288 -i 1048576:0 "$D/big.img" /dev/zero
    ! cmp -s -n 1048576 "$D/big.img" /dev/zero || false
    ! cmp -s -n 4096 -i 1572864:0 "$D/big.img" /dev/zero || false
    vm_stop a
}

@test "R04: a bad place of the host's disk is an I/O error of the guest there and nowhere else; the device lives" {
    local loop pid before after e
    [ -n "${IN_RIG:-}" ] || skip "makes a device of the host's: only in the rig"
    need dmsetup losetup
    modprobe -a loop dm-mod
    head -c 8M /dev/urandom > "$D/before"
    cp "$D/before" "$D/bad.img"
    loop=$(losetup --show -f "$D/bad.img")
    # 4 KiB at 2 MiB
    printf '0 4096 linear %s 0\n4096 8 error\n4104 12280 linear %s 4104\n' "$loop" "$loop" > "$D/table"
    export DM_DISABLE_UDEV=1 # there is none
    dmsetup create mini-bad "$D/table"
    dmsetup create mini-bad-too "$D/table"
    {
        vm_boot debian minivmm.agent
        device disk0 /dev/mapper/mini-bad
        device disk1 /dev/mapper/mini-bad-too 'direct = true'
    } | vm_start a
    pid=$(pgrep -P "$(vm_pid a)" -f -- --serial=disk1)
    # A write's error is told by the flush.  What the guest has in its own memory it does not ask for again.
    run -0 vm_guest a -t 120 'dmesg -n 1
        forget() { echo 3 > /proc/sys/vm/drop_caches; }
        read_bad() { forget; dd if=/dev/$1 of=/run/out bs=4k count=1 skip=512 iflag=direct 2>&1 | grep -o "Input/output error\|I/O error"; }
        around() { forget; (dd if=/dev/$1 bs=1M count=2; dd if=/dev/$1 bs=4k skip=514 count=200) 2> /dev/null | sha256sum; }
        for disk in vda vdb; do
            i=0; while [ $i -lt 40 ]; do read_bad $disk; i=$((i + 1)); done | sort | uniq -c | tr -s " "
            around $disk
            dd if=/dev/zero of=/dev/$disk bs=4k count=1 seek=512 conv=fsync 2>&1 | grep -o "Input/output error\|I/O error"
        done
        dd if=/dev/zero of=/dev/vdb bs=4k count=1 seek=700 conv=fsync 2> /dev/null && echo written
        around vdb'
    before=$( (head -c 2M "$D/before"; dd if="$D/before" bs=4k skip=514 count=200) 2> /dev/null | sha256sum)
    after=$( (head -c 2M "$D/before"; dd if="$D/before" bs=4k skip=514 count=186; head -c 4096 /dev/zero; dd if="$D/before" bs=4k skip=701 count=13) 2> /dev/null | sha256sum)
    e='Input/output error'
    [ "$output" = " 40 $e"$'\n'"$before"$'\n'"$e"$'\n'" 40 $e"$'\n'"$before"$'\n'"$e"$'\nwritten\n'"$after" ] || fail "$output"
    [ "$(pgrep -P "$(vm_pid a)" -f -- --serial=disk1)" = "$pid" ]
    vm_stop a
    dmsetup remove mini-bad mini-bad-too
    losetup -d "$loop"
}
