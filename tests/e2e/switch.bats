# Linux guests under minivmm, a process each, on one minivmm-switch.
# weight: 110
load lib/helpers

SWITCH=${MINIVMM_SWITCH:-$TOP/minivmm-switch}
SIZE=8388608

switch_start() { # ARG...
    peer_start switch "$SWITCH" -v --vhost-user "$D/net.sock" "$@"
    socket_wait "$D/net.sock"
}

guest_start() { # NAME [DISK]
    {
        MEMORY=${MEMORY:-96M} vm_boot rig minivmm.agent
        printf '[[device]]\nid = "net0"\nvia = "vhost-user"\nvirtio = "net"\nsocket = "%s"\n' "$D/net.sock"
        [ $# = 1 ] || printf '[[device]]\nid = "s"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$2"
    } | vm_start "$1"
}

guest_up() { # NAME NUMBER
    run -0 vm_guest "$1" "ip addr add 10.0.0.$2/24 dev eth0 && ip link set eth0 up"
}

transfer() { # FROM TO NUMBER-OF-TO: a file over TCP, whose checksum is then the same
    local sum
    run -0 vm_guest "$2" 'rm -f /run/got; tail -f /dev/null | nc -l -p 5000 > /run/got 2> /dev/null &'
    run -0 vm_guest "$1" -t 120 "
        [ -e /run/file ] || head -c $SIZE /dev/urandom > /run/file
        until nc 10.0.0.$3 5000 < /run/file > /dev/null 2>&1; do sleep 0.2; done
        sha256sum < /run/file"
    sum=$output
    run -0 vm_guest "$2" -t 120 "until [ \$(stat -c %s /run/got) -ge $SIZE ]; do sleep 0.1; done; sha256sum < /run/got"
    [ "$output" = "$sum" ] || fail "sent $sum, received $output"
}

@test "two guests: addresses by broadcast, a file each way; a third floods, one is killed and comes again" {
    local mac
    switch_start
    guest_start a
    guest_start b
    guest_start c
    guest_up a 1
    guest_up b 2
    guest_up c 3
    run -0 vm_guest a 'cat /sys/class/net/eth0/address; ping -c 3 -W 5 10.0.0.2 && ping -c 1 -W 5 10.0.0.3'
    [[ $output =~ ^.[26ae]: ]]
    mac=${output%%$'\n'*}
    run -0 vm_guest b 'ip neigh show 10.0.0.1'
    [[ $output == *"$mac"* ]] || fail "$output, not $mac"
    transfer a b 2
    transfer b a 1

    # c sends to everybody, as fast as it can
    run -0 vm_guest c 'arp -i eth0 -s 10.0.0.99 ff:ff:ff:ff:ff:ff
        for i in 1 2 3 4; do ping -i 0.001 -q 10.0.0.99 > /dev/null 2>&1 & done; sleep 2
        cat /sys/class/net/eth0/statistics/tx_packets'
    [ "$output" -gt 50 ] || fail "c sent $output frames"
    run -0 vm_guest a 'ping -c 3 -W 5 10.0.0.2'
    transfer a b 2

    # killed in the middle of that: the others do not notice, and it comes again
    kill -KILL "$(vm_pid c)"
    run vm_exit c 10
    transfer b a 1
    guest_start c
    guest_up c 3
    run -0 vm_guest c 'ping -c 2 -W 5 10.0.0.1 && ping -c 2 -W 5 10.0.0.2'
    vm_stop a
    vm_stop b
    vm_stop c
    peer_stop switch
    cat "$D/switch.log"
}

@test "iperf3 between two guests: TCP each way, and datagrams" {
    local iperf3 n
    iperf3=$(on_disk iperf3)
    need iperf3
    switch_start
    program_disk "$D/iperf3.img" iperf3
    guest_start a "$D/iperf3.img"
    guest_start b "$D/iperf3.img"
    guest_up a 1
    guest_up b 2
    for n in a b; do run -0 vm_guest "$n" 'mkdir -p /s /tmp && mount -o ro /dev/vda /s && ip link set lo up'; done
    run -0 vm_guest b "$iperf3 --server --daemon --logfile /run/iperf3.log; sleep 1"
    # it counts what arrived; the sums of the other tests say that it is what was sent
    run -0 vm_guest a -t 120 "$iperf3 --client 10.0.0.2 --bytes 16M --forceflush && $iperf3 --client 10.0.0.2 --bytes 16M --reverse"
    [ "$(grep -Ec '16\.[0-9] MBytes .* receiver' <<< "$output")" = 2 ] || fail "$output"
    run -0 vm_guest a -t 120 "$iperf3 --client 10.0.0.2 --udp --bitrate 10M --time 3"
    [[ $output =~ (' '([0-9]+)/([0-9]+)' '.*receiver) ]] || fail "$output"
    [ "${BASH_REMATCH[3]}" -gt 100 ] && [ $((BASH_REMATCH[2] * 10)) -lt "${BASH_REMATCH[3]}" ] || fail "$output"
    vm_stop a
    vm_stop b
    peer_stop switch
}

@test "uplink: a guest and its host" {
    modprobe tun 2> /dev/null || true
    [ -w /dev/net/tun ] && [ "$(id -u)" = 0 ] || skip "no right to make a tap"
    ip tuntap add mini-up mode tap
    ip addr add 10.0.0.254/24 dev mini-up
    ip link set mini-up up
    switch_start --tap mini-up
    guest_start a
    guest_up a 1
    run -0 vm_guest a 'ping -c 3 -W 5 10.0.0.254'
    run -0 ping -c 3 -W 5 10.0.0.1
    head -c $SIZE /dev/urandom > "$D/file"
    peer_start sender socat -u "OPEN:$D/file" TCP-LISTEN:5001,reuseaddr
    run -0 vm_guest a -t 120 'until nc 10.0.0.254 5001 < /dev/null > /run/got; do sleep 0.2; done; sha256sum < /run/got'
    [ "$output" = "$(sha256sum < "$D/file")" ]
    wait_for 10 pid_gone "$(peer_pid sender)"
    vm_stop a
    peer_stop switch
    ip link del mini-up
}

@test "eight guests: each reaches each" {
    local names=(a b c d e f g h) n i
    switch_start
    for n in "${names[@]}"; do MEMORY=64M guest_start "$n"; done
    for i in "${!names[@]}"; do
        run -0 vm_guest "${names[i]}" -t 200 "ip addr add 10.0.0.$((i + 1))/24 dev eth0 && ip link set eth0 up"
    done
    for n in "${names[@]}"; do
        run -0 vm_guest "$n" 'for i in 1 2 3 4 5 6 7 8; do ping -c 1 -W 20 -q 10.0.0.$i > /dev/null || exit; done; echo all'
        [ "$output" = all ] || fail "$n: $output"
    done
    for n in "${names[@]}"; do vm_stop "$n"; done
    peer_stop switch
}
