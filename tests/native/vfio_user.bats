# Device programs over vfio-user: with drivers of ours, and in Linux guests of a QEMU that has vfio-user-pci (11.1 when this was
# written), under TCG.  No root, no KVM; taps need /dev/net/tun.
load helpers

setup() {
    common minivmm-blk
    qemu=
}

teardown() {
    [ -z "$qemu" ] || pkill -TERM -P "$qemu" || true
    [ -z "$started" ] || kill -KILL "$started" 2> /dev/null || true
    cat "$D"/*.log 2> /dev/null || true
}

device() { # PROGRAM ARG...
    serve "$BIN/$1" -v --vfio-user "$S" "${@:2}"
}

needs_qemu() {
    QEMU=$CACHE/rig/qemu
    [ -x "$QEMU/bin/qemu-system-x86_64" ] || skip "the newer QEMU was not fetched (make rig)"
    [ -r "$CACHE/guest/rig-bzImage" ] || skip "the guests' kernel is not built (make rig)"
}

vfio_user() { printf '{"driver": "vfio-user-pci", "socket": {"type": "unix", "path": "%s"}}' "$1"; }

# A guest that runs COMMAND (if not empty); its console is $D/console.  Words behind it: the kernel's command line; then, after --, QEMU's.
boot() { # COMMAND [WORD...] [-- ARG...]
    local append
    append="console=ttyS0 quiet${1:+ minivmm.run64=$(printf '%s' "$1" | base64 -w 0)}"
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        append+=" $1"
        shift
    done
    [ $# = 0 ] || shift
    timeout 100 "$QEMU/lib/ld-linux-x86-64.so.2" --argv0 qemu-system-x86_64 --library-path "$QEMU/lib" \
        "$QEMU/bin/qemu-system-x86_64" -L "$QEMU/share" -M q35,accel=tcg,memory-backend=m -m 192M \
        -object memory-backend-memfd,id=m,size=192M,share=on -display none -nodefaults -serial "file:$D/console" \
        -kernel "$CACHE/guest/${KERNEL:-rig}-bzImage" -initrd "$CACHE/guest/${KERNEL:-rig}-initrd" -append "$append" \
        -device "$(vfio_user "$D/sock")" "$@" > "$D/qemu.log" 2>&1 3>&-
}

said() { # TEXT
    for _ in $(seq 300); do
        ! grep -q "$1" "$D/console" 2> /dev/null || return 0
        sleep 0.1
    done
    cat "$D/console"
    return 1
}

over() { # SCRIPT ARG...
    timeout 100 "$NATIVE/over-vfio-user" "$NATIVE/$1" "${@:2}"
}

@test "minivmm-rng: buffers of all shapes, split and packed; rings that break the rules (G22-G26)" {
    device minivmm-rng
    over rng-front-end "$D/sock"
    finish
    [ "$(wc -l < "$D/log")" -lt 1000 ]
}

@test "minivmm-console: ports, streams, the control queue" {
    mkdir "$D/c"
    over console-front-end "$BIN/minivmm-console" "$D/c" sockets plain streams control everything
}

@test "minivmm-vsock: connections both ways, credit, 1024 of them" {
    mkdir "$D/v"
    over vsock-front-end "$BIN/minivmm-vsock" "$D/v" both nobody credit many
}

@test "minivmm-net: packets, offloads, the control queue, wrong headers, rings that break the rules" {
    [ -w /dev/net/tun ] || skip "no access to /dev/net/tun"
    unshare -rn true 2> /dev/null || skip "no name spaces on this host"
    local name
    for name in plain offloads control wrong_packets hostile gone carried; do
        over net-front-end "$BIN/minivmm-net" "$D/sock" "$name"
    done
}

@test "minivmm-blk: a client that leaves and comes back goes on; one that is new finds nothing under way" {
    head -c 1M /dev/urandom > "$D/img"
    device minivmm-blk --image "$D/img"
    timeout 60 "$NATIVE/vfio-user-client" "$D/sock" "$D/img"
    finish
}

@test "minivmm-blk moves under use from one process to another and back, split and packed; it tells each page that it writes" {
    head -c 1M /dev/urandom > "$D/img"
    timeout 60 "$NATIVE/moves" "$D" "$BIN/minivmm-blk"
}

@test "minivmm-blk needs each row of its table over vfio-user, and nothing else" {
    needs_strace
    truncate -s 1M "$D/img"
    timeout 100 strace -f -e raw=all -o "$D/strace" "$BIN/minivmm-blk" --engine sync --vfio-user "$D/sock" --image "$D/img" 3>&- &
    started=$!
    listening "$D/sock"
    timeout 60 "$NATIVE/vfio-user-client" "$D/sock" "$D/img"
    pkill -TERM -P "$(pgrep -P "$started")"
    wait "$started" || true
    started=
    "$BIN/minivmm-blk" --print-syscalls > "$D/table"
    run "$NATIVE/unused-rules" "$D/table" "$D/strace"
    [[ $output != *"not in the table"* ]]
    grep -q '^eventfd2' "$D/table"
    [[ $output != *"no system call"* ]]
}

@test "what it refuses" {
    run -2 timeout 10 "$BIN/minivmm-blk" --image x --vfio-user
    run -2 timeout 10 "$BIN/minivmm-blk" --image x --vfio-user "$D/a" --connect "$D/b"
    truncate -s 1M "$D/img"
    run -1 timeout 10 "$BIN/minivmm-blk" --image "$D/img" --vfio-user fd:99
    [[ $output == *"fd:99"* ]]
}

@test "QEMU: Linux reads and writes a disk over vfio-user, with MSI-X" {
    needs_qemu
    head -c 4M /dev/urandom > "$D/img"
    cp "$D/img" "$D/before"
    device minivmm-blk --image "$D/img"
    boot 'grep virtio /proc/interrupts; sha256sum /dev/vda; head -c 65536 /dev/urandom > /tmp/new
        dd if=/tmp/new of=/dev/vda bs=4096 seek=100 conv=fsync 2> /dev/null; sha256sum /tmp/new'
    cat "$D/console"
    grep -q 'PCI-MSIX.*virtio0-req.0' "$D/console"
    grep -q "$(sha256sum < "$D/before" | cut -d ' ' -f 1).*/dev/vda" "$D/console"
    grep -q "$(dd if="$D/img" bs=4096 skip=100 count=16 status=none | sha256sum | cut -d ' ' -f 1).*/tmp/new" "$D/console"
    # Only there.
    dd if="$D/before" of="$D/img" bs=4096 skip=100 seek=100 count=16 conv=notrunc status=none
    cmp "$D/img" "$D/before"
    finish
}

