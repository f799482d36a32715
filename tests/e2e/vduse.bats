# Our device programs as devices of the host's kernel: VDUSE, used by the host itself (virtio_vdpa) and by guests (vhost_vdpa).
# weight: 150
load lib/helpers

SIZE=64M
SYS=/sys/bus/vdpa/devices/mini0

need_vduse() {
    [ "$(id -u)" = 0 ] || skip "no right to make a VDUSE device"
    modprobe -qa vduse virtio_vdpa vhost_vdpa virtio_blk virtio_net tun || true
    [ -c /dev/vduse/control ] || skip "this kernel has no VDUSE"
    need vdpa
}

teardown() {
    ! [ -e /sys/class/net/mini-vd ] || ip link del mini-vd
    ! [ -e "$D/other.pid" ] || kill "$(peer_pid other)" 2> /dev/null || true
    ! mountpoint -q "$D/mnt" || umount "$D/mnt"
    ! [ -e "$D/serve.pid" ] || kill -KILL "$(peer_pid serve)" 2> /dev/null || true
    ! vdpa dev show mini0 > /dev/null 2>&1 || vdpa dev del mini0 || true
    rm -f /run/minivmm-vduse-mini0
    e2e_teardown
}

serve() { # [PROGRAM-ARG]...
    peer_start serve "$MINIVMM_BLK" -v --vduse mini0 --image "$D/disk.img" "$@"
}

kill_again() { # [PROGRAM-ARG]...: it dies and is started again
    kill -KILL "$(peer_pid serve)"
    cat "$D/serve.log" >> "$D/serve.logs"
    serve "$@"
}

taken_over() { grep -q 'mini0: taken over' "$D/serve.log"; }

driver_is() { [ "$(basename "$(readlink "$SYS/driver")")" = "$1" ]; }
bind() { # DRIVER
    driver_is "$1" || {
        echo mini0 > "$SYS/driver/unbind"
        echo mini0 > "/sys/bus/vdpa/drivers/$1/bind"
    }
}
has_disk() { compgen -G "$SYS/virtio*/block/vd*" > /dev/null; }
host_disk() { # its name in /dev, once it is there
    wait_for 20 has_disk || return
    ls "$SYS"/virtio*/block
}

verify() { # FILE [FIO-ARG]...: random writes, all read back and compared
    local file=$1
    shift
    (cd "$D" && fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=16M --verify=crc32c \
        --verify_fatal=1 --do_verify=1 --minimal --name=a --filename="$file" "$@" > fio.out 2>&1) || { cat "$D/fio.out"; return 1; }
}

# QEMU with the vDPA device as its disk; its console as that of a machine called q.
qemu_start() { # WORD...
    local node
    node=$(ls "$SYS" | grep '^vhost-vdpa-')
    mkdir -p "$D/q"
    touch "$D/q/vm.toml" "$D/q/stderr" "$D/q/console"
    rm -f "$D/q/status"
    peer_start q qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 -accel kvm -cpu host \
        -smp 2 -m 384 -object memory-backend-memfd,id=mem,size=384M,share=on -machine memory-backend=mem \
        -kernel "$GUEST/debian-bzImage" -initrd "$GUEST/debian-initrd" -serial "file:$D/q/console" \
        -append "console=ttyS0 panic=-1 quiet minivmm.tools=/dev/vdb $*" \
        -device "vhost-vdpa-device-pci,vhostdev=/dev/$node,addr=4" \
        -drive "file=$GUEST/tools.img,format=raw,readonly=on,if=none,id=tools" -device virtio-blk-pci,drive=tools,addr=5
    cp "$D/q.pid" "$D/q/pid"
}

