# What minivmm makes of vfio-user servers without a virtual machine: probe and explain, with tests/native/vfio_user_server.py and programs
# of ours at the other end.
load helpers

setup() { common; }

server() { serve "$BATS_TEST_DIRNAME/vfio_user_server.py" "$@" "$S"; }

stop() {
    kill -KILL "$started" 2> /dev/null || true
    wait "$started" 2> /dev/null || true
    started=
    rm -f "$S"
}

probe() {
    run -0 timeout 10 "$BIN/minivmm" probe --vfio-user "$S"
    echo "$output"
}

has() { # LINE, a pattern
    grep -qx -- "$1" <<< "$output" || { echo "missing: $1"; return 1; }
}

@test "a server in Python, again and again: what it has and what would be used" {
    server
    for _ in 1 2 3; do
        probe
        has 'function  1234:5655, class ff0000'
        has 'offer     max_msg_fds          8: .*'
        has 'offer     twin_socket          not offered'
        has 'offer     write_multiple       not used: .*'
        has 'offer     migration            not offered'
        has 'region    BAR 0                16384 bytes, 2 eventfds'
        has 'region    BAR 1                64 bytes'
        has 'region    BAR 2                65536 bytes, 32768 of them mapped'
        has 'region    config               256 bytes'
        has 'interrupt INTx                 1'
        has 'interrupt MSI-X                4'
        has 'verdict   minivmm would use it'
    done
    kill -0 "$started"
    [ ! -s "$D/log" ]
}

@test "a twin socket is used; a file without a seal is not mapped (B20)" {
    server --twin --fault unsealed
    probe
    has 'offer     twin_socket          used: .*'
    has 'region    BAR 2                65536 bytes, not mapped: its file is not sealed against shrinking .*'
    stop
    server --no-file
    probe
    has 'region    BAR 2                65536 bytes'
}

@test "programs of ours" {
    truncate -s 1M "$D/img"
    serve "$BIN/minivmm-blk" --image "$D/img" --vfio-user "$S"
    probe
    has 'function  1af4:1042, class 018000'
    has 'offer     migration            its state can be moved; not used: .*'
    has 'verdict   minivmm would use it'
    stop
    serve "$BIN/minivmm-pci-example" --vfio-user "$S"
    probe
    has 'region    BAR [0-9] .*'
    has 'verdict   minivmm would use it'
}

@test "servers that misbehave in the handshake: one line, in time, status 1" {
    local before fault at text
    while read -r fault at text; do
        server --fault "$fault" --at "$at"
        before=$SECONDS
        run -1 --separate-stderr timeout 8 "$BIN/minivmm" probe --vfio-user "$S"
        echo "$fault $at: $stderr"
        [ "$output" = "" ]
        [ "${#stderr_lines[@]}" = 1 ]
        [[ $stderr == "minivmm: probe: handshake with $S: the server "*"$text"* ]]
        [ $((SECONDS - before)) -le 4 ]
        stop
    done << 'END'
size+ DEVICE_GET_INFO wrong size
size- DEVICE_GET_REGION_INFO wrong size
size+ DEVICE_GET_IRQ_INFO wrong size
id VERSION nobody asked for
id DEVICE_GET_INFO nobody asked for
flags DEVICE_GET_REGION_INFO unknown flags
command DEVICE_GET_REGION_IO_FDS a reply to another command
fds DEVICE_GET_INFO descriptor
fds DEVICE_GET_REGION_INFO too many descriptors
silence VERSION does not answer
silence DEVICE_GET_IRQ_INFO does not answer
late DEVICE_GET_INFO does not answer
drip DEVICE_GET_INFO does not answer
close DEVICE_GET_REGION_INFO closed its connection
short DEVICE_GET_INFO closed its connection
unasked DEVICE_GET_INFO nobody asked for
twice DEVICE_GET_INFO nobody asked for
json-huge 0 wrong size
json-deep 0 nested too deep
json-utf8 0 not UTF-8
json-type 0 wrong type
major 0 another major version
overlap 0 sparse areas overlap
outside 0 a sparse area outside
chain 0 a chain of capabilities without an end
areas 0 too many sparse areas
huge 0 a size or offset beyond reason
END
}

@test "no server, no socket, wrong usage" {
    run -1 "$BIN/minivmm" probe --vfio-user "$S"
    [[ $output == *"No such file"* ]]
    echo text > "$S"
    run -1 "$BIN/minivmm" probe --vfio-user "$S"
    [[ $output == *"it is not a socket"* ]]
    run -2 "$BIN/minivmm" probe --vfio-user --virtio blk "$S"
    [[ $output == *"exclude each other"* ]]
    run -2 "$BIN/minivmm" probe --vfio-user
    [[ $output == *"which back-end"* ]]
    # A back-end of the other protocol is told apart in time.
    rm -f "$S"
    truncate -s 1M "$D/img"
    serve "$BIN/minivmm-blk" --image "$D/img" --vhost-user "$S"
    run -1 timeout 8 "$BIN/minivmm" probe --vfio-user "$S"
    [[ $output == "minivmm: probe: handshake with $S: the server "* ]]
}

@test "explain: who sees the guest's memory" {
    printf '[boot]\nkernel = "k"\n' > "$D/vm.toml"
    printf '[[device]]\nid = "a"\nvia = "vfio-user"\nsocket = "s"\n' >> "$D/vm.toml"
    printf '[[device]]\nid = "b"\nvia = "vfio-user"\nsocket = "t"\ndma = "messages"\nreconnect = "never"\n' >> "$D/vm.toml"
    run -0 "$BIN/minivmm" -c "$D/vm.toml" --check
    run -0 "$BIN/minivmm" explain -c "$D/vm.toml"
    echo "$output"
    grep -qE '^a +vfio-user +that process +somebody.s process .* connected again' <<< "$output"
    grep -qE '^b +vfio-user +nobody else .* device dead' <<< "$output"
    grep -qE '^  does .*starts or connects again' <<< "$output"
    grep -qE '^ +a: ' <<< "$output"
    ! grep -qE '^ +b: ' <<< "$output" || false
    grep -qE '^  calls, carrier' <<< "$output"
    grep -qE '^  calls, return' <<< "$output"
}