@test "QEMU: the same by the pin (pci=nomsi), with packed rings, and random numbers beside it" {
    needs_qemu
    head -c 1M /dev/urandom > "$D/img"
    device minivmm-blk --image "$D/img"
    "$BIN/minivmm-rng" --vfio-user "$D/rng" 2> "$D/rng.log" 3>&- &
    local rng=$!
    listening "$D/rng"
    boot 'sha256sum /dev/vda; head -c 100000 /dev/hwrng | wc -c; grep virtio /proc/interrupts
        cat /sys/bus/virtio/devices/virtio*/features' pci=nomsi -- -device "$(vfio_user "$D/rng")"
    cat "$D/console"
    kill "$rng"
    grep -q 'IO-APIC.*virtio' "$D/console"
    ! grep -q 'MSI.*virtio' "$D/console" || false
    grep -q "$(sha256sum < "$D/img" | cut -d ' ' -f 1)" "$D/console"
    grep -q '^100000' "$D/console"
    [ "$(grep -cE '^[01]{34}1' "$D/console")" = 2 ] # bit 34
    finish
}

@test "QEMU: the guest reboots three times with its disk; QEMU is killed, and the next one goes on with the device" {
    needs_qemu
    truncate -s 1M "$D/img"
    device minivmm-blk --image "$D/img"
    # Counts its boots on the disk.
    boot 'n=$(head -c 1 /dev/vda | tr -dc 0-9); n=$((${n:-0} + 1)); printf $n | dd of=/dev/vda conv=fsync,notrunc 2> /dev/null
        echo "boot $n of 4"; [ $n -ge 4 ] || echo reboot > /run/after'
    cat "$D/console"
    grep -q 'boot 4 of 4' "$D/console"
    # In the middle of writing.
    rm "$D/console"
    boot 'echo begun; while :; do dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct 2> /dev/null; done' &
    qemu=$!
    said begun
    sleep 1
    kill -KILL "$(pgrep -P "$(pgrep -P "$qemu")")" # timeout's child
    wait "$qemu" || true
    qemu=
    kill -0 "$started"
    head -c 1M /dev/urandom > "$D/new"
    cat "$D/new" > "$D/img"
    boot 'sha256sum /dev/vda'
    grep -q "$(sha256sum < "$D/new" | cut -d ' ' -f 1)" "$D/console"
    finish
}

