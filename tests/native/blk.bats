# minivmm-blk against real peers, without a virtual machine: qemu-img and qemu-io through libblkio's vhost-user driver, and QEMU's
# own vhost-user-blk-pci with a boot sector as the guest.  The peers are the rig's tree, under its own loader; no root, no KVM.
load helpers

setup() {
    common minivmm-blk
    O=driver=virtio-blk-vhost-user,path=$S,cache.direct=on
}

disk() { # ARG...
    serve "$BIN/minivmm-blk" --image "$D/img" --socket-path "$S" "$@"
}

every_request() { # of qemu-io, checked by what is read back
    peer qemu-io --image-opts "$O" -c 'write -P 0x5a 0 1M' -c 'write -P 0x66 1M 3M' -c 'write -z 1M 512k' \
        -c 'write -z -u 2M 512k' -c 'discard 3M 512k' -c 'flush' -c 'read -P 0x5a 0 1M' -c 'read -P 0 1M 512k' \
        -c 'read -P 0x66 1536k 512k' -c 'read -P 0 2M 512k' -c 'read -P 0x66 3584k 512k' \
        -c 'aio_write -P 7 8M 4M' -c 'aio_flush' -c 'read -P 7 8M 4M' -c 'writev -P 9 16M 4k 8k 12k' \
        -c 'readv -P 9 16M 12k 8k 4k' > "$D/qemu-io" 2>&1 || { cat "$D/qemu-io"; return 1; }
    cat "$D/qemu-io"
    ! grep -qiE 'fail|error|verif' "$D/qemu-io" || false
    # The host sees the same.
    cmp <(head -c 1M /dev/zero | tr '\0' '\132') <(head -c 1M "$D/img")
    cmp <(head -c 4M /dev/zero | tr '\0' '\7') <(tail -c +8388609 "$D/img" | head -c 4M)
}

round_trip() { # ARG...
    needs_tree
    truncate -s 64M "$D/img"
    disk "$@"
    every_request
    head -c 64M /dev/urandom > "$D/source"
    peer qemu-img convert -n -f raw --target-image-opts "$D/source" "$O"
    peer qemu-img convert -O raw --image-opts "$O" "$D/back"
    cmp "$D/source" "$D/back"
    peer qemu-img bench -c 20000 -d 1 -s 4096 -t none --image-opts "$O"
    peer qemu-img bench -c 20000 -d 32 -s 4096 -t none --image-opts "$O"
    peer qemu-img bench -w --pattern 1 -c 5000 -d 32 -s 4096 -t none --image-opts "$O"
    finish
    cmp -i 20480000:20480000 "$D/source" "$D/img"
}

@test "io_uring: all requests, a round trip, many at a time" {
    round_trip --engine uring
}

@test "plain system calls: the same" {
    round_trip --engine sync
}

@test "around the page cache: the same" {
    truncate -s 4096 "$D/probe"
    dd if="$D/probe" of=/dev/null iflag=direct bs=4096 2> /dev/null || skip "no O_DIRECT in $D"
    round_trip --direct
}

@test "blocks of 4096 bytes, four queues, a serial number" {
    round_trip --block-size 4096 --queues 4 --queue-size 512 --serial 12345
}

@test "an image in memory" {
    needs_tree
    D=$(mktemp -d /dev/shm/minivmm-blk.XXXXXX)
    S=$D/sock O=driver=virtio-blk-vhost-user,path=$S,cache.direct=on
    truncate -s 64M "$D/img"
    disk -v
    grep -q 'lies in memory' "$D/log"
    every_request
    finish
    rm -rf "$D"
}

full_disk() { # ARG...: R04: an image of 64 MiB on a file system of 4 MiB
    mkdir -p "$D/full"
    unshare -Urm sh -c 'mount -t tmpfs -o size=4M full "$1/full" && truncate -s 64M "$1/full/img" && p=$1 && shift &&
        exec "$@" --image "$p/full/img" --socket-path "$p/sock"' sh "$D" "$BIN/minivmm-blk" "$@" 2> "$D/log" 3>&- &
    started=$!
    listening
    peer qemu-io --image-opts "$O" -c 'write -P 1 0 1M' -c 'write -P 2 8M 16M' -c 'write -z -u 0 1M' -c 'read -P 0 0 1M' \
        -c 'write -P 3 0 64k' -c 'read -P 3 0 64k' > "$D/qemu-io" 2>&1 || true
    cat "$D/qemu-io"
    [ "$(grep -c '^wrote ' "$D/qemu-io")" = 3 ]
    grep -q '^write failed: Input/output error' "$D/qemu-io"
    [ "$(grep -c '^read [0-9]*/' "$D/qemu-io")" = 2 ]
    ! grep -q 'Pattern verification failed' "$D/qemu-io" || false
    finish
}

@test "R04: no space left under the image: that write fails, what was written stays, the device goes on" {
    needs_tree
    unshare -Urm true 2> /dev/null || skip "no user name spaces here, to mount a small file system in"
    full_disk --engine uring
    full_disk --engine sync
}

