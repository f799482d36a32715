# A Linux guest's console and named ports on minivmm-console.
# weight: 40
load lib/helpers

port_client() { # NAME COMMAND NUMBER: see below
    timeout 100 python3 - "$D/$1.sock" "$2" "$3" << 'PYTHON'
import hashlib, os, socket, sys
path, command, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(path)
if command == "send":  # so many bytes, then prints their sum
    print("here", flush=True)
    data = os.urandom(number)
    s.sendall(data)
    print(hashlib.sha256(data).hexdigest(), flush=True)
    s.recv(1)  # the guest has it all
elif command == "receive":
    digest, left = hashlib.sha256(), number
    print("here", flush=True)
    while left:
        piece = s.recv(min(left, 65536))
        assert piece, left
        digest.update(piece)
        left -= len(piece)
    print(digest.hexdigest(), flush=True)
elif command == "shell":  # types a line, reads until its answer
    s.sendall(b"echo $((%d * 1000 + 7))x\n" % number)
    seen = b""
    while b"%d007x" % number not in seen:
        piece = s.recv(1000)
        assert piece, seen
        seen += piece
    print("ok")
PYTHON
}

# The port with that name, without udev.
find_port='port() { for p in /sys/class/virtio-ports/*; do if [ "$(cat $p/name)" = $1 ]; then echo /dev/${p##*/}; fi; done; }'

@test "hvc0 and named ports: 10 MB each way, a shell, a file, a pty, clients that come and go" {
    local tty
    {
        CPUS=2 vm_boot debian minivmm.agent minivmm.tools=/dev/vda
        printf '[[device]]\nid = "tools"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$GUEST/tools.img"
        printf '[[device]]\nid = "con"\nvirtio = "console"\n'
        printf 'ports = ["con=socket:../con.sock", "org.example.agent=socket:../agent.sock", "log=file:../log", "tty=pty"]\n'
    } | vm_start a
    run -0 vm_guest a "$find_port
        modprobe virtio_console
        sleep 1
        for n in con org.example.agent log tty; do port \$n; done
        echo a line for the log > \$(port log)
        ls /dev/hvc0"
    [[ $output =~ ^/dev/vport(.)p0.*/dev/vport.p3.*/dev/hvc0$ && ${#lines[@]} = 5 ]] || fail "$output"
    [ "$(cat "$D/log")" = "a line for the log" ]

    # into the guest
    peer_start send bash -c "$(declare -f port_client); D=$D; port_client agent send 10485760"
    wait_for 20 grep -q here "$D/send.log"
    run -0 vm_guest a -t 100 "$find_port"'
        sleep 1 # a port that nobody has open is at its end for Linux
        p=$(port org.example.agent)
        exec 3<> $p
        head -c 10485760 <&3 | sha256sum | cut -d " " -f 1
        echo >&3'
    wait_for 20 pid_gone "$(peer_pid send)"
    [[ ${#output} = 64 && $(tail -n 1 "$D/send.log") = "$output" ]] || fail "$output, $(cat "$D/send.log")"

    # out of it
    peer_start receive bash -c "$(declare -f port_client); D=$D; port_client agent receive 10485760"
    wait_for 20 grep -q here "$D/receive.log"
    run -0 vm_guest a -t 100 "$find_port"'
        dd if=/dev/urandom of=/run/data bs=1M count=10 2> /dev/null
        sha256sum < /run/data | cut -d " " -f 1
        sleep 1
        cat /run/data > $(port org.example.agent)'
    wait_for 30 pid_gone "$(peer_pid receive)"
    [[ ${#output} = 64 && $(tail -n 1 "$D/receive.log") = "$output" ]] || fail "$output, $(cat "$D/receive.log")"

    # a shell on the console; the second client finds it where the first one left it
    run -0 vm_guest a 'setsid sh -c "exec sh -i <> /dev/hvc0 >&0 2>&1" & sleep 1'
    run -0 port_client con shell 41
    run -0 port_client con shell 42

    # a pty, whose name is in the log
    tty=$(sed -n 's,.*port tty is \(/dev/pts/[0-9]*\).*,\1,p' "$D/a/stderr")
    [ -c "$tty" ] || fail "$(cat "$D/a/stderr")"
    run -0 timeout 60 python3 - "$tty" <<< 'import sys; print(sys.argv[1])'
    exec {t}<> "$tty"
    run -0 vm_guest a "$find_port"'
        exec 3<> $(port tty)
        echo question >&3
        read -r line <&3
        echo "got $line"' &
    local guest=$!
    read -rt 30 line <&"$t"
    [ "$line" = question ]
    echo answer >&"$t"
    wait "$guest"
    exec {t}>&-
    vm_stop a
    wait_for 5 test ! -e "$D/con.sock" -a ! -e "$D/agent.sock"
}