@test "minivmm-pci-example: registers, ports, a shared page, DMA both ways, the pin and MSI-X; system calls" {
    device minivmm-pci-example
    timeout 60 "$NATIVE/pci-example-client" "$D/sock"
    finish
    run -2 timeout 10 "$BIN/minivmm-pci-example" --vhost-user "$D/sock"
    command -v strace > /dev/null || skip "strace is not installed"
    timeout 60 strace -f -e raw=all -o "$D/strace" "$BIN/minivmm-pci-example" --vfio-user "$D/sock" 3>&- &
    started=$!
    listening "$D/sock"
    timeout 60 "$NATIVE/pci-example-client" "$D/sock"
    pkill -TERM -P "$(pgrep -P "$started")"
    wait "$started" || true
    started=
    "$BIN/minivmm-pci-example" --print-syscalls > "$D/table"
    run "$NATIVE/unused-rules" "$D/table" "$D/strace"
    [[ $output != *"not in the table"* ]]
}

@test "minivmm-pci-example moves: registers, page, a doorbell that was rung when it was stopped; states that are none are refused" {
    timeout 60 "$NATIVE/moves" "$D" "$BIN/minivmm-pci-example"
}

@test "QEMU: a guest uses minivmm-pci-example: its page mapped, DMA between it and memory of the guest" {
    needs_qemu
    device minivmm-pci-example
    # Debian's kernel has /dev/mem; the last MiB but one is kept from it, so that it may be had there.
    KERNEL=debian boot 'cd /sys/bus/pci/devices/0000:00:01.0 || exit; echo 1 > enable; cat vendor device
        read -r bar rest < resource; ram=0xbe00000
        devmem $bar 32
        devmem $ram 64 0x1122334455667788
        devmem $((bar + 8)) 64 $ram; devmem $((bar + 16)) 32 64; devmem $((bar + 20)) 32 8; devmem $((bar + 24)) 32 0
        devmem $((bar + 32)) 32 1
        echo "status $(devmem $((bar + 28)) 32) page $(devmem $((bar + 4096 + 64)) 64)"
        devmem $((bar + 4096 + 64)) 64 0x0102030405060708
        devmem $((bar + 8)) 64 $((ram + 4096)); devmem $((bar + 24)) 32 1; devmem $((bar + 28)) 32 0; devmem $((bar + 32)) 32 1
        echo "status $(devmem $((bar + 28)) 32) memory $(devmem $((ram + 4096)) 64)"
        devmem $((bar + 8)) 64 0x7000000000; devmem $((bar + 28)) 32 0; devmem $((bar + 32)) 32 1
        echo "status $(devmem $((bar + 28)) 32)"' 'memmap=1M$0xbe00000'
    cat "$D/console"
    grep -q '^0x31584550' "$D/console"
    grep -q 'status 0x00000001 page 0x1122334455667788' "$D/console"
    grep -q 'status 0x00000001 memory 0x0102030405060708' "$D/console"
    grep -q 'status 0x00000002' "$D/console"
    finish
}