@test "R04: an image that is cut short under the device: I/O errors behind the end, the rest goes on" {
    needs_tree
    local how
    for how in uring sync; do
        rm -f "$D/img"
        truncate -s 64M "$D/img"
        disk --engine "$how"
        peer qemu-io --image-opts "$O" -c 'write -P 1 0 1M' -c 'write -P 2 32M 1M'
        truncate -s 1M "$D/img"
        peer qemu-io --image-opts "$O" -c 'read 32M 1M' -c 'read -P 1 0 1M' > "$D/qemu-io" 2>&1 || true
        cat "$D/qemu-io"
        grep -q '^read failed: Input/output error' "$D/qemu-io"
        grep -q '^read 1048576/1048576 bytes at offset 0' "$D/qemu-io"
        ! grep -q 'Pattern verification failed' "$D/qemu-io" || false
        finish
    done
}

@test "read-only: reads work, the driver may not write" {
    needs_tree
    head -c 1M /dev/urandom > "$D/img"
    cp "$D/img" "$D/before"
    disk --read-only
    peer qemu-img convert -O raw --image-opts "$O,read-only=on" "$D/back"
    cmp "$D/img" "$D/back"
    run peer qemu-io --image-opts "$O" -c 'write -P 1 0 4k'
    [[ $output != *"wrote 4096"* ]]
    finish
    cmp "$D/img" "$D/before"
}

@test "one writer, or readers: the second is told so" {
    truncate -s 1M "$D/img"
    disk
    run -1 timeout 10 "$BIN/minivmm-blk" --image "$D/img" --socket-path "$D/other"
    [[ $output == *"is in use by another process"* ]]
    run -1 timeout 10 "$BIN/minivmm-blk" --image "$D/img" --readonly --socket-path "$D/other"
    [ ! -e "$D/other" ]
    finish
    disk --readonly
    run -124 timeout 1 "$BIN/minivmm-blk" --image "$D/img" --readonly --socket-path "$D/other"
    [ "$output" = "" ]
    [ ! -e "$D/other" ]
    finish
}

@test "images and options that are refused, each in one sentence" {
    refused() { # STATUS TEXT ARG...
        local status_=$1 text=$2
        shift 2
        run timeout 10 "$BIN/minivmm-blk" --socket-path "$S" "$@"
        echo "$status: $output"
        [ "$status" = "$status_" ]
        [[ $output == *"$text"* ]]
        [ "${#lines[@]}" = 1 ]
        [ ! -e "$S" ]
    }
    truncate -s 1000 "$D/odd"
    truncate -s 1536 "$D/three"
    mkfifo "$D/fifo"
    refused 1 'No such file' --image "$D/nothing"
    refused 1 'is a directory' --image "$D" --readonly
    refused 1 'is a FIFO' --image "$D/fifo"
    refused 1 'not a multiple of 512' --image "$D/odd"
    refused 1 'not a multiple of 4096' --image "$D/three" --block-size 4096
    refused 1 'character device' --image /dev/null
    refused 1 '--image is missing'
    refused 2 'no such option' --imgae "$D/three"
    refused 2 'not an option' "$D/three"
    refused 2 'is missing' --image
    refused 2 'takes no value' --readonly=yes
    refused 2 'neither 512 nor 4096' --block-size 1024
    refused 2 'not a number from 1 to' --queues 0
    refused 2 'not a power of two' --queue-size 100
    refused 2 'exclude each other' --fd 3 --image "$D/three"
    run -2 "$BIN/minivmm-blk" --image "$D/three"
}

@test "capabilities are JSON, and other arguments do not matter" {
    run -0 --separate-stderr "$BIN/minivmm-blk" --nonsense --print-capabilities
    python3 -c 'import json, sys; c = json.loads(sys.argv[1]); assert c["type"] == "block" and "read-only" in c["features"]' "$output"
}

@test "a device that is killed leaves no socket, and the next starts at once" {
    needs_tree
    truncate -s 64M "$D/img"
    for _ in 1 2 3; do
        disk --engine uring || disk
        peer qemu-img bench -w -c 2000000 -d 32 -s 4096 -t none --image-opts "$O" > "$D/bench" 2>&1 3>&- &
        local bench=$! status=0
        sleep 0.3
        kill -KILL "$started"
        wait "$started" || status=$?
        [ "$status" = 137 ]
        for _ in $(seq 40); do
            [ -e "$S" ] || break
            sleep 0.05
        done
        [ ! -e "$S" ]
        pkill -KILL -f "^[^ ]*ld-linux.*bench.*$S" || true # it waits for ever
        wait "$bench" || true
    done
    disk
    peer qemu-io --image-opts "$O" -c 'read 0 4k'
    finish
}

@test "a socket file of which even the keeper was killed is replaced, another's is left" {
    local keeper
    truncate -s 1M "$D/img"
    disk
    keeper=$(pgrep -x socket-keeper | while read -r pid; do ! tr '\0' ' ' < "/proc/$pid/cmdline" | grep -qF "$S" || echo "$pid"; done)
    kill -KILL "$keeper" "$started"
    wait "$started" || true
    [ -S "$S" ]
    disk
    rm "$S"
    echo text > "$S"
    kill -TERM "$started"
    wait "$started"
    [ "$(cat "$S")" = text ]
}

