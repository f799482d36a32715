# AF_VSOCK of a Linux guest: minivmm-vsock under minivmm and under QEMU, and another's back-end under minivmm.
# weight: 110
load lib/helpers

# The first test starts more than 200 programs in a nested guest: two to three minutes of the 240 s that a test has.
BATS_TEST_TIMEOUT=360

MINIVMM_VSOCK=${MINIVMM_VSOCK:-$TOP/minivmm-vsock}
HOST=$TOP/tests/e2e/lib/vsock-host

# A disk with socat for the guest, which knows VSOCK, and all that it loads.
socat_disk() {
    local f
    mkdir -p "$D/socat/lib"
    cp -L "$(command -v socat)" "$D/socat/"
    ldd "$D/socat/socat" | sed -n 's,^[^/]*\(/[^ ]*\) (.*,\1,p' | while read -r f; do cp -L "$f" "$D/socat/lib/"; done
    truncate -s 16M "$D/socat.img"
    mke2fs -q -t ext4 -O ^has_journal -d "$D/socat" "$D/socat.img"
}

# What a guest with that disk at DEVICE does first; /run/socat is its command from then on.
#
# Never more than a page at a time: socat's PIPE is its own reader, poll(2) calls a pipe with one free page writable, and a
# write of more than that page waits in it for ever.
guest_ready() { # DEVICE
    echo "set -e
        modprobe ext4; modprobe vmw_vsock_virtio_transport
        mkdir -p /s; mount -o ro $1 /s
        socat='/s/lib/ld-linux-x86-64.so.2 --library-path /s/lib /s/socat -b 4096'
        echo \"\$socat \\\"\\\$@\\\"\" > /run/socat"
}

disks() {
    printf '[[device]]\nid = "tools"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$GUEST/tools.img"
    printf '[[device]]\nid = "socat"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$D/socat.img"
}