@test "minivmm-nvme: a driver of ours, with MSI-X and the pin; commands, lists and queues that are wrong" {
    local engine
    for engine in auto sync; do
        head -c 8M /dev/urandom > "$D/img"
        truncate -s 1M "$D/img2"
        device minivmm-nvme --image "$D/img" --image "$D/img2" --engine "$engine"
        timeout 60 "$NATIVE/nvme-client" "$D/sock" "$D/img"
        finish
    done
    [ "$(stat -c %s "$D/img")" = 8388608 ]
    run -2 timeout 10 "$BIN/minivmm-nvme" --vfio-user "$D/sock" --doorbells loud
    run -2 timeout 10 "$BIN/minivmm-nvme" --vfio-user "$D/sock" --queues 0
    run -1 timeout 10 "$BIN/minivmm-nvme" --vfio-user "$D/sock"
    [[ $output == *"--image is missing"* ]]
}

@test "minivmm-nvme: doorbells in memory are seldom rung, and by eventfds without a message" {
    truncate -s 8M "$D/img"
    device minivmm-nvme --image "$D/img"
    timeout 60 "$NATIVE/nvme-client" "$D/sock" "$D/img" count > "$D/counted"
    finish
    sed '/^ok/d; s/^/# /' "$D/counted" >&3
    device minivmm-nvme --image "$D/img" --poll-idle 1000000
    timeout 60 "$NATIVE/nvme-client" "$D/sock" "$D/img" count-awake
    finish
    device minivmm-nvme --image "$D/img" --poll-idle 0 --cpus 0
    timeout 60 "$NATIVE/nvme-client" "$D/sock" "$D/img" count
    finish
    device minivmm-nvme --image "$D/img" --doorbells eventfd
    timeout 60 "$NATIVE/nvme-client" "$D/sock" "$D/img" eventfd
    finish
}

@test "minivmm-nvme moves under use from one process to another and back; a state that is none is refused, or harms its own guest alone" {
    truncate -s 8M "$D/img"
    timeout 60 "$NATIVE/nvme-client" "$D/sock" "$D/img" moved "$BIN/minivmm-nvme"
}

@test "minivmm-nvme: killed 200 times under verified I/O, it goes on where it was by its record, and nothing is done twice" {
    truncate -s 8M "$D/img"
    timeout 100 "$NATIVE/nvme-client" "$D/sock" "$D/img" killed 100 "$BIN/minivmm-nvme" --image "$D/img" --record "$D/record"
    rm "$D/sock" "$D/record"
    truncate -s 0 "$D/img"
    truncate -s 8M "$D/img"
    timeout 100 "$NATIVE/nvme-client" "$D/sock" "$D/img" killed 100 "$BIN/minivmm-nvme" --image "$D/img" --record "$D/record" --engine sync
    # A record of another device is none, and one that is not the user's own is refused.
    truncate -s 4M "$D/img2"
    device minivmm-nvme --image "$D/img2" --record "$D/record"
    finish
    grep -q 'is not about this device: beginning anew' "$D/log"
    head -c 100000 /dev/urandom > "$D/record"
    device minivmm-nvme --image "$D/img2" --record "$D/record"
    finish
    chmod 666 "$D/record"
    run -1 timeout 10 "$BIN/minivmm-nvme" --vfio-user "$D/sock" --image "$D/img2" --record "$D/record"
    [[ $output == *"not a file of this user's own"* ]]
}

@test "minivmm-nvme calls nothing but what its table has" {
    needs_strace
    local engine
    for engine in uring sync; do
        head -c 8M /dev/urandom > "$D/img"
        timeout 100 strace -f -e raw=all -o "$D/$engine.strace" "$BIN/minivmm-nvme" --engine "$engine" --vfio-user "$D/sock" \
            --image "$D/img" 3>&- &
        started=$!
        listening "$D/sock" || { [ "$engine" = uring ] && skip "no io_uring on this host"; }
        timeout 60 "$NATIVE/nvme-client" "$D/sock" "$D/img"
        pkill -TERM -P "$(pgrep -P "$started")"
        wait "$started" || true
        started=
    done
    "$BIN/minivmm-nvme" --print-syscalls > "$D/table"
    "$NATIVE/unused-rules" "$D/table" "$D/uring.strace" "$D/sync.strace"
}

