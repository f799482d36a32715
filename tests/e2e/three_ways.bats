# One device, each way to a guest: the same program, or the same kind of interface, and the same work for the guest.
# weight: 110
# l1: rig
load lib/helpers

SYS=/sys/bus/vdpa/devices/mini0

teardown() {
    local d
    for d in $(vm_names); do vm_ended "$d" || kill -KILL "$(vm_pid "$d")" || true; done
    ! mountpoint -q "$D/mnt" || umount "$D/mnt"
    ! [ -e "$D/serve.pid" ] || kill -KILL "$(peer_pid serve)" 2> /dev/null || true
    for d in mini0 sim0; do
        [ ! -e /sys/bus/vdpa/devices/$d ] || vdpa dev del $d || true
    done
    ! [ -e /sys/class/net/mini-tw ] || ip link del mini-tw
    rm -f /run/minivmm-vduse-mini0
    rmmod virtio_vdpa 2> /dev/null || true
    e2e_teardown
}

need_root() { [ "$(id -u)" = 0 ] || skip "no right to make a tap or a vDPA device"; }
need_vduse() {
    need_root
    need vdpa
    modprobe -qa vduse vhost_vdpa || true
    [ -c /dev/vduse/control ] || skip "this kernel has no VDUSE"
}

has_node() { compgen -G "$1/vhost-vdpa-*" > /dev/null; }
node_of() { # FOLDER of a vDPA device
    wait_for 10 has_node "$1" || fail "$1 is not given to vhost_vdpa"
    echo "/dev/$(basename "$1"/vhost-vdpa-*)"
}

machine() { # LINE...: a guest with that device, and with the tools' disk
    {
        MEMORY=384M vm_boot "${KIND:-rig}" minivmm.agent "minivmm.tools=/dev/${TOOLS:-vda}"
        printf '%s\n' '[[device]]' 'id = "d"' "$@" '[[device]]' 'id = "tools"' 'virtio = "blk"' 'readonly = true' "image = \"$GUEST/tools.img\""
    } | vm_start a
}

# ---- a disk -----------------------------------------------------------------------------------------------------

FIO='fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=8M --verify=crc32c --verify_fatal=1 \
    --do_verify=1 --minimal --name=d --filename=/dev/vda'

disk_serve() { # PROGRAM-ARG...
    [ -e "$D/disk.img" ] || truncate -s 64M "$D/disk.img"
    peer_start serve "$MINIVMM_BLK" -v --image "$D/disk.img" --serial one-device --queues 2 "$@"
}

# Random writes, all read back and compared; then a file system, made, filled, left and entered again.
disk_work() {
    run -0 vm_guest a 'cat /sys/block/vda/serial; echo; ls /sys/block/vda/mq | wc -l'
    [ "$output" = $'one-device\n1' ] || fail "$output"
    run -0 vm_guest a -t 120 "cd /run; $FIO > fio.out || { cat fio.out; exit 1; }"
    disk_fill
}

disk_fill() {
    run -0 vm_guest a -t 120 'set -e
        mkfs.ext4 -q -E lazy_itable_init=0 /dev/vda; mkdir -p /mnt/d; mount /dev/vda /mnt/d
        head -c 8388608 /dev/urandom > /mnt/d/file; umount /mnt/d
        mount -o ro /dev/vda /mnt/d; sha256sum < /mnt/d/file; umount /mnt/d'
    SUM=${lines[-1]}
}

disk_check() { # what the guest left, in the image
    e2fsck -fn "$D/disk.img"
    [ "$(debugfs -R 'cat /file' "$D/disk.img" 2> /dev/null | sha256sum)" = "$SUM" ]
}

over_socket() { # VIA [LINE]...: a disk over a socket
    disk_serve "--$1" "$D/d.sock"
    socket_wait "$D/d.sock"
    TOOLS=vdb machine "via = \"$1\"" "socket = \"$D/d.sock\"" "${@:2}"
    disk_work
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    peer_stop serve
    disk_check
}

@test "minivmm-blk over vhost-user: fio with verify, ext4, and what the host reads" {
    over_socket vhost-user 'virtio = "blk"'
}

@test "minivmm-blk over vfio-user: the same" {
    over_socket vfio-user
}

taken_over() { grep -q 'mini0: taken over' "$D/serve.log"; }
fio_ended() { vm_guest a '[ -s /run/rc ]' > /dev/null; }
host_disk() { compgen -G "$SYS/virtio*/block/vd*" > /dev/null; }

@test "minivmm-blk over VDUSE: the same for a guest through vhost-vdpa, killed meanwhile; then it is the host's through virtio_vdpa" {
    local disk i
    need_vduse
    disk_serve --vduse mini0 --vdpa-add
    TOOLS=vdb machine 'via = "vhost-vdpa"' "path = \"$(node_of $SYS)\""
    disk_work
    run -0 vm_guest a "w() { set -- \$(cat /sys/block/vda/stat); echo \$5; }; n=\$(w); cd /run
        (${FIO/randwrite --size=8M/randrw --size=48M --rate=4m} > fio.out 2>&1; echo \$? > rc) < /dev/null > /dev/null 2>&1 &
        until [ \$(w) -gt \$((n + 9)) ]; do sleep 0.1; done"
    for i in 1 2 3; do
        nap 0.5
        kill -KILL "$(peer_pid serve)"
        [ $i != 1 ] || run -1 fio_ended # it came while there was work
        disk_serve --vduse mini0 --vdpa-add
        wait_for 10 taken_over || fail "$(cat "$D/serve.log")"
    done
    run -0 vm_guest a -t 120 'until [ -s /run/rc ]; do sleep 0.2; done; cat /run/fio.out; exit $(cat /run/rc)'
    disk_fill
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"

    # the same process, the host's
    modprobe virtio_vdpa
    echo mini0 > $SYS/driver/unbind
    echo mini0 > /sys/bus/vdpa/drivers/virtio_vdpa/bind
    wait_for 20 host_disk || fail "$(cat "$D/serve.log")"
    disk=/dev/$(ls $SYS/virtio*/block)
    e2fsck -fn "$disk"
    mkdir "$D/mnt"
    mount "$disk" "$D/mnt"
    [ "$(sha256sum < "$D/mnt/file")" = "$SUM" ]
    head -c 4194304 /dev/urandom > "$D/mnt/file"
    SUM=$(sha256sum < "$D/mnt/file")
    umount "$D/mnt"
    peer_stop serve
    run -1 grep -E 'refused|cannot|stays' "$D/serve.log"
    [ ! -e /dev/vduse/mini0 ]
    disk_check
}

