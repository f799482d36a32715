# minivmm-console against a front-end of ours, with the host's ends of its ports at hand: console-front-end has the scenarios.
# No root, no KVM.
load helpers

setup() { common minivmm-console; }

scenario() { # NAME
    timeout 100 "$TOP/tests/native/console-front-end" "$BIN/minivmm-console" "$D" "$1"
    [ ! -e "$D/sock" ]
}

@test "socket ports: both directions, clients that come and go, ring features on and off" {
    scenario sockets
}

@test "a driver without control queues has its one port" {
    scenario plain
}

@test "ptys: raw, their size, opened and left again and again" {
    scenario terminals
}

@test "a terminal's new size: a change of the configuration, and a message for who takes those" {
    scenario resized
}

@test "killed and started again: ports are as the driver has them, what it has closed waits" {
    scenario killed
}

@test "standard input and output, as pipes and as a terminal that is given back; descriptors; a file" {
    scenario streams
}

@test "a slow reader stops its port and no other, and gets every byte once" {
    scenario slow
}

@test "what comes before the guest has the port open waits; a driver that was there before goes on" {
    scenario late
}

@test "control messages: senseless ones, and a driver that takes none" {
    scenario control
}

@test "rings that break the rules (G22-G28) on each kind of queue, and the next driver" {
    scenario hostile
}

@test "what it says of itself, and what it refuses" {
    run -0 --separate-stderr "$BIN/minivmm-console" --print-capabilities
    python3 -c 'import json, sys; assert json.loads(sys.argv[1])["type"] == "console"' "$output"
    refused() { # REASON ARG...
        local reason=$1
        shift
        run timeout 10 "$BIN/minivmm-console" --socket-path "$D/sock" "$@" < /dev/null
        [[ $status = [12] && $output == *"$reason"* ]] || { echo "$status $output"; return 1; }
        [ ! -e "$D/sock" ]
    }
    refused "--port is missing"
    refused "none of stdio, pty" --port con=tty
    refused "none of stdio, pty" --port con=socket:
    refused "begin with a name" --port =pty
    refused "begin with a name" --port a/b=pty
    refused "begin with a name" --port "$(printf '%065d' 1)=pty"
    refused "two of this name" --port a=pty --port a=stdio
    refused "has standard input" --port a=stdio --port b=stdio
    refused "Bad file descriptor" --port a=fd:99
    refused "No such file" --port "a=socket:$D/none/x"
    refused "Is a directory" --port "a=file:$D"
    touch "$D/file"
    refused "something is there" --port "a=socket:$D/file"
    refused "a file is none" --port a=fd:7 7< "$D/file"
    local many=() i
    for i in $(seq 32); do many+=(--port "p$i=pty"); done
    refused "more than 31" "${many[@]}"
}

@test "thirty-one ports" {
    local many=() i
    for i in $(seq 31); do many+=(--port "p$i=socket:$D/p$i"); done
    "$BIN/minivmm-console" --socket-path "$D/sock" "${many[@]}" 2> "$D/log" 3>&- &
    local pid=$!
    listening
    PYTHONPATH="$TOP/tests/native" timeout 30 python3 -c '
import socket, sys
from vhost_user import FrontEnd
front_end = FrontEnd(sys.argv[1] + "/sock", 1 << 17)
front_end.start(2, range(64), 64, config=8)
clients = []
for i in range(31):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    s.connect(f"{sys.argv[1]}/p{i + 1}")
    clients.append(s)
for i in range(31):
    q = front_end.queues[2 * i + 3 if i else 1]
    data = b"port %d" % i
    while True:  # until the client is accepted, nobody hears
        q.offer(out=[data])
        assert q.used()
        clients[i].settimeout(0.1)
        try:
            assert clients[i].recv(100)[: len(data)] == data
            break
        except TimeoutError:
            pass
' "$D"
    kill -TERM "$pid"
    wait "$pid"
    [ -z "$(find "$D" -type s)" ]
}

@test "it needs each row of its system call table, and nothing else" {
    needs_strace
    "$BIN/minivmm-console" --print-syscalls > "$D/table"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nexec strace -D -o "%s/strace.$$" -f -e raw=all "%s" "$@"\n' "$D" "$BIN/minivmm-console" > "$D/traced"
    chmod +x "$D/traced"
    timeout 100 "$TOP/tests/native/console-front-end" "$D/traced" "$D" everything streams
    sleep 1 # strace writes on when its program has ended
    "$TOP/tests/native/unused-rules" "$D/table" "$D"/strace.*
}
