# The host's own kernel as the back-end: vhost-net on a tap, vhost-vsock.
# weight: 115
load lib/helpers

SIZE=8388608

need_node() { # NODE MODULE
    [ "$(id -u)" = 0 ] || skip "no right to make a tap or to open $1"
    modprobe -q "$2" || true
    [ -c "$1" ] || skip "this kernel has no $1"
}

C=/sys/kernel/config/target
WWPN=naa.5001405000000001

# A target with a disk of a file, and its end.
target_make() { # FILE
    mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
    mkdir -p "$C/core/fileio_0/d0"
    echo "fd_dev_name=$1,fd_dev_size=$(stat -c %s "$1")" > "$C/core/fileio_0/d0/control"
    echo 1 > "$C/core/fileio_0/d0/enable"
    mkdir -p "$C/vhost/$WWPN/tpgt_1/lun/lun_0"
    ln -s "$C/core/fileio_0/d0" "$C/vhost/$WWPN/tpgt_1/lun/lun_0/d0"
    echo naa.5001405000000002 > "$C/vhost/$WWPN/tpgt_1/nexus"
}
target_remove() {
    rm -f "$C/vhost/$WWPN/tpgt_1/lun/lun_0/d0"
    rmdir "$C/vhost/$WWPN/tpgt_1/lun/lun_0" "$C/vhost/$WWPN/tpgt_1" "$C/vhost/$WWPN" "$C/core/fileio_0/d0"
}

teardown() {
    [ ! -d "$C/vhost/$WWPN" ] || target_remove || true
    ! [ -e /sys/class/net/mini-kv ] || ip link del mini-kv
    e2e_teardown
}

tap_make() { # [multi_queue]
    ip tuntap add mini-kv mode tap "$@"
    ip addr add 10.9.0.1/24 dev mini-kv
    ip link set mini-kv up
}

net_device() { # LINE...
    printf '[[device]]\nid = "net0"\nvia = "vhost"\nvirtio = "net"\ntap = "mini-kv"\n'
    printf '%s\n' "$@"
}

guest_up() {
    run -0 vm_guest a 'ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up && cat /sys/class/net/eth0/address'
}

download() { # a file of the host's comes whole
    local pid
    socat -u "OPEN:$D/file" TCP-LISTEN:5001,reuseaddr 3>&- &
    pid=$!
    run -0 vm_guest a -t 120 'until nc 10.9.0.1 5001 < /dev/null > /run/got && [ -s /run/got ]; do sleep 0.2; done; sha256sum < /run/got'
    [ "$output" = "$(sha256sum < "$D/file")" ] || fail "$output"
    wait "$pid" # and not for what bats has in the background
}

@test "doctor: what it says of vhost nodes is so, before and after their modules" {
    need_node /dev/vhost-net vhost_net
    need_node /dev/net/tun tun
    run -0 "$MINIVMM" doctor
    [[ $output == *'ok kvm  '*'ok kvm speed '* ]] || fail "$output"
    [[ $output == *'ok tap  '*'ok vhost-net      /dev/vhost-net'* ]] || fail "$output"
    rmmod vhost_net 2> /dev/null || return 0 # built in, or in use by somebody else
    run -0 "$MINIVMM" doctor
    [[ $output == *'-  vhost-net      no /dev/vhost-net'*'-> modprobe vhost_net'* ]] || fail "$output"
    run -2 "$MINIVMM" doctor all
}

