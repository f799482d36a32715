# The examples in configs/, as they stand there but for where their files are.
# weight: 60
load lib/helpers

@test "configs/demo.toml: Debian with its root on minivmm-blk, a shell on the serial port, poweroff" {
    cp --sparse=always "$GUEST/demo.img" "$D/disk.raw"
    sed -e "s|\"vmlinuz\"|\"$GUEST/debian-bzImage\"|" -e "s|\"initrd.img\"|\"$GUEST/debian-initrd\"|" \
        -e "s|\"disk.raw\"|\"$D/disk.raw\"|" "$TOP/configs/demo.toml" | vm_start demo
    vm_line demo 'root@demo'
    vm_send demo $'findmnt -no SOURCE / | sed s/^/ROOT-IS-/; uname -v; poweroff\n'
    vm_line demo '^ROOT-IS-/dev/vda'
    vm_line demo '^#.* Debian '
    run -0 vm_exit demo
}

@test "configs/devices.toml: each of its devices is there and does its work" {
    local n pty
    need ip python3
    [ -x /usr/libexec/virtiofsd ] || skip "virtiofsd is not installed"
    modprobe -a tun vhost_net 2> /dev/null || true
    [ -w /dev/net/tun ] && [ -w /dev/vhost-net ] && [ "$(id -u)" = 0 ] || skip "no right to make a tap or to open /dev/vhost-net"
    for n in 0 1; do
        ip tuntap add mini-all$n mode tap
        ip addr add 10.66.$n.1/24 dev mini-all$n
        ip link set mini-all$n up
    done
    peer_start switch "$TOP/minivmm-switch" --vhost-user "$D/switch.sock"
    socket_wait "$D/switch.sock"
    mkdir "$D/share" "$D/a"
    echo 'from the host' > "$D/share/greeting"
    truncate -s 16M "$D/disk.raw"
    sed -e "s|\"vmlinuz\"|\"$GUEST/rig-bzImage\"|; s|\"initrd.img\"|\"$GUEST/rig-initrd\"|; s|quiet|quiet minivmm.agent|" \
        -e "s|\"tap\([01]\)\"|\"mini-all\1\"|; s|/srv/share|$D/share|g; s|\"disk.raw\"|\"$D/disk.raw\"|; s|\"switch.sock\"|\"$D/switch.sock\"|" \
        -e "s|\"vm.vsock\"|\"$D/vm.vsock\"|; s|socket:agent.sock|socket:$D/agent.sock|; s|file:guest.log|file:$D/guest.log|" \
        "$TOP/configs/devices.toml" > "$D/config"
    run -0 "$MINIVMM" explain -c "$D/config"
    [ "$(grep -c '^device [a-z]' <<< "$output")" = 8 ]
    [ "$(grep -c '^device [a-z]' <<< "$output")" = "$(grep -c '^\[\[device' "$TOP/configs/devices.toml")" ]
    vm_start a < "$D/config"
    # disks, random numbers, ports, files
    run -0 vm_guest a '
        cat /sys/block/vda/serial; echo
        echo written | dd of=/dev/vda bs=512 conv=sync,fsync 2> /dev/null
        cat /sys/class/misc/hw_random/rng_current
        head -c 32 /dev/hwrng | wc -c
        port() { for p in /sys/class/virtio-ports/*; do if [ "$(cat $p/name)" = $1 ]; then echo /dev/${p##*/}; fi; done; }
        echo logged > $(port org.example.log)
        echo on the console > /dev/hvc0
        mount -t virtiofs share /mnt && cat /mnt/greeting && echo "from the guest" > /mnt/answer && umount /mnt
        ls /dev/vsock'
    [ "$output" = $'disk0\nvirtio_rng.0\n32\nfrom the host\n/dev/vsock' ] || fail "$output"
    [ "$(head -n 1 "$D/disk.raw" | tr -d '\0')" = written ]
    [ "$(cat "$D/guest.log")" = logged ]
    [ "$(cat "$D/share/answer")" = 'from the guest' ]
    peer_start agent timeout 60 python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"the host\n")
print(s.makefile().readline().strip())' "$D/agent.sock"
    run -0 vm_guest a '
        port() { for p in /sys/class/virtio-ports/*; do if [ "$(cat $p/name)" = $1 ]; then echo /dev/${p##*/}; fi; done; }
        exec 5<> $(port org.example.agent)
        while ! read line <&5 || [ -z "$line" ]; do sleep 0.2; done
        echo "heard $line" >&5'
    wait_for 20 pid_gone "$(peer_pid agent)"
    [ "$(cat "$D/agent.log")" = 'heard the host' ]
    # nobody listens there in the guest, whose answer is an end
    run -0 timeout 20 python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"CONNECT 5000\n")
print(s.recv(100))' "$D/vm.vsock"
    [ "$output" = "b''" ]
    # interfaces: ours, the switch, which nobody else is at, and the kernel's
    run -0 vm_guest a '
        for i in /sys/class/net/eth*; do [ "$(cat $i/address)" != 52:54:00:00:00:01 ] || ours=${i##*/}; done
        echo $ours $(ls -d /sys/class/net/eth* | wc -l)
        for e in eth0 eth1 eth2; do ip link set $e up; done
        for e in eth0 eth1 eth2; do
            ip addr add 10.66.0.2/24 dev $e
            ping -q -c 1 -w 3 10.66.0.1 > /dev/null 2>&1 && echo $e
            ip addr del 10.66.0.2/24 dev $e
        done'
    # both taps are the host, which answers for all that it is
    [[ ${lines[0]} == *' 3' && ${#lines[@]} = 3 && $'\n'$output$'\n' == *$'\n'"${lines[0]% 3}"$'\n'* ]] || fail "$output"
    vm_stop a
    peer_stop switch
    for n in 0 1; do ip link del mini-all$n; done
    wait_for 5 test ! -e "$D/vm.vsock" -a ! -e "$D/agent.sock"
}
