# The serial port somewhere else than on standard input and output.
# weight: 35
load lib/helpers

serial() { printf '[serial]\nto = "%s"\n' "$1"; }

# Lets the helpers talk to it: $D/a/in and $D/a/console are joined to ADDRESS.
join() { # NAME ADDRESS
    peer_start "$1" socat "$2" "OPEN:$D/a/in,rdonly!!OPEN:$D/a/console,append"
}

@test "pty" {
    local pty
    need socat
    { vm_boot rig minivmm.agent; serial pty; } | vm_start a
    wait_for 10 grep -q 'serial port is /dev/pts/' "$D/a/stderr"
    pty=$(sed -n 's/.*serial port is //p' "$D/a/stderr")
    join con "$pty,raw,echo=0"
    run -0 vm_guest a 'echo over a pty'
    [ "$output" = "over a pty" ]
    # whoever leaves may come back, and what is typed is the guest's, byte by byte: Ctrl-A and Ctrl-C too
    peer_stop con
    join con "$pty,raw,echo=0"
    vm_send a $'y \x01\x03x\n'
    run -0 vm_guest a 'echo again'
    [ "$output" = again ]
    vm_stop a
    wait_for 5 pid_gone "$(peer_pid con)"
    [ ! -e "$pty" ]
}

@test "file" {
    { vm_boot rig 'minivmm.run="echo into a file; seq 1 3000 | md5sum; seq 1 3000"'; serial "file:$D/a/serial.log"; } |
        vm_start a
    vm_exit a "$BOOT_SECS"
    [ ! -s "$D/a/console" ]
    tr -d '\r' < "$D/a/serial.log" > "$D/a/console"
    vm_result a > "$D/result"
    [ "$(sed -n 1p "$D/result")" = "into a file" ]
    [ "$(sed -n 2p "$D/result")" = "$(seq 1 3000 | md5sum)" ]
    [ "$(sed -n '3,3002p' "$D/result" | md5sum)" = "$(seq 1 3000 | md5sum)" ]
}

@test "unix" {
    need socat
    { vm_boot rig minivmm.agent; serial "unix:$D/serial.sock"; } | vm_start a
    socket_wait "$D/serial.sock"
    join con "UNIX-CONNECT:$D/serial.sock"
    run -0 vm_guest a 'echo over a socket'
    [ "$output" = "over a socket" ]
    # one after the other; and nobody there is nobody's trouble
    peer_stop con
    nap 1
    join con2 "UNIX-CONNECT:$D/serial.sock"
    run -0 vm_guest a 'echo again'
    [ "$output" = again ]
    vm_stop a
    wait_for 5 pid_gone "$(peer_pid con2)"
    # the socket's file goes with its monitor
    [ ! -e "$D/serial.sock" ]
}
