# Other people's vhost-user back-ends, all in one guest: virtiofsd, passt, DPDK's testpmd, qemu-storage-daemon with four queues.
# The guest and the back-ends are the file's; each test has one of them.
# weight: 75
load lib/helpers

QUEUES=4

setup_file() {
    D=$BATS_FILE_TMPDIR/d
    export TMPDIR=$BATS_FILE_TMPDIR
    mkdir -p "$D"/{share,www}
    exec {NAP}<> <(:)
    need dpdk-testpmd passt qemu-storage-daemon python3 ip
    head -c 16M /dev/urandom > "$D/www/file"
    truncate -s 48M "$D/mq.img"
    mkfifo "$D/pmd.in"
    # an interface with a default route is what passt takes its guest's address from
    modprobe -q dummy || true
    ip link add peers0 type dummy
    ip addr add 10.77.0.5/24 dev peers0
    ip link set peers0 up
    ip route add default via 10.77.0.1 dev peers0
    peer_start fs "$(virtiofsd_path)" --shared-dir "$D/share" --socket-path "$D/fs.sock" --tag share --log-level warn
    peer_start http python3 -m http.server --bind 127.0.0.1 --directory "$D/www" 8080
    # shellcheck disable=SC2016  # opened for both ways: its input never ends
    peer_start pmd bash -c 'exec stdbuf -o0 dpdk-testpmd --no-huge -m 128 --no-pci --no-shconf --no-telemetry -l 0,1 \
        --file-prefix peers --vdev "net_vhost0,iface=$1/pmd.sock" -- \
        -i --total-num-mbufs=2048 --forward-mode=icmpecho <> "$1/pmd.in"' sh "$D"
    peer_start qsd qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$D/mq.img" \
        --export "type=vhost-user-blk,id=e,node-name=f,writable=on,num-queues=$QUEUES,addr.type=unix,addr.path=$D/qsd.sock"
    for s in fs pmd qsd; do socket_wait "$D/$s.sock" 60 || { tail -n 20 "$D/$s.log"; return 1; }; done
    # only one test needs its other CPUs; until then they would take the peers' time
    {
        CPUS=$QUEUES MEMORY=384M vm_boot rig maxcpus=1 minivmm.agent minivmm.tools=/dev/vdb
        theirs fs0 fs fs
        printf '[[device]]\nid = "net0"\nvia = "vhost-user"\nvirtio = "net"\nsandbox = "passt"\nexec = ["%s", %s, "-4", "-t", "8081:80", %s]\n' \
            "$(command -v passt)" '"--foreground", "--vhost-user", "--fd={fd}"' '"--no-dhcp-dns", "--no-dhcp-search"'
        theirs net1 net pmd
        theirs disk0 blk qsd "queues = $QUEUES"
        printf '[[device]]\nid = "tools"\nvirtio = "blk"\nimage = "%s"\nreadonly = true\n' "$GUEST/tools.img"
    } | vm_start a
}

teardown_file() {
    D=$BATS_FILE_TMPDIR/d
    exec {NAP}<> <(:)
    [ ! -e "$D/a/pid" ] || vm_stop a
    for p in fs http qsd pmd; do [ ! -e "$D/$p.pid" ] || peer_stop $p; done
    ip link del peers0
}

setup() {
    e2e_setup
    D=$BATS_FILE_TMPDIR/d
}

teardown() {
    [ -n "${BATS_TEST_COMPLETED:-}" ] || evidence_tail a
    D=$BATS_TEST_TMPDIR/d
    e2e_teardown
}

theirs() { # ID TYPE SOCKET LINE...
    printf '[[device]]\nid = "%s"\nvia = "vhost-user"\nvirtio = "%s"\nsocket = "%s"\n' "$1" "$2" "$D/$3.sock"
    shift 3
    printf '%s\n' "$@"
}

# What explain says of it is true: its own walls, which it puts up inside, take more away.
jailed_as_said() { # PID
    grep -q '^NoNewPrivs:.*1$' "/proc/$1/status"
    grep -q '^Seccomp:.*2$' "/proc/$1/status"
    [ "$(readlink "/proc/$1/ns/user")" != "$(readlink /proc/self/ns/user)" ]
    [ ! -e "/proc/$1/root/etc/passwd" ]
    [ ! -e "/proc/$1/root/root" ]
}

virtiofsd_path() {
    PATH=$PATH:/usr/libexec:/usr/lib/qemu command -v virtiofsd || fail "virtiofsd is not installed"
}