@test "vhost-net: ping, a file with its checksum, driver unbound and bound, MTU, reboot, tap deleted" {
    need_node /dev/vhost-net vhost_net
    tap_make
    head -c $SIZE /dev/urandom > "$D/file"
    {
        vm_boot rig minivmm.agent
        net_device 'mac = "52:54:00:09:00:02"' 'mtu = 1400'
    } | vm_start a
    guest_up
    [ "$output" = 52:54:00:09:00:02 ]
    run -0 vm_guest a 'cat /sys/class/net/eth0/mtu; ping -c 3 -W 5 10.9.0.1'
    [ "${lines[0]}" = 1400 ]
    run -0 ping -c 3 -W 5 10.9.0.2
    download
    # the kernel serves it: a thread of the monitor's, and no other process
    [ -n "$(cat /proc/"$(vm_pid a)"/task/*/comm | grep '^vhost-')" ]
    run -1 pgrep -x minivmm-net

    run -0 vm_guest a 'cd /sys/bus/virtio/drivers/virtio_net; d=$(ls -d virtio*); for i in 1 2 3; do echo $d > unbind; echo $d > bind; done'
    guest_up
    download
    ip link set mini-kv mtu 1300
    run -0 ping -c 1 -W 5 -s 1200 10.9.0.2
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    guest_up
    download

    ip link del mini-kv
    run -0 vm_guest a 'for i in $(seq 50); do [ $(cat /sys/class/net/eth0/carrier) = 1 ] || break; sleep 0.1; done; cat /sys/class/net/eth0/carrier; ping -c 1 -W 1 10.9.0.1 > /dev/null || echo lost'
    [ "$output" = $'0\nlost' ] || fail "$output"
    grep -q 'tap mini-kv was deleted' "$D/a/stderr"
    vm_stop a
}

# Packets of each CPU leave by its own pair; the host spreads its flows over the queues that are attached, and one that nobody serves
# would lose some of them.
both_ways() { # CPUS
    local i masks=(1 2 4 8)
    run -0 vm_guest a "for m in ${masks[*]:0:$1}; do taskset \$m ping -q -A -c 10 -w 20 10.9.0.1 || exit 1; done"
    [ "$(grep -c ' 10 packets received, 0% packet loss' <<< "$output")" = "$1" ] || fail "$output"
    for i in 1 2 3 4 5 6; do
        run -0 ping -q -A -c 3 -W 10 10.9.0.2 # not -w, which counts what is under way when it ends as lost
        [[ $output == *" 0% packet loss"* ]] || fail "flow $i: $output"
    done
}

@test "vhost-net with four pairs: a queue of the tap for each that the driver uses, also when its process was killed, with more CPUs and with fewer" {
    need_node /dev/vhost-net vhost_net
    tap_make multi_queue
    used() { ls -d /sys/class/net/mini-kv/queues/tx-* | wc -l; }
    control() { pgrep -P "$(vm_pid a)" -f minivmm-net-control; }
    back() { grep -q 'net0: minivmm-net-control is back after' "$D/a/stderr"; }
    cpus() { # 0 or 1: whether there are two more from now on, which the driver looks at when it begins
        run -0 vm_guest a "for c in 2 3; do echo $1 > /sys/devices/system/cpu/cpu\$c/online || exit 1; done
            cd /sys/bus/virtio/drivers/virtio_net; d=\$(ls -d virtio*); echo \$d > unbind; echo \$d > bind"
        guest_up
    }
    {
        CPUS=4 vm_boot rig maxcpus=2 minivmm.agent
        net_device 'queues = 4' 'mac = "52:54:00:09:00:02"'
    } | vm_start a
    guest_up
    [ "$output" = 52:54:00:09:00:02 ]
    [ "$(used)" = 2 ] || fail "2 CPUs, 4 pairs: $(used) queues of the tap"
    [ "$(cat /proc/"$(vm_pid a)"/task/*/comm | grep -c '^vhost-')" = 4 ]
    both_ways 2

    kill -KILL "$(control)"
    wait_for 10 back || fail "$(tail -n 5 "$D/a/stderr")"
    [ "$(used)" = 2 ] || fail "after a death: $(used)"
    run -0 "$TOP/tests/guest/lib/explain-check" "$MINIVMM" "$D/a/vm.toml" "$(vm_pid a)"
    run -0 vm_guest a 'ifconfig eth0 promisc && ifconfig eth0 -promisc'
    both_ways 2

    cpus 1
    [ "$(used)" = 4 ] || fail "4 CPUs: $(used)"
    both_ways 4
    cpus 0
    [ "$(used)" = 2 ] || fail "2 CPUs again: $(used)"
    both_ways 2
    vm_stop a
}

