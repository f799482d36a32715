# vDPA devices: the simulators of Linux, and a VDUSE disk that qemu-storage-daemon serves.
# weight: 90
# l1: rig
load lib/helpers

# The simulators are in the rig's own kernel, Debian's has VDUSE only.
need_manager() { # NAME MODULE...
    need vdpa
    [ "$(id -u)" = 0 ] || skip "no right to make vDPA devices"
    modprobe -qa vdpa vhost_vdpa "${@:2}" || true
    vdpa mgmtdev show 2> /dev/null | grep -q "^$1:" || skip "this kernel has no $1"
}

teardown() {
    local d
    # the kernel deletes a device only when nobody has it open
    for d in $(vm_names); do vm_ended "$d" || kill -KILL "$(vm_pid "$d")" || true; done
    for d in /sys/bus/vdpa/devices/*; do
        [ ! -e "$d" ] || vdpa dev del "${d##*/}" || true
    done
    [ ! -e "$D/qsd.pid" ] || kill "$(peer_pid qsd)" 2> /dev/null || true
    e2e_teardown
}

node_of() { # DEVICE
    wait_for 10 compgen -G "/sys/bus/vdpa/devices/$1/vhost-vdpa-*" > /dev/null
    echo "/dev/$(basename /sys/bus/vdpa/devices/"$1"/vhost-vdpa-*)"
}

device() { # ID NODE
    printf '[[device]]\nid = "%s"\nvia = "vhost-vdpa"\npath = "%s"\n' "$1" "$2"
}

@test "vdpa_sim_blk and vdpa_sim_net: a disk that keeps what is written over unbind and reboot, an interface with its address" {
    local blk net sum
    need_manager vdpasim_blk
    vdpa dev add name blk0 mgmtdev vdpasim_blk
    vdpa dev add name net0 mgmtdev vdpasim_net mac 52:54:00:11:22:33
    blk=$(node_of blk0)
    net=$(node_of net0)
    {
        vm_boot rig minivmm.agent
        device d "$blk"
        device n "$net"
    } | vm_start a
    run -0 vm_guest a 'cat /sys/class/net/eth0/address; ip link set eth0 up; cat /sys/class/net/eth0/carrier /sys/block/vda/size
        head -c 8388608 /dev/urandom > /run/data; sha256sum < /run/data
        dd if=/run/data of=/dev/vda bs=1M oflag=direct 2> /dev/null; dd if=/dev/vda bs=1M count=8 iflag=direct 2> /dev/null | sha256sum'
    [[ ${lines[0]} = 52:54:00:11:22:33 && ${lines[1]} = 1 && ${lines[2]} -gt 16384 && ${lines[3]} = "${lines[4]}" ]] || fail "$output"
    sum=${lines[3]}
    run -0 vm_guest a 'cd /sys/bus/virtio/drivers/virtio_blk; d=$(ls -d virtio*); for i in 1 2; do echo $d > unbind; echo $d > bind; done
        dd if=/dev/vda bs=1M count=8 iflag=direct 2> /dev/null | sha256sum'
    [ "$output" = "$sum" ] || fail "$output"

    # taken, and of another type
    {
        MEMORY=64M vm_boot rig minivmm.agent
        device d "$blk"
    } | vm_start b
    run -1 vm_exit b
    grep -q "minivmm: d: $blk: another program uses it" "$D/b/stderr" || fail "$(cat "$D/b/stderr")"

    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a 'dd if=/dev/vda bs=1M count=8 iflag=direct 2> /dev/null | sha256sum'
    [ "$output" = "$sum" ] || fail "$output"
    vm_stop a

    {
        MEMORY=64M vm_boot rig minivmm.agent
        device d "$blk"
        echo 'virtio = "net"'
    } | vm_start c
    run -1 vm_exit c
    grep -q "virtio = \"net\", but it is a blk (2): leave the key out" "$D/c/stderr" || fail "$(cat "$D/c/stderr")"
}

@test "VDUSE: a disk of qemu-storage-daemon through vhost-vdpa: fio with verify, ext4, a reboot, and what the host reads" {
    local node sum
    need qemu-storage-daemon
    need_manager vduse vduse
    truncate -s 64M "$D/disk.img"
    peer_start qsd qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$D/disk.img" \
        --export type=vduse-blk,id=e,node-name=f,writable=on,name=vduse0,num-queues=1,queue-size=256
    wait_for 10 test -e /dev/vduse/vduse0
    vdpa dev add name vduse0 mgmtdev vduse
    node=$(node_of vduse0)
    {
        MEMORY=384M vm_boot rig minivmm.agent minivmm.tools=/dev/vdb
        device d "$node"
        printf '[[device]]\nid = "tools"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$GUEST/tools.img"
    } | vm_start a
    run -0 vm_guest a -t 150 'cd /run
        fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=16M --verify=crc32c \
            --verify_fatal=1 --do_verify=1 --minimal --name=d --filename=/dev/vda > fio.out
        rc=$?; cut -d ";" -f 1-3,5,6,47 fio.out; exit $rc'
    run -0 vm_guest a -t 150 'set -e
        mke2fs -q -t ext4 /dev/vda; mkdir -p /mnt/d; mount /dev/vda /mnt/d
        head -c 8388608 /dev/urandom > /mnt/d/file; sync; sha256sum < /mnt/d/file; umount /mnt/d'
    sum=${lines[-1]}
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a -t 150 'mkdir -p /mnt/d; mount -o ro /dev/vda /mnt/d && sha256sum < /mnt/d/file; umount /mnt/d'
    [ "${lines[-1]}" = "$sum" ] || fail "$output"
    vm_stop a
    vdpa dev del vduse0
    peer_stop qsd
    e2fsck -fn "$D/disk.img"
    [ "$(debugfs -R 'cat /file' "$D/disk.img" 2> /dev/null | sha256sum)" = "$sum" ]
}