@test "front-ends that are killed in the middle leave nothing behind" {
    needs_tree
    truncate -s 64M "$D/img"
    disk
    local device=$started before bench
    sleep 0.2
    before=$(find "/proc/$device/fd" -type l | wc -l)
    for _ in 1 2 3 4 5; do
        peer qemu-img bench -w -c 2000000 -d 32 -s 4096 -t none --image-opts "$O" > /dev/null 2>&1 3>&- &
        bench=$!
        sleep 0.3
        pkill -KILL -f "^[^ ]*ld-linux.*bench.*$S"
        wait "$bench" || true
    done
    peer qemu-io --image-opts "$O" -c 'write -P 3 0 64k' -c 'read -P 3 0 64k'
    sleep 0.2
    [ "$(find "/proc/$device/fd" -type l | wc -l)" = "$before" ]
    ! grep -q memfd "/proc/$device/maps" || false
    finish
}

@test "descriptors instead of paths: a connected socket, a listening one, the image" {
    truncate -s 1M "$D/img"
    timeout 20 python3 - "$BIN/minivmm-blk" "$D" << 'END'
import os, socket, struct, subprocess, sys
program, d = sys.argv[1:]
image = os.open(d + "/img", os.O_RDWR)

def features(s):
    s.settimeout(5)
    s.sendall(struct.pack("<III", 1, 1, 0))
    request, flags, size, value = struct.unpack("<IIIQ", s.recv(20))
    assert (request, flags, size) == (1, 5, 8) and value >> 32 & 1

ours, theirs = socket.socketpair()
p = subprocess.Popen([program, f"--fd={theirs.fileno()}", f"--image=fd:{image}"], pass_fds=[theirs.fileno(), image])
theirs.close()
features(ours)
ours.close()
assert p.wait(5) == 0, "ends with its front-end"

listener = socket.socket(socket.AF_UNIX)
listener.bind(d + "/listener")
listener.listen()
p = subprocess.Popen([program, "--fd", str(listener.fileno()), "--blk-file", d + "/img"], pass_fds=[listener.fileno()])
for _ in range(3):
    s = socket.socket(socket.AF_UNIX)
    s.connect(d + "/listener")
    features(s)
    s.close()
p.terminate()
assert p.wait(5) == 0, "ends by SIGTERM"
assert os.path.exists(d + "/listener"), "the socket was not its own"
END
}

@test "packed rings: requests, a queue anew, rings that break the rules (G22-G26), killed with requests under way" {
    PYTHONPATH=$TOP/tests/native run -0 timeout 100 "$TOP/tests/native/blk-packed" "$D" "$BIN/minivmm-blk"
    [[ $output == *ok ]]
}

@test "QEMU as the front-end: a guest boots from sector 0" {
    needs_tree
    # cli; ds = 0; print the text on COM1; end by isa-debug-exit.
    printf '\xfa\x31\xc0\x8e\xd8\xbe\x1a\x7c\xac\x84\xc0\x74\x06\xba\xf8\x03\xee\xeb\xf5\xba\x01\x05\xb0\x00\xee\xf4' > "$D/img"
    printf 'read from sector 0\n\0' >> "$D/img"
    truncate -s 1M "$D/img"
    printf '\x55\xaa' | dd of="$D/img" bs=1 seek=510 conv=notrunc status=none
    disk
    local queues
    for queues in 1 2; do
        [ "$queues" = 1 ] || { finish; disk --queues 2; }
        run peer qemu-system-x86_64 -L "$TREE/usr/share/seabios" -L "$TREE/usr/share/qemu" -M q35,accel=tcg,memory-backend=m \
            -object memory-backend-memfd,id=m,size=64M,share=on -chardev "socket,id=c,path=$S" \
            -device "vhost-user-blk-pci,chardev=c,bootindex=0,num-queues=$queues" -display none -nodefaults -serial stdio \
            -device isa-debug-exit,iobase=0x501
        echo "$status: $output"
        [ "$status" = 1 ]
        [[ $output == *"read from sector 0"* ]]
    done
    finish
}

@test "polling: every request, by io_uring and by plain calls, with several queues" {
    round_trip --poll --engine uring
    round_trip --poll --engine sync --queues 4 --poll-idle 5000 --cpus 0
}

@test "polling: it looks without kicks, then sleeps, where it is told to run" {
    truncate -s 1M "$D/img"
    timeout 60 "$TOP/tests/native/blk-poll" "$BIN/minivmm-blk" "$D/img" "$S"
}

@test "polling: a processor that is not there, an idle time of nothing" {
    truncate -s 1M "$D/img"
    run "$BIN/minivmm-blk" --image "$D/img" --socket-path "$S" --poll --cpus 1023
    [ "$status" -eq 2 ]
    [[ $output == *"which of them does this host have"* ]]
    run "$BIN/minivmm-blk" --image "$D/img" --socket-path "$S" --poll --poll-idle 0
    [ "$status" -eq 2 ]
    [[ $output == *"not a number"* ]]
}