# ---- a network interface ----------------------------------------------------------------------------------------

MAC=52:54:00:0a:00:02

tap_make() {
    need_root
    [ -c /dev/net/tun ] || skip "no taps"
    ip tuntap add mini-tw mode tap
    ip addr add 10.10.0.1/24 dev mini-tw
    ip link set mini-tw up
    head -c 8388608 /dev/urandom > "$D/file"
}

# A file from somebody, and back; its sum.
net_work() { # ADDRESS
    run -0 vm_guest a -t 120 "got() { nc $1 5001 < /dev/null > /run/got && [ -s /run/got ]; }
        for i in \$(seq 50); do ! got || break; sleep 0.2; done
        sha256sum < /run/got; nc $1 5002 < /run/got"
    SUM=$output
}

over_tap() { # LINE...: an interface behind a tap, with the host at the other end
    machine "$@"
    run -0 vm_guest a 'cat /sys/class/net/eth0/address; ip addr add 10.10.0.2/24 dev eth0; ip link set eth0 up'
    [ "$output" = $MAC ] || fail "$output"
    run -0 ping -c 3 -W 5 10.10.0.2
    peer_start give socat -u "OPEN:$D/file" TCP-LISTEN:5001,reuseaddr
    peer_start take socat -u TCP-LISTEN:5002,reuseaddr "CREATE:$D/back"
    net_work 10.10.0.1
    [ "$SUM" = "$(sha256sum < "$D/file")" ] || fail "$SUM"
    wait_for 10 pid_gone "$(peer_pid take)"
    cmp "$D/file" "$D/back"
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
}

net_serve() { # PROGRAM-ARG...
    peer_start serve "$TOP/minivmm-net" --tap mini-tw --mac $MAC "$@"
}

@test "a network interface over kernel vhost: ping, a file there and back" {
    tap_make
    modprobe -q vhost_net || true
    [ -c /dev/vhost-net ] || skip "this kernel has no vhost-net"
    over_tap 'via = "vhost"' 'virtio = "net"' 'tap = "mini-tw"' "mac = \"$MAC\""
}

@test "minivmm-net over vhost-user: the same" {
    tap_make
    net_serve --vhost-user "$D/d.sock"
    socket_wait "$D/d.sock"
    over_tap 'via = "vhost-user"' 'virtio = "net"' "socket = \"$D/d.sock\""
    peer_stop serve
}

@test "minivmm-net over VDUSE and vhost-vdpa: the same" {
    need_vduse
    tap_make
    net_serve --vduse mini0 --vdpa-add
    over_tap 'via = "vhost-vdpa"' "path = \"$(node_of $SYS)\""
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
}

# It gives back what is sent to its own address, so the guest is at both ends: nothing is local to it but what comes in by eth0.
@test "vdpa_sim_net: the same file, between two ends of the guest's that know each other by the interface only" {
    need_root
    need vdpa
    vdpa mgmtdev show 2> /dev/null | grep -q '^vdpasim_net:' || skip "this kernel has no vdpasim_net"
    vdpa dev add name sim0 mgmtdev vdpasim_net mac $MAC
    KIND=debian machine 'via = "vhost-vdpa"' "path = \"$(node_of /sys/bus/vdpa/devices/sim0)\""
    run -0 vm_guest a 'set -e
        modprobe virtio_net; cat /sys/class/net/eth0/address
        ip link set lo up; ip link set eth0 up
        for n in 1 2; do ip addr add 10.10.0.$n/24 dev eth0; done
        ip route add 10.10.0.1 dev eth0 src 10.10.0.2
        for n in 1 2; do
            ip route del local 10.10.0.$n dev eth0 table 255
            ip route add local 10.10.0.$n dev lo table 100
            arp -i eth0 -s 10.10.0.$n '$MAC'
        done
        ip rule add iif eth0 lookup 100
        head -c 8388608 /dev/urandom > /run/file; sha256sum < /run/file
        nc -l -p 5001 -e cat /run/file > /dev/null 2>&1 < /dev/null &
        nc -l -p 5002 -e dd of=/run/back bs=4k > /dev/null 2>&1 < /dev/null & sleep 0.5'
    [ "${lines[0]}" = $MAC ] || fail "$output"
    local sum=${lines[1]}
    net_work 10.10.0.1
    [ "$SUM" = "$sum" ] || fail "$SUM, not $sum"
    run -0 vm_guest a 'for i in $(seq 50); do ! cmp -s /run/file /run/back || break; sleep 0.1; done; cmp /run/file /run/back
        cat /sys/class/net/eth0/statistics/rx_bytes'
    [ "${lines[-1]}" -gt 16777216 ] || fail "$output"
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
}