@test "passt, in its jail: the guest gets its address, downloads 16 MB, serves the host, and neither is altered" {
    run -0 vm_guest a -t 120 '
        set -e
        cat > /run/leased << "END"
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
echo "$ip $router" > /run/lease
END
        chmod +x /run/leased
        ip link set lo up
        ip link set eth0 up
        udhcpc -q -n -t 15 -T 2 -i eth0 -s /run/leased > /dev/null 2>&1
        cat /run/lease
        cd /run
        wget -q -O file "http://10.77.0.1:8080/file"
        sha256sum < file
        mkdir -p /run/www
        head -c 5000000 file > /run/www/part
        httpd -p 80 -h /run/www'
    [ "${lines[0]}" = "10.77.0.5 10.77.0.1" ]
    [ "${lines[1]}" = "$(sha256sum < "$D/www/file")" ] || fail "$output"
    run -0 timeout 90 python3 -c '
import urllib.request, hashlib
print(hashlib.sha256(urllib.request.urlopen("http://10.77.0.5:8081/part", timeout=60).read()).hexdigest())'
    [ "$output  -" = "$(head -c 5000000 "$D/www/file" | sha256sum)" ]
    jailed_as_said "$(pgrep -P "$(vm_pid a)" -f -- '--vhost-user --fd')"
    vm_guest a 'killall httpd; rm -rf /run/www /run/file'
}

pmd() { printf '%s\n' "$@" > "$D/pmd.in"; }
pmd_says() { grep -Eq -- "$1" "$D/pmd.log"; }
pmd_stopped() { [ "$(grep -c '+++ Accumulated forward statistics' "$D/pmd.log")" -ge "$1" ]; }
# What testpmd counted on its port since it was started last.
pmd_counted() { # RX|TX
    sed -n "s/.*$1-packets: *\([0-9]*\).*/\1/p" "$D/pmd.log" | tail -n 1
}
guest_counts() { vm_guest a "cat /sys/class/net/eth1/statistics/$1"; }

@test "DPDK testpmd: echoes of 3 sizes, then 20,000 packets at its own speed; both sides count the same" {
    local sent got
    pmd_says '^testpmd>' || wait_for 60 pmd_says '^testpmd>'
    # The driver starts over, which also mends a device whose back-end was too slow for it during the boot.
    # Nothing else of the guest's may be on that wire when it counts.
    vm_guest a '
        d=$(basename "$(readlink /sys/class/net/eth1/device)")
        echo $d > /sys/bus/virtio/drivers/virtio_net/unbind
        echo $d > /sys/bus/virtio/drivers/virtio_net/bind
        echo 1 > /proc/sys/net/ipv6/conf/eth1/disable_ipv6
        ip addr add 10.78.0.2/24 dev eth1
        ip link set eth1 up'
    pmd start
    wait_for 60 pmd_says 'icmpecho packet forwarding'
    sent=$(guest_counts tx_packets) got=$(guest_counts rx_packets)
    run -0 vm_guest a -t 180 '
        for size in 10 200 1472; do ping -q -c 100 -A -w 60 -s $size 10.78.0.9; done'
    [ "$(grep -c '100 packets transmitted, 100 packets received, 0% packet loss' <<< "$output")" = 3 ] || fail "$output"
    sent=$(($(guest_counts tx_packets) - sent)) got=$(($(guest_counts rx_packets) - got))
    pmd stop
    wait_for 60 pmd_stopped 1
    [ "$sent" -ge 301 ] # an ARP request at least
    [ "$got" = "$sent" ]
    [ "$(pmd_counted RX)" = "$sent" ] && [ "$(pmd_counted TX)" = "$got" ] ||
        fail "guest sent $sent and got $got; testpmd: $(pmd_counted RX) and $(pmd_counted TX)"

    got=$(guest_counts rx_packets)
    pmd 'set fwd txonly' 'set txpkts 300' 'start'
    wait_for 60 pmd_says 'txonly packet forwarding'
    vm_wait a 120 "20,000 packets" guest_received $((got + 20000))
    pmd stop
    wait_for 60 pmd_stopped 2
    nap 1
    got=$(($(guest_counts rx_packets) - got))
    [ "$got" -ge 20000 ] && [ "$(pmd_counted TX)" = "$got" ] || fail "guest got $got; testpmd sent $(pmd_counted TX)"
    vm_guest a 'ip link set eth1 down'
}
guest_received() { [ "$(guest_counts rx_packets)" -ge "$1" ]; }

tree_sum() { (cd "$D/share" && find "$1" -type f | sort | xargs sha256sum | sha256sum); }

