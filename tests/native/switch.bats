# minivmm-switch with front-ends of ours, in a network name space of the test's own: switch-front-end has the scenarios.
# The uplink needs /dev/net/tun; no KVM.
load helpers

setup() {
    common minivmm-switch
    needs_name_spaces
}

scenario() { # NAME
    timeout 100 "$TOP/tests/native/switch-front-end" "$BIN/minivmm-switch" "$D/sock" "$1"
    [ ! -e "$D/sock" ]
}

@test "two drivers of every kind talk, a third hears what is for all and nothing else" {
    scenario two
}

@test "eight drivers: each with each, and one to all" {
    scenario eight
}

@test "thousands of frames: none lost, none twice, in order" {
    scenario many
}

@test "a frame in many small buffers, in pieces, in buffers that are too small" {
    scenario merged
}

@test "open checksums and TCP segments, for who takes them and for who does not" {
    scenario offloads
}

@test "who has no buffers loses frames, nobody waits, no wake-up is lost" {
    scenario no_buffers
}

@test "rings that break the rules (G22-G28) stop their own port" {
    scenario hostile
}

@test "half a message, none, garbage, unread replies: nobody else is held up" {
    scenario mute
}

@test "a front-end that floods is killed, five times" {
    scenario killed
}

@test "eventfds of a front-end, full and blocking: nobody waits for it" {
    scenario full
}

@test "descriptors that make who closes them wait: nobody waits" {
    scenario closed
}

@test "guest memory is truncated in the middle: that port is closed" {
    scenario truncated
}

@test "a log and a record in huge pages are truncated: the same, and none is kept" {
    [ "$(sed -n 's/^HugePages_Free: *//p' /proc/meminfo)" -ge 3 ] || skip "no huge pages are free (/proc/sys/vm/nr_hugepages); tests/e2e has some"
    scenario huge
}

@test "guest memory that a file system could hold up is refused" {
    scenario files
}

@test "guest memory without end, a pipe that is made blocking: nobody else is held up" {
    scenario greedy
}

@test "made-up and stolen addresses take nothing from anybody" {
    scenario forged
}

@test "frames to all are limited for each port" {
    scenario flood
}

@test "a hundred ports come and go" {
    scenario restarted
}

@test "it sleeps when there is nothing to do; --poll looks all the time, on --cpus" {
    scenario sleeps
}

@test "uplink tap: ARP, ping and UDP, and it goes away" {
    [ -w /dev/net/tun ] || skip "no access to /dev/net/tun"
    command -v ip > /dev/null || skip "iproute2 is not installed"
    scenario uplink
}

@test "what cannot work is refused in one sentence" {
    scenario refused
}

qemu() { # NUMBER DEVICE-OPTION COMMAND: a Linux guest under QEMU's emulator, until it powers off
    local lib=$TREE/usr/lib/x86_64-linux-gnu words
    words=$(base64 -w 0 <<< "ip addr add 10.0.0.$1/24 dev eth0 && ip link set eth0 up; $3")
    timeout 90 "$TREE/lib64/ld-linux-x86-64.so.2" --argv0 qemu-system-x86_64 --library-path "$lib:$lib/pulseaudio" \
        "$TREE/usr/bin/qemu-system-x86_64" -L "$TREE/usr/share/qemu" -L "$TREE/usr/share/seabios" -M q35,memory-backend=m \
        -accel tcg -cpu max -m 96 -object memory-backend-memfd,id=m,size=96M,share=on -nodefaults -no-user-config -display none \
        -serial stdio -no-reboot -kernel "$GUEST/rig-bzImage" -initrd "$GUEST/rig-initrd" \
        -append "console=ttyS0 quiet panic=-1 minivmm.run64=$words" -chardev "socket,id=c,path=$D/sock" \
        -netdev vhost-user,id=n,chardev=c -device "virtio-net-pci,netdev=n,mac=52:54:00:00:00:0$1,$2" 3>&- | tr -d '\r'
}

@test "two Linux guests under QEMU, one with packed rings: 20 MB of TCP" {
    GUEST=$CACHE/guest
    [ -x "$TREE/usr/bin/qemu-system-x86_64" ] && [ -e "$GUEST/rig-bzImage" ] || skip "the rig's tree is not built (make rig)"
    "$BIN/minivmm-switch" -v --socket-path "$D/sock" 2> "$D/log" 3>&- &
    local switch=$! first second
    listening
    qemu 2 packed=on 'tail -f /dev/null | nc -l -p 5000 > /run/got &
        until [ "$(stat -c %s /run/got)" -ge 20000000 ] 2> /dev/null; do sleep 0.2; done; echo sum $(sha256sum < /run/got)' > "$D/second" &
    second=$!
    qemu 1 packed=off 'head -c 20000000 /dev/urandom > /run/file; until ping -c 1 -W 2 10.0.0.2; do sleep 0.2; done > /dev/null
        until nc 10.0.0.2 5000 < /run/file > /dev/null; do sleep 0.2; done; echo sum $(sha256sum < /run/file)' > "$D/first"
    wait "$second"
    kill "$switch"
    wait "$switch"
    cat "$D/log" "$D/first" "$D/second"
    first=$(grep '^sum [0-9a-f]* -' "$D/first")
    [ "$first" = "$(grep '^sum [0-9a-f]* -' "$D/second")" ]
    grep -q ' wrong, 0 in another.* lost [0-9]*, worked on 0' "$D/log" # large frames went as they were
}

@test "it needs each row of its system call table, and nothing else" {
    needs_strace
    [ -w /dev/net/tun ] || skip "no access to /dev/net/tun"
    "$BIN/minivmm-switch" --print-syscalls > "$D/table"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nexec strace -D -o "%s/strace.$$" -f -e raw=all "%s" "$@"\n' "$D" "$BIN/minivmm-switch" > "$D/traced"
    chmod +x "$D/traced"
    timeout 100 "$TOP/tests/native/switch-front-end" "$D/traced" "$D/sock" two truncated uplink
    sleep 1 # strace writes on when its program has ended
    "$TOP/tests/native/unused-rules" "$D/table" "$D"/strace.*
}
