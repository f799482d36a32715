# minivmm probe against real back-ends: QEMU's storage daemon, virtiofsd and passt out of the rig's tree, under its own loader, and the
# device programs here.  No virtual machine, no KVM.
load helpers

setup() { common minivmm; }

foreign() { # PROGRAM ARG...: in the background, until it listens
    local program=$TREE/$1
    shift
    [ -x "$program" ] || skip "the rig's tree is not built (make rig)"
    serve "$TREE/lib64/ld-linux-x86-64.so.2" --library-path "$TREE/usr/lib/x86_64-linux-gnu" "$program" "$@"
}

own() { # PROGRAM ARG...
    serve "$BIN/$1" --socket-path "$S" "${@:2}"
}

probe() { # ARG...: good, and all of the 23 protocol features have a line
    run -0 timeout 10 "$BIN/minivmm" probe "$@" "$S"
    echo "$output"
    [ "$(grep -c '^protocol ' <<< "$output")" -ge 23 ]
    has 'virtio    32 VERSION_1                used: .*'
    has 'virtio    30 PROTOCOL_FEATURES        used: .*'
    has 'verdict   minivmm would use it'
}

has() { # LINE, a pattern
    grep -qx -- "$1" <<< "$output" || { echo "missing: $1"; return 1; }
}

@test "qemu-storage-daemon: a disk of four queues, again and again, and its next front-end" {
    truncate -s 1M "$D/img"
    foreign usr/bin/qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$D/img" \
        --export "type=vhost-user-blk,id=e,addr.type=unix,addr.path=$S,node-name=f,writable=on,num-queues=4"
    for _ in 1 2 3; do
        probe --virtio blk
        has 'protocol   0 MQ                       used: .*'
        has 'protocol  12 INFLIGHT_SHMFD           not offered'
        has 'virtio     9 FLUSH                    used: .*'
        has 'virtio    24 NOTIFY_ON_EMPTY          not used: .*'
        has 'queues    it has up to 4, 4 would be used'
        has 'config    60 bytes'
    done
    probe --virtio 2
    probe
    has 'virtio     9 ?                        used: .*'
    kill -0 "$started"
    ! grep -qiE 'error|fail|critical' "$D/log" || false
    "$TREE/lib64/ld-linux-x86-64.so.2" --argv0 qemu-io --library-path \
        "$TREE/usr/lib/x86_64-linux-gnu:$TREE/usr/lib/x86_64-linux-gnu/pulseaudio" "$TREE/usr/bin/qemu-io" --image-opts \
        "driver=virtio-blk-vhost-user,path=$S,cache.direct=on" -c 'write -P 7 0 64k' -c 'read -P 7 0 64k' > "$D/io" 2>&1 ||
        { cat "$D/io"; return 1; }
}

@test "virtiofsd: with a tag a file system, without one it is refused and why" {
    mkdir "$D/share"
    foreign usr/libexec/virtiofsd --socket-path="$S" --shared-dir="$D/share" --tag=share --sandbox=none
    probe --virtio fs
    has 'queues    it has up to [0-9]*, [1-9][0-9]* would be used'
    has 'config    40 bytes'
    wait "$started" # it ends with its front-end
    rm -f "$S"
    foreign usr/libexec/virtiofsd --socket-path="$S" --shared-dir="$D/share" --sandbox=none
    run -1 timeout 10 "$BIN/minivmm" probe --virtio fs "$S"
    has 'refused   a fs device cannot do without its configuration space (VHOST_USER_PROTOCOL_F_CONFIG)'
    has 'verdict   minivmm would refuse it'
}

@test "passt: a network interface" {
    foreign usr/bin/passt --vhost-user -f -s "$S" || skip "passt does not run here: $(tail -n 1 "$D/log")"
    for _ in 1 2; do
        probe --virtio net
        has 'virtio    15 MRG_RXBUF                used: .*'
        has 'queues    .*, 2 would be used'
        has 'config    not shown'
    done
    kill -0 "$started"
}

@test "minivmm-blk, through a path and through a descriptor" {
    truncate -s 1M "$D/img"
    own minivmm-blk --image "$D/img" --queues 4
    probe --virtio blk
    has 'queues    it has up to 4, 4 would be used'
    has 'config    60 bytes'
    run -0 python3 - "$BIN/minivmm" "$S" << 'END'
import socket, subprocess, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[2])
sys.exit(subprocess.run([sys.argv[1], "probe", "--virtio", "blk", f"fd:{s.fileno()}"], pass_fds=[s.fileno()], timeout=10).returncode)
END
    has 'verdict   minivmm would use it'
    probe --virtio blk
}