@test "virtiofsd: a tree in both directions, 1,000 small files, locks, unmounted and mounted again" {
    mkdir "$D/share/host"
    cp /usr/bin/*sum "$D/share/host/"
    # lists stay in files: the serial port is slow
    run -0 vm_guest a -t 120 '
        set -e
        mkdir -p /mnt/a /mnt/b
        mount -t virtiofs share /mnt/a
        cd /mnt/a
        find host -type f | sort | xargs sha256sum | sha256sum
        mkdir guest
        i=0
        while [ $i -lt 1000 ]; do
            echo "file $i of a thousand" > guest/$i
            i=$((i + 1))
        done
        dd if=/dev/urandom of=guest/large bs=1M count=8 2> /dev/null
        mv guest/999 guest/renamed
        ln guest/0 guest/hard
        ln -s 0 guest/soft
        rm guest/1
        dd if=/dev/zero of=guest/large bs=1 seek=5000001 count=3 conv=notrunc 2> /dev/null
        truncate -s 7 guest/2
        chmod 600 guest/3
        cd /
        umount /mnt/a
        [ -z "$(ls /mnt/a)" ]
        mount -t virtiofs share /mnt/a
        cd /mnt/a
        ls guest | wc -l
        find guest -type f | sort | xargs sha256sum | sha256sum'
    [ "${lines[0]}" = "$(tree_sum host)" ] && [ "${lines[1]}" = 1002 ] && [ "${lines[2]}" = "$(tree_sum guest)" ] || fail "$output"
    [ "$(find "$D/share/guest" | wc -l)" = 1003 ]
    [ "$(cat "$D/share/guest/renamed")" = "file 999 of a thousand" ]
    [ "$(stat -c '%s %a %h' "$D/share/guest"/{2,3,0} | tr '\n' ' ')" = "7 644 1 21 600 1 21 644 2 " ]
    [ "$(readlink "$D/share/guest/soft")" = 0 ]
    [ ! -e "$D/share/guest/1" ]
    # two processes of the guest, by two mounts of it
    run -0 vm_guest a -t 120 '
        set -e
        mount -t virtiofs share /mnt/b
        flock=/tools/usr/bin/flock
        echo 0 > /mnt/a/counter
        for w in 1 2 3 4; do
            for n in 1 2 3 4 5 6 7 8 9 10; do
                [ $((w % 2)) = 0 ] && m=/mnt/a || m=/mnt/b
                $flock $m/counter sh -c "echo \$((\$(cat $m/counter) + 1)) > $m/counter.new; cat $m/counter.new > $m/counter"
            done &
        done
        wait
        cat /mnt/a/counter
        $flock -n /mnt/a/lock sh -c "$flock -n /mnt/b/lock true || echo held"
        $flock -n /mnt/b/lock echo free
        umount /mnt/b'
    [ "$output" = $'40\nheld\nfree' ] || fail "$output"
    # what the host changes is what the guest reads next
    head -c 300K /dev/urandom > "$D/share/guest/4"
    run -0 vm_guest a 'sleep 1; sha256sum < /mnt/a/guest/4; umount /mnt/a'
    [ "$output" = "$(sha256sum < "$D/share/guest/4")" ]
}

@test "qemu-storage-daemon with 4 queues and 4 CPUs: fio verifies on all of them, and all were used" {
    run -0 vm_guest a -t 200 '
        for i in 1 2 3; do echo 1 > /sys/devices/system/cpu/cpu$i/online; done
        cd /run
        ls -d /sys/block/vda/mq/* | wc -l
        i=0
        while [ $i -lt 4 ]; do
            set -- "$@" --name=q$i --offset=$((i * 12))M --size=6M --cpus_allowed=$i
            i=$((i + 1))
        done
        fio --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --verify=crc32c \
            --verify_fatal=1 --do_verify=1 --minimal "$@" > fio.out || { cat fio.out; exit 1; }
        cut -d ";" -f 3,5,6,47 fio.out
        grep "virtio[0-9]*-req" /proc/interrupts | awk "{ n = 0; for (i = 2; i <= 5; i++) n += \$i; print \"interrupts\", (n > 50) }"'
    echo "$output"
    [ "${lines[0]}" = "$QUEUES" ]
    [ "$(grep -c '^q[0-3];0;' <<< "$output")" = "$QUEUES" ]
    [ "$(grep -c '^interrupts 1' <<< "$output")" -ge "$QUEUES" ]
    # each queue's part has data where fio wrote
    for i in 0 1 2 3; do
        ! cmp -s -n 6291456 -i $((i * 12582912)):0 "$D/mq.img" /dev/zero || fail "nothing was written by queue $i"
    done
}