# Both directions with a guest that is up as `a`: sums, echoes, many at a time.
talk() { # PATH BYTES COUNT
    run -0 vm_guest a "$(guest_ready /dev/vdb)
        sh /run/socat VSOCK-LISTEN:5000,fork,backlog=200 EXEC:sha256sum > /run/log 2>&1 &
        sh /run/socat VSOCK-LISTEN:5001,fork,backlog=200 PIPE >> /run/log 2>&1 &"
    wait_for 60 timeout 30 "$HOST" sum "$1" 5000 10
    wait_for 60 timeout 30 "$HOST" echo "$1" 5001 10
    run -0 timeout 100 "$HOST" sum "$1" 5000 "$2"
    run -0 timeout 100 "$HOST" echo "$1" 5001 "$2"
    run -0 timeout 100 "$HOST" many "$1" 5001 "$3"
    peer_start serve "$HOST" serve "$1" 6000 1
    wait_for 10 grep -q listening "$D/serve.log"
    run -0 vm_guest a -t 100 "dd if=/dev/urandom of=/run/data bs=$2 count=1 2> /dev/null
        sha256sum < /run/data | cut -d ' ' -f 1
        sh /run/socat -t 60 - VSOCK-CONNECT:2:6000 < /run/data"
    [[ ${#lines[0]} = 64 && ${lines[0]} = "${lines[1]}" ]] || fail "$output"
    wait_for 10 pid_gone "$(peer_pid serve)"
    grep -qx "$2 ${lines[0]}" "$D/serve.log"
    # nobody there, in either direction
    run -0 vm_guest a 'sh /run/socat - VSOCK-CONNECT:2:6001 < /dev/null 2>&1 || echo refused'
    [[ $output == *reset*refused || $output == *refused ]] || fail "$output"
    run -1 timeout 20 "$HOST" sum "$1" 5999 10
}

# The same with a device that ends both directions of a connection when the host ends one: nobody waits for an end.
talk_open() { # PATH BYTES
    run -0 vm_guest a "$(guest_ready /dev/vdb)
        sh /run/socat VSOCK-LISTEN:5001,fork PIPE > /run/log 2>&1 &"
    wait_for 60 timeout 30 "$HOST" echo "$1" 5001 10
    run -0 timeout 100 "$HOST" echo "$1" 5001 "$2"
    peer_start serve socat -b 4096 "UNIX-LISTEN:$1_6000" PIPE
    socket_wait "$1_6000"
    run -0 vm_guest a -t 100 "dd if=/dev/urandom of=/run/data bs=$2 count=1 2> /dev/null
        sha256sum < /run/data | cut -d ' ' -f 1
        (cat /run/data; while [ ! -e /run/all ]; do sleep 0.2; done) | sh /run/socat - VSOCK-CONNECT:2:6000 |
            (head -c $2 | sha256sum | cut -d ' ' -f 1; touch /run/all)"
    [[ ${#lines[0]} = 64 && ${lines[0]} = "${lines[1]}" ]] || fail "$output"
    peer_stop serve
    rm -f "$1_6000"
}

# As many of the guest's own at a time, each with its text.
talk_many() { # PATH COUNT
    peer_start serve "$HOST" serve "$1" 6002 "$2"
    wait_for 10 grep -q listening "$D/serve.log"
    run -0 vm_guest a -t 150 "
        i=0
        while [ \$i -lt $2 ]; do
            (echo text \$i | sh /run/socat -t 60 - VSOCK-CONNECT:2:6002 > /run/out.\$i 2>&1) &
            i=\$((i + 1))
        done
        wait
        i=0
        while [ \$i -lt $2 ]; do
            [ \"\$(cat /run/out.\$i)\" = \"\$(echo text \$i | sha256sum | cut -d ' ' -f 1)\" ] || cat /run/out.\$i
            i=\$((i + 1))
        done"
    [ -z "$output" ] || fail "$output"
    wait_for 10 pid_gone "$(peer_pid serve)"
    [ "$(grep -c '^[78] ' "$D/serve.log")" = "$2" ]
}

@test "minivmm-vsock: 10 MB each way and both ways at once, 100 connections from each side" {
    local pid
    socat_disk
    {
        CPUS=2 vm_boot debian minivmm.agent minivmm.tools=/dev/vda
        disks
        printf '[[device]]\nid = "v"\nvirtio = "vsock"\ncid = 42\npath = "../vm.vsock"\n'
    } | vm_start a
    talk "$D/vm.vsock" 10485760 100
    talk_many "$D/vm.vsock" 100

    # Killed with a connection open: it is started again, the guest hears that its connections are no more, and goes on.
    run -0 vm_guest a '(sh /run/socat VSOCK-LISTEN:5002 EXEC:cat; echo ended > /run/ended) > /run/log2 2>&1 &
        for i in $(seq 60); do ps | grep -q "[s]/socat VSOCK-LISTEN:5002" && break; sleep 0.5; done
        sleep 2'
    peer_start hold "$HOST" hold "$D/vm.vsock" 5002 0
    wait_for 30 grep -q open "$D/hold.log"
    pid=$(pgrep -x minivmm-vsock)
    kill -KILL "$pid"
    wait_for 10 pid_gone "$(peer_pid hold)"
    run -0 vm_guest a 'for i in $(seq 30); do [ ! -e /run/ended ] || break; sleep 0.5; done; cat /run/ended'
    [ "$output" = ended ]
    run -0 timeout 100 "$HOST" echo "$D/vm.vsock" 5001 100000
    [ "$(pgrep -x minivmm-vsock)" != "$pid" ]
    vm_stop a
    wait_for 5 test ! -e "$D/vm.vsock"
}

@test "minivmm-vsock under QEMU as the front-end" {
    local words
    need qemu-system-x86_64
    socat_disk
    peer_start vsock "$MINIVMM_VSOCK" --vhost-user "$D/front.sock" --cid 42 --socket "$D/vm.vsock"
    socket_wait "$D/front.sock"
    peer_start serve "$HOST" serve "$D/vm.vsock" 6000 1
    wait_for 10 grep -q listening "$D/serve.log"
    words=$(guest_words "$(guest_ready /dev/vdb)
        head -c 3000000 /dev/urandom > /run/data
        sha256sum < /run/data | cut -d ' ' -f 1
        sh /run/socat -t 60 - VSOCK-CONNECT:2:6000 < /run/data
        echo now; sh /run/socat VSOCK-LISTEN:5000 EXEC:sha256sum")
    mkdir "$D/q"
    touch "$D/q/vm.toml" "$D/q/stderr" "$D/q/console"
    peer_start q qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 -accel kvm -cpu host \
        -smp 2 -m 384 -object memory-backend-memfd,id=mem,size=384M,share=on -machine memory-backend=mem \
        -kernel "$GUEST/debian-bzImage" -initrd "$GUEST/debian-initrd" -serial "file:$D/q/console" \
        -append "console=ttyS0 panic=-1 quiet minivmm.tools=/dev/vda $words" \
        -drive "if=virtio,format=raw,readonly=on,file=$GUEST/tools.img" \
        -drive "if=virtio,format=raw,readonly=on,file=$D/socat.img" \
        -chardev "socket,id=c0,path=$D/front.sock" -device vhost-user-vsock-pci,chardev=c0
    cp "$D/q.pid" "$D/q/pid"
    vm_line q '^now' 120
    wait_for 60 timeout 30 "$HOST" sum "$D/vm.vsock" 5000 3000000
    run -0 vm_result q 100
    [[ ${#lines[0]} = 64 && ${lines[0]} = "${lines[1]}" ]] || fail "$output"
    wait_for 15 pid_gone "$(peer_pid q)" || fail "QEMU does not end"
    peer_stop vsock
    wait_for 5 test ! -e "$D/vm.vsock"
}

@test "vhost-device-vsock in its jail under minivmm, both directions; killed, it comes back into the same" {
    local pid
    need vhost-device-vsock
    socat_disk
    mkdir "$D/uds"
    {
        vm_boot debian minivmm.agent minivmm.tools=/dev/vda
        disks
        printf '[[device]]\nid = "v"\nvia = "vhost-user"\nvirtio = "vsock"\nsandbox = "vhost-device-vsock"\npaths = ["%s:rw"]\n' "$D/uds"
        printf 'exec = ["%s", "--guest-cid=42", "--socket={socket}", "--uds-path=%s"]\n' "$(command -v vhost-device-vsock)" "$D/uds/vm.vsock"
    } | vm_start a
    talk_open "$D/uds/vm.vsock" 3000000
    device_pid() { pgrep -P "$(vm_pid a)" -f uds-path; }
    another() { device_pid > /dev/null && [ "$(device_pid)" != "$1" ]; }
    pid=$(device_pid)
    grep -q '^NoNewPrivs:.*1$' "/proc/$pid/status"
    grep -q '^Seccomp:.*2$' "/proc/$pid/status"
    [ ! -e "/proc/$pid/root/etc" ]
    [ ! -e "/proc/$pid/root/$GUEST" ]
    [ -d "/proc/$pid/root/$D/uds" ]
    kill -KILL "$pid"
    wait_for 20 another "$pid"
    run -0 vm_guest a 'sh /run/socat VSOCK-LISTEN:5003,fork PIPE > /run/log3 2>&1 &'
    wait_for 60 timeout 30 "$HOST" echo "$D/uds/vm.vsock" 5003 1000
    vm_stop a
    rm -f "$D/uds/vm.vsock"
}