@test "QEMU: Linux's nvme driver on minivmm-nvme, two processors: reads, writes, discards; the same by the pin" {
    needs_qemu
    local word
    for word in quiet pci=nomsi; do
        head -c 8M /dev/urandom > "$D/img"
        truncate -s 2M "$D/img2"
        cp "$D/img" "$D/want"
        device minivmm-nvme --image "$D/img" --image "$D/img2" --serial tester
        boot 'grep nvme /proc/interrupts; cat /sys/class/nvme/nvme0/serial
            # Linux looks for name spaces side by side, and numbers its disks as it finds them
            for d in /sys/block/nvme0n*; do ln -s /dev/${d##*/} /tmp/ns$(cat $d/nsid); [ $(cat $d/nsid) = 1 ] || cat $d/size; done
            sha256sum < /tmp/ns1
            head -c 1048576 /dev/urandom > /tmp/new; dd if=/tmp/new of=/tmp/ns1 bs=256k seek=3 conv=fsync,notrunc 2> /dev/null
            dd if=/tmp/ns1 bs=256k skip=3 count=4 iflag=direct 2> /dev/null | cmp - /tmp/new && echo same
            for i in 1 2 3 4; do dd if=/tmp/ns1 of=/dev/null bs=4k iflag=direct 2> /dev/null & done; wait; echo four
            blkdiscard -o 0 -l 131072 /tmp/ns1; echo end' "$word" -- -smp 2
        cat "$D/console"
        if [ "$word" = quiet ]; then
            grep -q 'PCI-MSIX.*nvme0q2' "$D/console"
        else
            grep -q 'IO-APIC.*nvme' "$D/console"
        fi
        grep -q '^tester' "$D/console"
        grep -q '^4096' "$D/console"
        grep -q "$(sha256sum < "$D/want" | cut -d ' ' -f 1)" "$D/console"
        grep -q '^same' "$D/console"
        grep -q '^four' "$D/console"
        grep -q '^end' "$D/console"
        cmp -n 131072 "$D/img" /dev/zero
        cmp -i 2097152 "$D/img" "$D/want" # behind all that was written
        ! grep -qE 'nvme.*(timeout|error|failed)' "$D/console" || false
        finish
    done
}

# No program is run from that disk: QEMU's TCG does not see what another process writes into the guest's memory, and may run what it
# translated of a page before.
@test "QEMU: a file system on minivmm-nvme over three boots" {
    needs_qemu
    local tree=$CACHE/rig/root
    truncate -s 32M "$D/img"
    "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/sbin/mke2fs" -q -t ext4 "$D/img" > "$D/mke2fs" 2>&1 ||
        { cat "$D/mke2fs"; false; }
    device minivmm-nvme --image "$D/img"
    boot 'mount -t ext4 /dev/nvme0n1 /mnt; cd /mnt; [ ! -e sums ] || sha256sum -c sums > /tmp/check || echo wrong; wc -l < /tmp/check
        n=$(cat count 2> /dev/null); n=$((${n:-0} + 1)); echo $n > count; mkdir $n
        for i in $(seq 40); do head -c $((i * 3000)) /dev/urandom > $n/$i; done
        sha256sum $n/* >> sums; cd /; umount /mnt; echo "boot $n"; [ $n -ge 3 ] || echo reboot > /run/after'
    cat "$D/console"
    grep -q '^boot 3' "$D/console"
    grep -q '^80' "$D/console"
    ! grep -q 'wrong' "$D/console" || false
    "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/sbin/e2fsck" -fn "$D/img"
    finish
}