@test "one running minivmm-blk: the host's disk, a guest's under QEMU, the host's again" {
    local disk words
    need_vduse
    need qemu-system-x86_64 fio mkfs.ext4 e2fsck
    truncate -s $SIZE "$D/disk.img"
    serve --vdpa-add --serial from-vduse --queues 2
    disk=$(host_disk) || fail "$(cat "$D/serve.log")"
    driver_is virtio_vdpa || bind virtio_vdpa
    [ "$(cat "/sys/block/$disk/serial")" = from-vduse ]
    verify "/dev/$disk"
    mkfs.ext4 -q -E lazy_itable_init=0 "/dev/$disk"
    mkdir "$D/mnt"
    mount "/dev/$disk" "$D/mnt"
    cp -a /etc "$D/mnt/tree"
    (cd "$D/mnt/tree" && find . -type f | sort | head -200 | xargs sha256sum) > "$D/sums"
    [ "$(wc -l < "$D/sums")" -ge 20 ]
    verify "$D/mnt/file"
    umount "$D/mnt"

    # the same process, a guest's
    bind vhost_vdpa
    words=$(guest_words '
        set -e
        cat /sys/block/vda/serial; echo
        modprobe ext4
        mount /dev/vda /mnt
        cd /mnt/tree
        find . -type f | sort | head -200 | xargs sha256sum
        cd /run
        fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=16M --verify=crc32c \
            --verify_fatal=1 --do_verify=1 --minimal --name=a --filename=/mnt/file > fio.out || { cat fio.out; exit 1; }
        head -c 4194304 /dev/urandom > /mnt/data
        sha256sum < /mnt/data
        umount /mnt')
    qemu_start "$words"
    run -0 vm_result q 220
    [ "${lines[0]}" = from-vduse ]
    [ "$(grep -E '^[0-9a-f]{64}  \./' <<< "$output" | sha256sum)" = "$(sha256sum < "$D/sums")" ]
    grep -E '^[0-9a-f]{64}  -' <<< "$output" > "$D/data"
    wait_for 15 pid_gone "$(peer_pid q)" || fail "QEMU does not end"

    # and the host's again
    bind virtio_vdpa
    disk=$(host_disk)
    e2fsck -fn "/dev/$disk"
    mount "/dev/$disk" "$D/mnt"
    [ "$(sha256sum < "$D/mnt/data")" = "$(cat "$D/data")" ]
    (cd "$D/mnt/tree" && sha256sum --quiet -c "$D/sums")
    umount "$D/mnt"
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
    [ ! -e /run/minivmm-vduse-mini0 ]
    run -1 grep -E 'refused|cannot|stays' "$D/serve.log"
    e2fsck -fn "$D/disk.img"
}

@test "killed and started again under fio: nothing is lost, the host as the driver (packed rings)" {
    local disk fio i
    need_vduse
    need fio
    truncate -s $SIZE "$D/disk.img"
    serve --vdpa-add
    disk=$(host_disk)
    bind virtio_vdpa
    disk=$(host_disk)
    [ "$(cut -c 35 "$(ls -d "$SYS"/virtio*)/features")" = 1 ] # RING_PACKED
    verify "/dev/$disk" --size=48M --rw=randrw 3>&- &
    fio=$!
    for i in 1 2 3 4 5 6; do
        sleep 0.5
        kill_again --vdpa-add
        wait_for 10 taken_over || fail "$(cat "$D/serve.log")"
    done
    wait $fio || fail "$(cat "$D/fio.out")"
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
}

@test "killed and started again under fio in a guest under QEMU" {
    local words i
    need_vduse
    need fio qemu-system-x86_64
    truncate -s $SIZE "$D/disk.img"
    serve --vdpa-add
    wait_for 10 test -e "$SYS/driver"
    bind vhost_vdpa
    words=$(guest_words '
        cd /run
        echo MINIVMM-FIO > /dev/console
        fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randrw --size=48M --verify=crc32c \
            --verify_fatal=1 --do_verify=1 --minimal --name=a --filename=/dev/vda > fio.out || { cat fio.out; exit 1; }')
    qemu_start "$words"
    vm_line q MINIVMM-FIO
    for i in 1 2 3 4 5 6; do
        sleep 0.5
        kill_again --vdpa-add
        wait_for 10 taken_over || fail "$(cat "$D/serve.log")"
    done
    run -0 vm_result q 120
    wait_for 15 pid_gone "$(peer_pid q)" || fail "QEMU does not end"
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
}

written() { [ "$(stat -c %b "$D/disk.img")" -gt 0 ]; }

@test "a user-space driver (libblkio, split rings) under qemu-io, the program killed meanwhile" {
    local node pid i options
    need_vduse
    need qemu-io
    [ -e /usr/lib/x86_64-linux-gnu/qemu/block-blkio.so ] || skip "QEMU's libblkio driver is not installed"
    truncate -s $SIZE "$D/disk.img"
    serve --vdpa-add
    wait_for 10 test -e "$SYS/driver"
    bind vhost_vdpa
    node=$(ls "$SYS" | grep '^vhost-vdpa-')
    options=driver=virtio-blk-vhost-vdpa,path=/dev/$node,cache.direct=on
    for i in $(seq 1 64); do
        printf 'aio_write -P %d %dk 256k\n' $((i + 10)) $((i * 512))
        [ $((i % 8)) != 0 ] || printf 'aio_flush\nsleep 1000\n'
    done > "$D/writes"
    for i in $(seq 1 64); do printf 'read -P %d %dk 256k\n' $((i + 10)) $((i * 512)); done > "$D/reads"
    qemu-io --image-opts "$options" < "$D/writes" > "$D/qemu-io.log" 2>&1 3>&- &
    pid=$!
    wait_for 30 written || fail "$(cat "$D/qemu-io.log")"
    for i in 1 2 3 4; do
        sleep 1
        kill_again --vdpa-add
        wait_for 10 taken_over || fail "$(cat "$D/serve.log")"
    done
    wait $pid
    [ "$(grep -c 'wrote 262144/262144' "$D/qemu-io.log")" = 64 ] || fail "$(cat "$D/qemu-io.log")"
    run -0 qemu-io --image-opts "$options" < "$D/reads"
    run -1 grep -iE 'fail|error' <<< "$output"
    peer_stop serve
    run -0 qemu-io -f raw "$D/disk.img" < "$D/reads"
    run -1 grep -iE 'fail|error' <<< "$output"
}

@test "stopped beyond the kernel's timeout: the host goes on, the program says why and ends, and begins anew" {
    local pid disk
    need_vduse
    truncate -s $SIZE "$D/disk.img"
    serve --vdpa-add
    disk=$(host_disk)
    bind virtio_vdpa
    disk=$(host_disk)
    echo 2 > /sys/class/vduse/mini0/msg_timeout
    pid=$(peer_pid serve)
    kill -STOP "$pid"
    # unbound from its driver, which resets it: nobody answers
    timeout 30 bash -c "echo mini0 > $SYS/driver/unbind"
    [ ! -e "/sys/block/$disk" ]
    kill -CONT "$pid"
    wait_for 10 pid_gone "$pid" || fail "$(cat "$D/serve.log")"
    grep -q 'mini0: the kernel gave this device up' "$D/serve.log" || fail "$(cat "$D/serve.log")"
    # what the kernel gave up stays so, for whoever comes
    run -1 "$MINIVMM_BLK" --vduse mini0 --image "$D/disk.img"
    [[ $output == *"the kernel gave it up, for a message was not answered in time: vdpa dev del mini0, and start again" ]] || fail "$output"
    vdpa dev del mini0
    serve --vdpa-add
    disk=$(host_disk) || fail "$(cat "$D/serve.log")"
    verify "/dev/$disk" --size=4M
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
}

@test "refused in a sentence: another's name, a lost record, a device that VDUSE does not know; in use it stays" {
    local disk held
    need_vduse
    truncate -s $SIZE "$D/disk.img"
    truncate -s $SIZE "$D/other.img"
    run -1 "$TOP/minivmm-rng" --vduse mini0
    [[ $output == *"VDUSE device mini0: this kernel takes none of virtio type 4"* ]] || fail "$output"
    [ ! -e /dev/vduse/mini0 ]
    [ ! -e /run/minivmm-vduse-mini0 ]
    serve
    wait_for 10 test -e /dev/vduse/mini0
    run -1 timeout 20 "$MINIVMM_BLK" --vduse mini0 --image "$D/other.img"
    [[ $output == *"another process serves this device"* ]] || fail "$output"
    run -1 timeout 20 "$MINIVMM_BLK" --vduse mini0 --record "$D/record" --image "$D/other.img"
    [[ $output == *"another process serves it"* ]] || fail "$output"
    # the vDPA device is somebody else's to make and to remove
    vdpa dev add name mini0 mgmtdev vduse
    disk=$(host_disk)
    verify "/dev/$disk" --size=4M
    peer_stop serve
    grep -q 'mini0 stays, for it is in use' "$D/serve.log"
    run -1 timeout 20 "$MINIVMM_BLK" --vduse mini0 --record "$D/record" --image "$D/disk.img"
    [[ $output == *"nobody knows what was in flight"* ]] || fail "$output"
    serve
    wait_for 10 taken_over
    verify "/dev/$disk" --size=4M
    vdpa dev del mini0
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
    # one that a VMM holds is not removed under it
    serve --vdpa-add
    wait_for 10 test -e "$SYS/driver"
    bind vhost_vdpa
    exec {held}<> "/dev/$(ls "$SYS" | grep '^vhost-vdpa-')"
    peer_stop serve
    grep -q 'mini0 stays, for it is in use' "$D/serve.log"
    eval "serve --vdpa-add $held<&-" # the program is not to inherit it
    wait_for 10 grep -q ready "$D/serve.log"
    exec {held}<&- # which resets the device: somebody has to answer that
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
}

other_net() { [ "$(readlink "/proc/$(peer_pid other)/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
in_other() { nsenter -t "$(peer_pid other)" -n "$@"; }
has_net() { compgen -G "$SYS/virtio*/net/*"; }
serve_net() { peer_start serve "$TOP/minivmm-net" -v --vduse mini0 --tap mini-vd --mac 52:54:00:08:00:02 --vdpa-add; }

@test "minivmm-net: an interface of this host's kernel, its tap in another name space" {
    local sender
    need_vduse
    need socat nsenter
    [ -c /dev/net/tun ] || skip "no taps"
    ip tuntap add mini-vd mode tap
    ip addr add 10.8.0.1/24 dev mini-vd
    ip link set mini-vd up
    peer_start other unshare -n sleep 600
    wait_for 5 other_net
    serve_net
    wait_for 20 has_net || fail "$(cat "$D/serve.log")"
    ip link set "$(basename "$(has_net)")" netns "$(peer_pid other)" name vd0
    in_other ip addr add 10.8.0.2/24 dev vd0
    in_other ip link set vd0 up
    [ "$(in_other cat /proc/net/dev | grep -c vd0)" = 1 ]
    run -0 in_other ip -br link show vd0
    [[ $output == *52:54:00:08:00:02* ]] || fail "$output"
    run -0 in_other ping -c 3 -W 5 10.8.0.1
    head -c 8388608 /dev/urandom > "$D/file"
    peer_start get socat -u TCP-LISTEN:5004,reuseaddr "CREATE:$D/got"
    wait_for 20 in_other socat -u "OPEN:$D/file" TCP:10.8.0.1:5004
    wait_for 10 cmp -s "$D/file" "$D/got" || fail "$(ls -l "$D")"
    # killed and started again: what was lost is sent again by TCP
    peer_start get2 socat -u TCP-LISTEN:5005,reuseaddr "CREATE:$D/got2"
    in_other socat -u "OPEN:$D/file" TCP:10.8.0.1:5005,retry=20 3>&- &
    sender=$!
    kill -KILL "$(peer_pid serve)"
    serve_net
    wait $sender
    wait_for 30 cmp -s "$D/file" "$D/got2" || fail "$(ls -l "$D")"
    taken_over
    peer_stop serve
    [ ! -e /dev/vduse/mini0 ]
    peer_stop other
}

@test "its sandbox: each row of the table is needed, and nothing else" {
    local disk rest
    need_vduse
    need strace python3
    truncate -s $SIZE "$D/disk.img"
    "$MINIVMM_BLK" --vduse mini0 --print-syscalls > "$D/table"
    peer_start tracer strace -f -e raw=all -o "$D/strace" "$MINIVMM_BLK" -v --vduse mini0 --image "$D/disk.img" --vdpa-add
    disk=$(host_disk) || fail "$(cat "$D/tracer.log")"
    verify "/dev/$disk" --size=1M
    dd if=/dev/zero of="/dev/$disk" bs=4k count=1 oflag=direct
    blkdiscard -o 0 -l 1M "/dev/$disk"
    pkill -TERM -P "$(peer_pid tracer)"
    wait_for 20 pid_gone "$(peer_pid tracer)"
    run "$TOP/tests/native/unused-rules" "$D/table" "$D/strace"
    # which engine serves the image depends on where that lies: rows of the other one are not used here
    rest=$(grep -v 'I/O without io_uring\|io_uring_enter' <<< "$output" || true)
    [ -z "$rest" ] || fail "$rest"
}