@test "minivmm-rng: no configuration space" {
    own minivmm-rng
    probe --virtio rng
    has 'queues    it has up to 1, 1 would be used'
    has 'config    0 bytes'
}

@test "minivmm-net: its control queue is counted" {
    [ -w /dev/net/tun ] || skip "no access to /dev/net/tun"
    local spaces=-rn
    [ "$(id -u)" != 0 ] || spaces=-n
    unshare $spaces true 2> /dev/null || skip "no name spaces on this host"
    run -0 timeout 30 unshare $spaces python3 - "$BIN" "$S" << 'END'
import fcntl, os, struct, subprocess, sys, time
bin, path = sys.argv[1:]
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"probe0", 0x5002))  # TUNSETIFF: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
fcntl.ioctl(tap, 0x400454CB, 1)  # TUNSETPERSIST
os.close(tap)
net = subprocess.Popen([bin + "/minivmm-net", "--socket-path", path, "--tap", "probe0"])
end = time.monotonic() + 5
while not os.path.exists(path) and net.poll() is None and time.monotonic() < end:
    time.sleep(0.05)
status = subprocess.run([bin + "/minivmm", "probe", "--virtio", "net", path], timeout=10).returncode
net.terminate()
sys.exit(status or net.wait(5))
END
    echo "$output"
    has 'virtio    17 CTRL_VQ                  used: .*'
    has 'virtio     5 MAC                      used: .*'
    has 'queues    it has up to 3, 3 would be used'
    has 'verdict   minivmm would use it'
}

@test "mute, closing and raving back-ends: one line, in time, status 1" {
    for kind in mute close rave; do
        python3 - "$S" "$kind" 3>&- << 'END' &
import os, socket, sys, time
path, kind = sys.argv[1:]
l = socket.socket(socket.AF_UNIX)
l.bind(path)
l.listen()
s = l.accept()[0]
if kind == "rave":
    s.sendall(os.urandom(65536))
if kind != "close":
    time.sleep(10)
END
        started=$!
        listening
        local before=$SECONDS
        run -1 --separate-stderr timeout 8 "$BIN/minivmm" probe --virtio blk "$S"
        echo "$kind: $stderr"
        [ "$output" = "" ]
        [ "${#stderr_lines[@]}" = 1 ]
        [[ $stderr == "minivmm: $S: probe: the back-end "* ]]
        [ $((SECONDS - before)) -le 4 ]
        kill -KILL "$started" 2> /dev/null || true
        wait "$started" || true
        started=
        rm -f "$S"
    done
    run -1 "$BIN/minivmm" probe "$S"
    [[ $output == *"No such file"* ]]
    echo text > "$S"
    run -1 "$BIN/minivmm" probe "$S"
    [[ $output == *"it is not a socket"* ]]
}

@test "wrong usage is status 2, in one line" {
    wrong() { # TEXT ARG...
        run -2 "$BIN/minivmm" probe "${@:2}"
        [ "${#lines[@]}" = 1 ]
        [[ $output == *"$1"* ]]
    }
    wrong 'which back-end'
    wrong 'which back-end' --virtio blk
    wrong 'no virtio device type: blok' --virtio blok "$S"
    wrong 'no virtio device type: 64' --virtio 64 "$S"
    wrong 'no virtio device type: 0' --virtio 0 "$S"
    wrong 'a value is missing' --virtio
    wrong 'unexpected argument' "$S" "$S"
    wrong 'unknown option' --verbose "$S"
    run -0 "$BIN/minivmm" probe --help
    [ "$(wc -l <<< "$output")" -le 24 ]
}

@test "explain: what of a back-end's own the guest would reach, where, how much, and who maps it" {
    printf '[boot]\nkernel = "k"\n' > "$D/vm.toml"
    printf '[[device]]\nid = "%s"\nvia = "vhost-user"\nvirtio = "gpu"\nsocket = "s"\n' a >> "$D/vm.toml"
    run -0 "$BIN/minivmm" explain -c "$D/vm.toml"
    ! grep -qE '^  (shared|doorbells) ' <<< "$output" || false
    printf 'shared_memory = "64M"\nhost_notifier = true\n' >> "$D/vm.toml"
    run -0 "$BIN/minivmm" explain -c "$D/vm.toml"
    echo "$output"
    grep -qE '^  shared +BAR 2: memfds of the back-end.s .* mapped by minivmm for the guest: at most 64M$' <<< "$output"
    grep -qE '^  doorbells +BAR 0: .* mapped by minivmm for the guest$' <<< "$output"
}
