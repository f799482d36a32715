# vDPA devices: the simulators of Linux, and a VDUSE disk that qemu-storage-daemon serves.
# weight: 150
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
    [ ! -e "$D/qsd.pid" ] || kill -CONT "$(peer_pid qsd)" 2> /dev/null || true
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

tools_device() { printf '[[device]]\nid = "tools"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$GUEST/tools.img"; }

# Random writes to a whole disk, each read back and compared; errors in bytes 47 of fio's line fail it.
FIO='fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=16M --verify=crc32c --verify_fatal=1 \
    --do_verify=1 --minimal --name=d --filename=/dev/vda > fio.out; rc=$?; cut -d ";" -f 1-3,5,6,47 fio.out; exit $rc'

@test "vdpa_sim_blk and vdpa_sim_net: fio with verify, a disk that keeps what is written over unbind and reboot, an interface with its address" {
    local blk net sum
    need_manager vdpasim_blk
    vdpa dev add name blk0 mgmtdev vdpasim_blk
    vdpa dev add name net0 mgmtdev vdpasim_net mac 52:54:00:11:22:33
    blk=$(node_of blk0)
    net=$(node_of net0)
    {
        vm_boot rig minivmm.agent minivmm.tools=/dev/vdb
        device d "$blk"
        device n "$net"
        tools_device
    } | vm_start a
    run -0 vm_guest a 'cat /sys/class/net/eth0/address; ip link set eth0 up; cat /sys/class/net/eth0/carrier /sys/block/vda/size
        head -c 8388608 /dev/urandom > /run/data; sha256sum < /run/data
        dd if=/run/data of=/dev/vda bs=1M oflag=direct 2> /dev/null; dd if=/dev/vda bs=1M count=8 iflag=direct 2> /dev/null | sha256sum'
    [[ ${lines[0]} = 52:54:00:11:22:33 && ${lines[1]} = 1 && ${lines[2]} -gt 16384 && ${lines[3]} = "${lines[4]}" ]] || fail "$output"
    # it gives back what it is sent
    run -0 vm_guest a 'n() { cat /sys/class/net/eth0/statistics/$1; }; r=$(n rx_packets); t=$(n tx_packets)
        ip addr add 10.7.0.1/24 dev eth0; ping -c 20 -i 0.1 -W 1 10.7.0.2 > /dev/null; sleep 1; echo $(($(n rx_packets) - r)) $(($(n tx_packets) - t))'
    read -r received sent <<< "$output"
    [[ $sent -gt 0 && $received -gt 0 ]] || fail "$output"
    run -0 vm_guest a -t 150 "cd /run; $FIO"
    run -0 vm_guest a 'dd if=/run/data of=/dev/vda bs=1M oflag=direct 2> /dev/null
        cd /sys/bus/virtio/drivers/virtio_blk; d=$(basename $(readlink /sys/block/vda/device)); for i in 1 2; do echo $d > unbind; echo $d > bind; done
        dd if=/dev/vda bs=1M count=8 iflag=direct 2> /dev/null | sha256sum; sha256sum < /run/data'
    sum=${lines[1]}
    [ "${lines[0]}" = "$sum" ] || fail "$output"

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
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"

    {
        MEMORY=64M vm_boot rig minivmm.agent
        device d "$blk"
        echo 'virtio = "net"'
    } | vm_start c
    run -1 vm_exit c
    grep -q "virtio = \"net\", but it is a blk (2): leave the key out" "$D/c/stderr" || fail "$(cat "$D/c/stderr")"
}

@test "pauses under I/O: vdpa_sim_blk is suspended and goes on, and so does the disk of ours beside it; fio finds nothing lost" {
    local i ctl
    need strace
    need_manager vdpasim_blk
    vdpa dev add name blk0 mgmtdev vdpasim_blk
    truncate -s 64M "$D/ours.img"
    {
        CPUS=2 vm_boot rig minivmm.agent minivmm.tools=/dev/vdc | sed 's,^\[vm\],&\ncontrol = "c.sock",'
        device d "$(node_of blk0)"
        printf '[[device]]\nid = "e"\nvirtio = "blk"\nimage = "%s"\n' "$D/ours.img"
        tools_device
    } | vm_start a
    vm_line a '^MINIVMM-AGENT'
    ctl=("$MINIVMM" ctl "$D/a/c.sock")
    run -0 "${ctl[@]}" device list
    [[ ${lines[0]} =~ ^'d '.*vhost-vdpa.*running$ && ${lines[1]} =~ ^'e '.*ours.*running$ ]] || fail "$output"
    run -0 vm_guest a "cd /run; for d in a b; do mkdir \$d; (cd \$d; ${FIO/--filename=\/dev\/vda/--loops=3 --filename=/dev/vd\$d}; ) > out.\$d 2>&1 & done; sleep 1"
    peer_start strace strace -f -e trace=ioctl -X raw -o "$D/calls" -p "$(vm_pid a)"
    wait_for 10 grep -q attached "$D/strace.log"
    for i in 1 2 3 4 5; do
        "${ctl[@]}" pause
        run -0 "${ctl[@]}" status
        [[ ${lines[0]} = 'state   paused' ]] || fail "$output"
        sleep 0.5
        "${ctl[@]}" resume
        sleep 0.5
    done
    kill -INT "$(peer_pid strace)"
    wait_for 10 pid_gone "$(peer_pid strace)"
    [ "$(grep -c 'ioctl(.*, 0xaf7d' "$D/calls") $(grep -c 'ioctl(.*, 0xaf7e' "$D/calls")" = '5 5' ] || fail "$(grep 0xaf "$D/calls")"
    run -0 vm_guest a -t 200 'cd /run; ps | grep -q "[f]io --direct" && echo all the while
        for i in $(seq 300); do ps | grep -q "[f]io --direct" || break; sleep 0.5; done; cat out.a out.b; dmesg | grep -i -E "lockup|stalls|I/O error"; true'
    [ "$(cut -d ";" -f 1,3,4 <<< "$output")" = $'all the while\n3;d;0\n3;d;0' ] || fail "$output"
    vm_stop a
    vdpa dev del blk0
}

@test "a device that is removed under I/O: the removal ends, its driver is asked for a reset, the machine and its other device live" {
    need_manager vdpasim_blk
    vdpa dev add name blk0 mgmtdev vdpasim_blk
    vdpa dev add name blk1 mgmtdev vdpasim_blk
    {
        CPUS=2 vm_boot rig minivmm.agent
        device d0 "$(node_of blk0)"
        device d1 "$(node_of blk1)"
    } | vm_start a
    run -0 vm_guest a 'dd if=/dev/zero of=/dev/vda bs=64k oflag=direct > /run/dd 2>&1 < /dev/null & sleep 0.5; cat /sys/block/vda/stat'
    timeout 20 vdpa dev del blk0
    grep -q 'd0: vhost-vdpa back-end: the device was removed from the host' "$D/a/stderr" || fail "$(cat "$D/a/stderr")"
    wait_for 10 grep -q 'd0: its back-end is gone; the device needs a reset by its driver' "$D/a/stderr"
    run -0 vm_guest a 'head -c 1048576 /dev/urandom > /run/data; dd if=/run/data of=/dev/vdb bs=64k oflag=direct 2> /dev/null
        dd if=/dev/vdb bs=64k count=16 iflag=direct 2> /dev/null | cmp - /run/data && cat /sys/bus/virtio/devices/virtio0/status'
    [ $((output & 0x40)) != 0 ] || fail "$output"
    run -0 vdpa dev show
    [[ $output != *blk0* && $output = *blk1* ]] || fail "$output"
    # a Linux that waits for a request to that disk does not power off
    kill -INT "$(vm_pid a)"
    vm_exit a
    vdpa dev del blk1
}

vduse_disk() { # a disk of qemu-storage-daemon, and its vDPA device
    need qemu-storage-daemon
    need_manager vduse vduse
    [ -e "$D/disk.img" ] || truncate -s 64M "$D/disk.img"
    peer_start qsd qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$D/disk.img" \
        --export type=vduse-blk,id=e,node-name=f,writable=on,name=vduse0,num-queues=1,queue-size=256
    wait_for 10 test -e /dev/vduse/vduse0
    vdpa dev add name vduse0 mgmtdev vduse
}

@test "VDUSE: a disk of qemu-storage-daemon through vhost-vdpa: fio with verify, ext4, a reboot, and what the host reads" {
    local sum
    vduse_disk
    {
        MEMORY=384M vm_boot rig minivmm.agent minivmm.tools=/dev/vdb
        device d "$(node_of vduse0)"
        tools_device
    } | vm_start a
    run -0 vm_guest a -t 150 "cd /run; $FIO"
    run -0 vm_guest a -t 150 'set -e
        mkfs.ext4 -q -E lazy_itable_init=0 /dev/vda; mkdir -p /mnt/d; mount /dev/vda /mnt/d
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

@test "configs/vdpa.toml: a root file system behind VDUSE" {
    cp --sparse=always "$GUEST/demo.img" "$D/disk.img"
    vduse_disk
    sed -e "s|\"vmlinuz\"|\"$GUEST/rig-bzImage\"|" -e "s|\"initrd.img\"|\"$GUEST/rig-initrd\"|" \
        -e "s|root=/dev/vda rw|quiet minivmm.root=/dev/vda|" -e "s|/dev/vhost-vdpa-0|$(node_of vduse0)|" "$TOP/configs/vdpa.toml" | vm_start demo
    vm_line demo 'root@demo'
    vm_send demo $'findmnt -no SOURCE / | sed s/^/ROOT-IS-/; poweroff\n'
    vm_line demo '^ROOT-IS-/dev/vda'
    run -0 vm_exit demo
    vdpa dev del vduse0
    peer_stop qsd
}

@test "VDUSE: a daemon that stands still stalls its data only; beyond the kernel's patience its device is dead, and the machine lives" {
    local begin
    vduse_disk
    echo 5 > /sys/class/vduse/vduse0/msg_timeout
    {
        CPUS=2 vm_boot rig minivmm.agent
        device d "$(node_of vduse0)"
    } | vm_start a
    run -0 vm_guest a 'dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct 2> /dev/null; echo read'
    kill -STOP "$(peer_pid qsd)"
    run -0 vm_guest a '(dd if=/dev/vda bs=64k count=16 skip=200 iflag=direct 2> /dev/null | sha256sum) > /run/sum < /dev/null &
        sleep 1; cat /run/sum; cat /sys/block/vda/inflight'
    [[ ${lines[0]} =~ [1-9] ]] || fail "$output"
    kill -CONT "$(peer_pid qsd)"
    run -0 vm_guest a 'until [ -s /run/sum ]; do sleep 0.2; done; cat /run/sum'
    [ "$output" = "$(head -c 1048576 /dev/zero | sha256sum)" ] || fail "$output"

    # a reset needs its answer
    kill -STOP "$(peer_pid qsd)"
    begin=$(now)
    run -0 vm_guest a 'cd /sys/bus/virtio/drivers/virtio_blk; d=$(ls -d virtio*); echo $d > unbind; echo unbound; echo $d > bind || echo "not bound"'
    [[ $output = *unbound*"not bound"* ]] || fail "$output"
    [ $(($(now) - begin)) -lt 40 ]
    grep -q 'd: /dev/vhost-vdpa-[0-9]*: reset it: ' "$D/a/stderr" || fail "$(cat "$D/a/stderr")"
    run -0 vm_guest a 'echo alive'
    timeout 30 vdpa dev del vduse0
    grep -q 'd: vhost-vdpa back-end: the device was removed from the host' "$D/a/stderr"
    vm_stop a
    kill -CONT "$(peer_pid qsd)"
    peer_stop qsd
}
