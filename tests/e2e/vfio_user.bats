# Servers of vfio-user behind minivmm's own client: minivmm-nvme with Linux's nvme driver, and virtio devices as whole functions.
# weight: 100
load lib/helpers

serve() { # NAME PROGRAM [ARG]...
    peer_start "$1" "$TOP/$2" --vfio-user "$D/$1.sock" "${@:3}"
    socket_wait "$D/$1.sock"
}

device() { # NAME [LINE]...
    printf '[[device]]\nid = "%s"\nvia = "vfio-user"\nsocket = "%s"\n' "$1" "$D/$1.sock"
    shift
    [ $# = 0 ] || printf '%s\n' "$@"
}

tools() { printf '[[device]]\nid = "tools"\nvirtio = "blk"\nimage = "%s"\nreadonly = true\n' "$GUEST/tools.img"; }

@test "minivmm-nvme: fio checks what it wrote, the driver unbound and bound, a file system over a reboot" {
    local rung
    need e2fsck
    truncate -s 64M "$D/img"
    serve drive minivmm-nvme -v --image "$D/img"
    {
        CPUS=2 MEMORY=384M vm_boot rig minivmm.agent minivmm.tools=/dev/vda
        device drive
        tools
    } | vm_start a
    run -0 vm_guest a 'modprobe nvme 2> /dev/null; for i in $(seq 100); do [ ! -b /dev/nvme0n1 ] || break; sleep 0.1; done
        grep -c "nvme0q[12]" /proc/interrupts; cat /sys/class/nvme/nvme0/model'
    [[ $output == 2$'\n'minivmm-nvme* ]] || fail "$output"
    run -0 vm_guest a -t 120 'cd /run
        fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-256k --rw=randwrite --size=8M --verify=crc32c \
            --verify_fatal=1 --do_verify=1 --minimal --name=drive --filename=/dev/nvme0n1 > fio.out || { cat fio.out; exit 1; }
        d=$(basename $(readlink /sys/class/nvme/nvme0/device))
        for i in 1 2; do
            echo $d > /sys/bus/pci/drivers/nvme/unbind
            echo $d > /sys/bus/pci/drivers/nvme/bind
            for j in $(seq 100); do [ ! -b /dev/nvme0n1 ] || break; sleep 0.1; done
            [ $i = 2 ] || fio --direct=1 --ioengine=libaio --iodepth=32 --bs=4k --rw=randread --size=8M --minimal --name=drive --filename=/dev/nvme0n1 > fio.out
        done'
    # Of fio's reads, and the driver's own commands: those that came by a trapped write, of two for each without doorbells in memory.
    rung=$(awk '/writes to doorbell registers/ { n = $2; w = $4 } END { if (n > 2000) printf "%.2f", w / n }' "$D/drive.log")
    echo "# nvme, 4k reads at a depth of 32: $rung trapped doorbells for each" >&3
    awk -v r="${rung:-9}" 'BEGIN { exit !(r < 1) }' || fail "$(cat "$D/drive.log")"
    run -0 vm_guest a -t 120 'set -e
        d=$(basename $(readlink /sys/class/nvme/nvme0/device))
        for i in 1 2 3; do
            echo $d > /sys/bus/pci/drivers/nvme/unbind
            echo $d > /sys/bus/pci/drivers/nvme/bind
            for i in $(seq 100); do [ ! -b /dev/nvme0n1 ] || break; sleep 0.1; done
        done
        mkfs.ext4 -q /dev/nvme0n1
        mkdir -p /mnt/n
        mount /dev/nvme0n1 /mnt/n
        cp -a /tools/usr/bin /mnt/n/
        cd /mnt/n && find bin -type f | sort | xargs sha256sum > sums
        cd / && umount /mnt/n'
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a -t 120 'modprobe nvme 2> /dev/null; for i in $(seq 100); do [ ! -b /dev/nvme0n1 ] || break; sleep 0.1; done
        mkdir -p /mnt/n; mount -o ro /dev/nvme0n1 /mnt/n; cd /mnt/n && sha256sum -c sums > /run/check || exit 1
        wc -l < /run/check; cd /; umount /mnt/n; dmesg -r | grep "^<[0-3]>" || true'
    [[ $output =~ ^[0-9]+$ ]] && [ "$output" -ge 10 ] || fail "$output"
    vm_stop a
    peer_stop drive
    e2fsck -fn "$D/img"
}

@test "a machine whose root disk is minivmm-nvme, two boots" {
    need mke2fs e2fsck
    local busybox
    busybox=$(tool busybox)
    mkdir -p "$D/root"/{bin,dev,proc}
    cp "$busybox" "$D/root/bin/busybox"
    printf '%s\n' '#!/bin/busybox sh' 'b=/bin/busybox; $b mount -t proc proc /proc; $b grep " / " /proc/mounts' \
        'n=$($b cat /count 2> /dev/null); n=$((${n:-0} + 1)); echo $n > /count; $b sync; $b mount -o remount,ro /' \
        'echo "root boot $n"; [ $n -ge 2 ] && $b poweroff -f; $b reboot -f' > "$D/root/init"
    chmod +x "$D/root/init"
    truncate -s 32M "$D/img"
    mke2fs -q -t ext4 -d "$D/root" "$D/img"
    serve drive minivmm-nvme --image "$D/img"
    {
        vm_boot rig minivmm.root=/dev/nvme0n1 minivmm.init=/init
        device drive
    } | vm_start a
    vm_line a '^/dev/nvme0n1 / ext4'
    vm_line a '^root boot 2'
    vm_wait a 20 'power-off' vm_ended a
    [ "$(cat "$D/a/status")" = 0 ]
    peer_stop drive
    e2fsck -fn "$D/img"
}

@test "minivmm-blk and minivmm-net as whole functions: fio checks what it wrote, ping and a file each way" {
    need socat
    modprobe tun 2> /dev/null || true
    [ -w /dev/net/tun ] && [ "$(id -u)" = 0 ] || skip "no right to make a tap"
    ip tuntap add mini-v mode tap
    ip addr add 10.78.0.1/24 dev mini-v
    ip link set mini-v up
    truncate -s 32M "$D/img"
    head -c 1048576 /dev/urandom > "$D/file"
    serve disk minivmm-blk --image "$D/img" --serial whole --queues 2
    serve card minivmm-net --tap mini-v
    peer_start get socat -u TCP-LISTEN:5002,reuseaddr "CREATE:$D/got"
    peer_start put socat -u "OPEN:$D/file" TCP-LISTEN:5003,reuseaddr
    {
        CPUS=2 vm_boot rig minivmm.agent minivmm.tools=/dev/vda
        tools
        device disk
        device card
    } | vm_start a
    run -0 vm_guest a -t 120 'cat /sys/block/vdb/serial; echo; cd /run
        fio --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-64k --rw=randwrite --size=6M --verify=crc32c \
            --verify_fatal=1 --do_verify=1 --minimal --name=disk --filename=/dev/vdb > fio.out || { cat fio.out; exit 1; }'
    [ "$output" = whole ] || fail "$output"
    run -0 vm_guest a -t 120 'for i in $(seq 100); do [ ! -e /sys/class/net/eth0 ] || break; sleep 0.1; done
        ip addr add 10.78.0.2/24 dev eth0 && ip link set eth0 up
        ping -c 3 -W 5 10.78.0.1 > /run/ping || cat /run/ping
        head -c 1048576 /dev/urandom > /run/file; sha256sum < /run/file; nc 10.78.0.1 5002 < /run/file > /dev/null
        nc 10.78.0.1 5003 < /dev/null | sha256sum'
    wait_for 10 pid_gone "$(peer_pid get)"
    [ "${lines[0]}" = "$(sha256sum < "$D/got")" ] || fail "$output"
    [ "${lines[1]}" = "$(sha256sum < "$D/file")" ] || fail "$output"
    vm_guest a 'dmesg -r | grep "^<[0-3]>" || true'
    vm_stop a
    peer_stop disk
    peer_stop card
    ip link del mini-v
}

# One with a record and one without, which is as after a reset: Linux finds that out when a command is not answered in time.
@test "configs/vfio-user.toml, minivmm-nvme killed under fio: with its record nobody sees more than a pause, without Linux resets the controller" {
    local i which
    truncate -s 32M "$D/img" "$D/plain"
    touch "$D/record"
    sed -e "s|\"vmlinuz\"|\"$GUEST/rig-bzImage\"|" -e "s|\"initrd.img\"|\"$GUEST/rig-initrd\"|" \
        -e 's|^cmdline .*|cmdline = "console=ttyS0 panic=-1 quiet minivmm.agent minivmm.tools=/dev/vda"|' \
        -e "s|\"minivmm-nvme\"|\"$TOP/build/release/minivmm-nvme\"|" -e "s|/srv/disk.raw|$D/img|" -e "s|/srv/disk.record|$D/record|g" \
        "$TOP/configs/vfio-user.toml" > "$D/config"
    tools >> "$D/config"
    printf '[[device]]\nid = "plain"\nvia = "vfio-user"\nexec = ["%s", "--fd", "{fd}", "--image", "%s", "--serial", "plain"]\npaths = ["%s:rw"]\n' \
        "$TOP/build/release/minivmm-nvme" "$D/plain" "$D/plain" >> "$D/config"
    vm_start a --set vm.cpus=2 --set vm.memory=384M < "$D/config"
    nvme_pid() { pgrep -P "$(vm_pid a)" -f "minivmm-nvme.*$1"; }
    nvme_back() { [ "$(grep -c "$1: .* is back after" "$D/a/stderr")" -ge "$2" ]; }
    vm_guest a 'modprobe nvme 2> /dev/null; for i in $(seq 100); do [ ! -b /dev/nvme0n1 ] || [ ! -b /dev/nvme1n1 ] || break; sleep 0.1; done
        cd /run
        for n in 0 1; do
            which=drive most=10s
            ! grep -q plain /sys/class/nvme/nvme$n/serial || { which=plain most=60s; echo 1000 > /sys/block/nvme${n}n1/queue/io_timeout; }
            echo $n > /run/$which.number
            (while [ ! -e /run/enough ]; do
                fio --name=x --filename=/dev/nvme${n}n1 --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-32k --rw=randwrite --max_latency=$most \
                    --size=2M --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal > /run/$which.out 2>&1 || { echo bad > /run/$which.rc; exit; }
                echo round >> /run/$which.rounds
            done
            echo good > /run/$which.rc) > /dev/null 2>&1 &
        done
        while [ ! -s /run/drive.rounds ] || [ ! -s /run/plain.rounds ]; do sleep 0.2; done'
    for i in 1 2 3 4; do
        which=drive
        [ "$i" -lt 4 ] || which=plain
        kill -KILL "$(nvme_pid "$([ $which = drive ] && echo record || echo plain)")"
        wait_for 10 nvme_back $which "$([ $which = drive ] && echo "$i" || echo 1)" || fail "$(tail -n 5 "$D/a/stderr")"
        run -0 vm_guest a -t 60 "n=\$(wc -l < /run/$which.rounds); while [ \$(wc -l < /run/$which.rounds) -lt \$((n + 1)) ] && [ ! -e /run/$which.rc ]; do sleep 0.2; done; cat /run/$which.rc 2> /dev/null || true"
        [ -z "$output" ] || fail "$which, after death $i: $(vm_guest a "cat /run/$which.out; dmesg | tail -n 20")"
    done
    run -0 vm_guest a -t 60 'touch /run/enough; while [ ! -e /run/drive.rc ] || [ ! -e /run/plain.rc ]; do sleep 0.2; done; cat /run/drive.rc /run/plain.rc
        for which in plain drive; do dmesg | grep -c "nvme nvme$(cat /run/$which.number): .*\(controller is down; will reset\|timeout\)"; done; true'
    [ "${lines[0]}" = good ] && [ "${lines[1]}" = good ] && [ "${lines[2]}" -ge 1 ] && [ "${lines[3]}" = 0 ] || fail "$output"
    grep -o 'drive: .* is back after.*' "$D/a/stderr" | sed 's/^/# /' >&3
    vm_stop a
}

# The disk's controller, as Linux found it for the COUNTth time, and that it takes what is written.
drive_works() { # COUNT
    run -0 vm_guest a -t 60 "for i in \$(seq 200); do [ \$(dmesg | grep -c 'nvme.*pci function 0000:00:01.0') -lt $1 ] || break; sleep 0.1; done
        dmesg | grep -c 'nvme.*pci function 0000:00:01.0'
        for i in \$(seq 100); do d=\$(ls /dev/nvme*n1 2> /dev/null); [ ! -b \"\$d\" ] || break; sleep 0.1; done
        head -c 2097152 /dev/urandom > /run/data; sha256sum < /run/data
        dd if=/run/data of=\$d bs=1M oflag=direct conv=fsync 2> /dev/null
        dd if=\$d bs=1M count=2 iflag=direct 2> /dev/null | sha256sum"
    [ "${lines[0]}" = "$1" ] && [ "${lines[1]}" = "${lines[2]}" ] || fail "$output"
}

@test "minivmm-nvme killed under fio, on_return = replug: the disk goes at once, comes back and works; ejected by the guest" {
    truncate -s 32M "$D/img"
    {
        CPUS=2 MEMORY=384M vm_boot rig minivmm.agent minivmm.tools=/dev/vda
        printf '[[device]]\nid = "drive"\nvia = "vfio-user"\nexec = ["%s", "--fd", "{fd}", "--image", "%s"]\n' \
            "$TOP/build/release/minivmm-nvme" "$D/img"
        printf 'sandbox = "none"\non_return = "replug"\n'
        tools
    } | vm_start a
    drive_works 1
    vm_guest a '(fio --name=x --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio --iodepth=16 --bs=4k --rw=randwrite --time_based \
            --runtime=60 --size=8M > /run/fio.out 2>&1; echo $? > /run/fio.rc) > /dev/null 2>&1 &
        until [ "$(awk "{ print \$5 }" /sys/block/nvme0n1/stat)" -gt 1000 ]; do sleep 0.1; done'
    kill -KILL "$(pgrep -P "$(vm_pid a)" -f minivmm-nvme)"
    wait_for 10 grep -q 'drive: the guest saw the device go, and sees it plugged in anew' "$D/a/stderr" || fail "$(cat "$D/a/stderr")"
    run -0 vm_guest a -t 20 'until [ -e /run/fio.rc ]; do sleep 0.1; done; cat /run/fio.rc'
    [ "$output" != 0 ] || fail "fio noticed nothing"
    drive_works 2
    vm_guest a 'echo 0 > /sys/bus/pci/slots/1/power; ls /sys/bus/pci/devices | grep -q 00:01.0 && exit 1; echo 1 > /sys/bus/pci/slots/1/power'
    drive_works 3
    vm_stop a
}
