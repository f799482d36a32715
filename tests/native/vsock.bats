# minivmm-vsock against a front-end of ours, with the host's programs at hand: vsock-front-end has the scenarios.  No root, no KVM.
load helpers

setup() { common minivmm-vsock; }

scenario() { # NAME
    timeout 100 "$TOP/tests/native/vsock-front-end" "$BIN/minivmm-vsock" "$D" "$1"
    [ ! -e "$D/sock" ]
}

@test "connections from either side, data of all sizes, each kind of end, ring features on and off" {
    scenario both
}

@test "C08 of its socket: ports where nobody is, programs that do not say CONNECT or half of it, and what nobody answers" {
    scenario nobody
}

@test "C08 of its socket: flow control to the byte, both ways; one that does not read holds up nobody else" {
    scenario credit
}

@test "ten million bytes each way at once; a close behind much data loses none of it" {
    scenario lots
}

@test "C08 of its socket: 1024 connections, and one more; a listener whose queue is full" {
    scenario many
}

@test "no buffers to receive into: the guest's data goes on, answers are kept up to their number" {
    scenario starved
}

@test "packets that make no sense" {
    scenario senseless
}

@test "rings that break the rules (G22-G28) on each queue, and the next driver" {
    scenario hostile
}

@test "killed and started again: the driver hears that its connections are no more" {
    scenario killed
}

@test "what it says of itself, and what it refuses" {
    run -0 --separate-stderr "$BIN/minivmm-vsock" --print-capabilities
    python3 -c 'import json, sys; assert json.loads(sys.argv[1])["type"] == "vsock"' "$output"
    refused() { # REASON ARG...
        local reason=$1
        shift
        run timeout 10 "$BIN/minivmm-vsock" --socket-path "$D/sock" "$@" < /dev/null
        [[ $status = [12] && $output == *"$reason"* ]] || { echo "$status $output"; return 1; }
        [ ! -e "$D/sock" ]
        [ ! -e "$D/v" ]
    }
    refused "--cid is missing" --socket "$D/v"
    refused "--socket is missing" --cid 3
    for cid in 0 2 4294967295 -1 x; do
        refused "not a number from 3 to 4294967294" --cid $cid --socket "$D/v"
    done
    refused "No such file" --cid 3 --socket "$D/none/v"
    cd "$D"
    refused "too long" --cid 3 --socket "$(printf '%0100d' 1)"
    touch "$D/file"
    refused "Bad file descriptor" --cid 3 --socket fd:99
    refused "not a listening socket" --cid 3 --socket fd:7 7<> "$D/file"
    refused "something is there" --cid 3 --socket "$D/file"
}

@test "neither it nor the process that connects for it can be talked into more" {
    "$BIN/minivmm-vsock" --print-syscalls > "$D/table"
    run -0 cut -f 1 "$D/table"
    for call in socket connect open openat execve clone bind listen; do
        ! grep -qx "$call" <<< "$output" || false
    done
    run -0 grep -c '^aside	' "$D/table"
    [ "$output" -ge 5 ]
}

@test "it needs each row of its system call tables, and nothing else" {
    needs_strace
    "$BIN/minivmm-vsock" --print-syscalls | sed 's/^aside	//' > "$D/table"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nexec strace -D -o "%s/strace.$$" -f -e raw=all "%s" "$@"\n' "$D" "$BIN/minivmm-vsock" > "$D/traced"
    chmod +x "$D/traced"
    timeout 100 "$TOP/tests/native/vsock-front-end" "$D/traced" "$D" everything
    sleep 1 # strace writes on when its program has ended
    "$TOP/tests/native/unused-rules" "$D/table" "$D"/strace.*
}

@test "it and the process that connects for it stay below 512 kB, also after 200 connections" {
    "$BIN/minivmm-vsock" --socket-path "$D/sock" --cid 3 --socket "$D/vm.vsock" 2> "$D/log" 3>&- &
    local pid=$! connector
    listening
    pss() { sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$1/smaps_rollup"; }
    connector=$(pgrep -n -x vsock-connector)
    # the front-end's memory is not its own: none is there now
    python3 -c '
import socket, sys
all = [socket.socket(socket.AF_UNIX) for _ in range(200)]
for s in all:
    s.connect(sys.argv[1])
    s.sendall(b"CONNECT 5\n")
for s in all:
    assert s.recv(1) == b""' "$D/vm.vsock" || true
    echo "$(pss "$pid") kB and $(pss "$connector") kB"
    [ "$(pss "$pid")" -gt 10 ]
    [ $(($(pss "$pid") + $(pss "$connector"))) -le 512 ]
    kill -TERM "$pid"
    wait "$pid"
}