@test "vhost-vsock: both directions; a CID that is in use is refused" {
    need_node /dev/vhost-vsock vhost_vsock
    local socat
    socat=$(on_disk socat)
    program_disk "$D/socat.img" socat
    head -c $SIZE /dev/urandom > "$D/file"
    {
        vm_boot rig minivmm.agent
        printf '[[device]]\nid = "s"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$D/socat.img"
        printf '[[device]]\nid = "v"\nvia = "vhost"\nvirtio = "vsock"\ncid = 42\n'
    } | vm_start a
    run -0 vm_guest a "mkdir -p /s; mount -o ro /dev/vda /s
        $socat VSOCK-LISTEN:5000,fork EXEC:sha256sum > /run/log 2>&1 & sleep 1"
    run -0 timeout 60 socat -t 60 - VSOCK-CONNECT:42:5000 < "$D/file"
    [ "$output" = "$(sha256sum < "$D/file")" ] || fail "$output"
    peer_start serve socat VSOCK-LISTEN:6000,fork EXEC:sha256sum
    run -0 vm_guest a -t 60 "until $socat -t 60 - VSOCK-CONNECT:2:6000 < /s/socat > /run/sum 2> /dev/null; do sleep 0.2; done; cat /run/sum"
    [ "$output" = "$(sha256sum < "$D/program/socat")" ] || fail "$output"

    {
        MEMORY=64M vm_boot rig minivmm.agent
        printf '[[device]]\nid = "v"\nvia = "vhost"\nvirtio = "vsock"\ncid = 42\n'
    } | vm_start b
    run -1 vm_exit b
    grep -qx 'minivmm: v: cid = 42: another machine of this host has it' "$D/b/stderr"

    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a -t 60 "mkdir -p /s; mount -o ro /dev/vda /s; $socat -t 60 - VSOCK-CONNECT:2:6000 < /s/socat"
    [ "$output" = "$(sha256sum < "$D/program/socat")" ] || fail "$output"
    peer_stop serve
    vm_stop a
}

@test "vhost-scsi: a disk of a target, unbind and bind, a reboot, and what the host reads" {
    local sum
    need_node /dev/vhost-scsi vhost_scsi
    modprobe -qa target_core_mod target_core_file
    truncate -s 64M "$D/scsi.img"
    target_make "$D/scsi.img"
    {
        vm_boot rig minivmm.agent
        printf '[[device]]\nid = "s"\nvia = "vhost"\nvirtio = "scsi"\nwwpn = "%s"\n' "$WWPN"
    } | vm_start a
    run -0 vm_guest a 'for i in $(seq 100); do [ ! -b /dev/sda ] || break; sleep 0.2; done; [ -b /dev/sda ] || exit 9
        head -c 8388608 /dev/urandom > /run/data; sha256sum < /run/data
        dd if=/run/data of=/dev/sda bs=1M conv=fsync 2> /dev/null; echo 3 > /proc/sys/vm/drop_caches
        dd if=/dev/sda bs=1M count=8 2> /dev/null | sha256sum'
    sum=${lines[0]}
    [ "${lines[1]}" = "$sum" ] || fail "$output"
    run -0 vm_guest a 'cd /sys/bus/virtio/drivers/virtio_scsi; d=$(ls -d virtio*); echo $d > unbind; echo $d > bind
        for i in $(seq 100); do [ ! -b /dev/sd? ] || break; sleep 0.2; done; [ -b /dev/sd? ] || exit 9; dd if=$(ls /dev/sd?) bs=1M count=8 2> /dev/null | sha256sum'
    [ "$output" = "$sum" ] || fail "$output"
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a 'for i in $(seq 100); do [ ! -b /dev/sda ] || break; sleep 0.2; done; [ -b /dev/sda ] || exit 9
        dd if=/dev/sda bs=1M count=8 2> /dev/null | sha256sum'
    [ "$output" = "$sum" ] || fail "$output"
    vm_stop a
    target_remove
    [ "$(head -c 8388608 "$D/scsi.img" | sha256sum)" = "$sum" ]
}
