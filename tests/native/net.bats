# minivmm-net on real taps, in a network name space of the test's own, with a front-end of ours: net-front-end has the scenarios.
# Needs /dev/net/tun; no KVM.
load helpers

setup() {
    common minivmm-net
    needs_tun
    needs_name_spaces
}

scenario() { # NAME
    timeout 100 "$TOP/tests/native/net-front-end" "$BIN/minivmm-net" "$D/sock" "$1"
    [ ! -e "$D/sock" ]
}

@test "ARP, ICMP and UDP in both directions, ring features on and off" {
    scenario plain
}

@test "merged receive buffers: 9000-byte packets in 256-byte buffers, one larger than all that was offered" {
    scenario merged
}

@test "checksums and TCP segments in both directions, as negotiated and not otherwise" {
    scenario offloads
}

@test "control queue: what is accepted and what is refused" {
    scenario control
}

@test "a guest that moved: what its driver had said, its MTU, and a RARP" {
    scenario moved
}

@test "killed and started again: its address, offloads and pairs are what the driver said" {
    scenario killed
}

@test "thousands of packets: none lost, none twice, in order" {
    scenario many
}

@test "packets with wrong headers or lengths are dropped and counted" {
    scenario wrong_packets
}

@test "rings that break the rules (G22-G28), and the next driver" {
    scenario hostile
}

@test "four pairs of queues, chosen by the control queue or by the front-end" {
    scenario queues
}

@test "taps handed over as descriptors" {
    scenario descriptors
}

@test "minivmm-net-control: commands for pairs whose packets another program moves; killed, they are as they were" {
    timeout 100 "$TOP/tests/native/net-front-end" "$BIN/minivmm-net-control" "$D/sock" commands
    run -2 "$BIN/minivmm-net-control" --socket-path "$D/sock" --tap tap0
    [[ $output == *'"tap0" is no descriptor, fd:N'* ]]
    run ! "$BIN/minivmm-net-control" --socket-path "$D/sock" --tap fd:0
    [[ $output == *'two or more are needed'* ]]
    [ ! -e "$D/sock" ]
}

@test "the interface is removed under a driver" {
    command -v ip > /dev/null || skip "iproute2 is not installed"
    scenario gone
}

@test "what cannot work is refused in one sentence" {
    scenario refused
}

@test "capabilities are JSON" {
    run -0 --separate-stderr "$BIN/minivmm-net" --print-capabilities
    python3 -c 'import json, sys; assert json.loads(sys.argv[1])["type"] == "net"' "$output"
}

# Each row of a program's table is used in these scenarios.
needs_its_rows() { # PROGRAM SCENARIO...
    local traced=$D/traced/$1
    mkdir -p "$D/traced"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nexec strace -D -o "%s.strace.$$" -f -e raw=all "%s" "$@"\n' "$traced" "$BIN/$1" > "$traced"
    chmod +x "$traced"
    timeout 100 "$TOP/tests/native/net-front-end" "$traced" "$D/sock" "${@:2}"
    sleep 1 # strace writes on when its program has ended
    "$BIN/$1" --print-syscalls > "$D/table"
    "$TOP/tests/native/unused-rules" "$D/table" "$traced".strace.*
}

@test "they need each row of their system call tables, and nothing else" {
    needs_strace
    needs_its_rows minivmm-net plain control queues
    needs_its_rows minivmm-net-control commands
}
