# A disk's process dies, stops or is let go of: the machine and the other disk go on.
# weight: 80
load lib/helpers

device() { # ID IMAGE LINE...
    printf '[[device]]\nid = "%s"\nvirtio = "blk"\nimage = "%s"\n' "$1" "$2"
    shift 2
    printf '%s\n' "$@"
}

fire() { # NAME COMMAND
    vm_send "$1" "x $(base64 -w 0 <<< "$2")"$'\n'
}

children() { # PID: its devices
    local p
    for p in $(cat "/proc/$1"/task/*/children); do [ "$(cat "/proc/$p/comm")" = spawner ] || echo "$p"; done
}

# The process that serves an image: found by its serial number.
served_by() { # NAME SERIAL
    local p
    for p in $(children "$(vm_pid "$1")"); do
        if tr '\0' '\n' < "/proc/$p/cmdline" | grep -qx -- "--serial=$2"; then echo "$p"; fi
    done
}

fds() { find "/proc/$1/fd" -mindepth 1 | wc -l; }

@test "the driver lets go of a disk and takes it again, 20 times" {
    local monitor blk n
    echo marked > "$D/disk.img"
    truncate -s 8M "$D/disk.img"
    { CPUS=2 vm_boot debian minivmm.agent; device disk0 "$D/disk.img" 'queues = 2'; } | vm_start a
    run -0 vm_guest a 'head -n 1 /dev/vda'
    [ "$output" = marked ]
    monitor=$(fds "$(vm_pid a)") blk=$(fds "$(served_by a disk0)")
    [ "$monitor" -gt 5 ]
    [ "$blk" -gt 5 ]
    # with I/O under way each time
    run -0 vm_guest a -t 120 '
        cd /sys/bus/pci/drivers/virtio-pci
        i=0
        while [ $i -lt 20 ]; do
            dd if=/dev/vda of=/dev/null bs=4k iflag=direct 2> /dev/null &
            echo 0000:00:01.0 > unbind || exit 1
            [ ! -e /sys/block/vda ] || exit 2
            wait
            echo 0000:00:01.0 > bind || exit 3
            [ "$(head -n 1 /dev/vda)" = marked ] || exit 4
            i=$((i + 1))
        done
        echo rounds $i
        dmesg -r | grep "^<[0-3]>" | grep -v "I/O error, dev vda" | head -n 5'
    [ "$output" = "rounds 20" ] || fail "$output"
    [ "$(fds "$(vm_pid a)")" = "$monitor" ] || fail "the monitor had $monitor descriptors, has $(fds "$(vm_pid a)")"
    [ "$(fds "$(served_by a disk0)")" = "$blk" ]
    vm_stop a
}

@test "minivmm-blk killed under fio: the guest and its other disk go on, and it can be switched off" {
    local victim monitor others sum
    head -c 8M /dev/urandom > "$D/good.img"
    truncate -s 64M "$D/bad.img"
    sum=$(sha256sum < "$D/good.img")
    {
        CPUS=2 vm_boot debian minivmm.agent minivmm.tools=/dev/vdc
        device bad "$D/bad.img" 'restart = "never"'
        device good "$D/good.img"
        device tools "$GUEST/tools.img" 'readonly = true'
    } | vm_start a
    vm_guest a '
        cd /run
        (fio --name=x --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=8 --bs=4k --rw=randrw \
            --time_based --runtime=600 > /run/fio.out 2>&1; echo $? > /run/fio.rc) &
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            set -- $(cat /sys/block/vda/stat)
            [ $(($1 + $5)) -lt 100 ] || exit 0
            sleep 1
        done
        cat /run/fio.out
        exit 1'
    monitor=$(fds "$(vm_pid a)")
    victim=$(served_by a bad)
    kill -KILL "$victim"
    wait_for 2 pid_gone "$victim"
    others=$(children "$(vm_pid a)" | wc -w)
    [ "$others" = 2 ]
    run -0 vm_guest a 'sha256sum < /dev/vdb; dd if=/dev/zero of=/dev/vdb bs=64k count=4 conv=fsync 2> /dev/null; uptime > /dev/null'
    [ "$output" = "$sum" ]
    cmp -n 262144 "$D/good.img" /dev/zero
    # the monitor has said which, and closed what it had of it
    run -0 grep -c '^minivmm: bad: ' "$D/a/stderr"
    [ "$(fds "$(vm_pid a)")" -lt "$monitor" ]
    # a guest with requests that nobody answers: by force
    fire a 'echo o > /proc/sysrq-trigger'
    vm_exit a
}

@test "minivmm-blk killed, then a reset: the machine starts again without that disk" {
    truncate -s 8M "$D/bad.img" "$D/good.img"
    { vm_boot rig minivmm.agent; device bad "$D/bad.img" 'restart = "never"'; device good "$D/good.img"; } | vm_start a
    run -0 vm_guest a 'cat /sys/block/vd*/serial; echo'
    kill -KILL "$(served_by a bad)"
    fire a 'echo b > /proc/sysrq-trigger'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a 'cat /sys/block/vd*/serial; echo'
    [ "$output" = good ] || fail "disks after the reset: $output"
    vm_stop a
}

@test "minivmm-blk stopped (SIGSTOP) during a reset: bounded, and the other disk is there" {
    local begin took
    truncate -s 8M "$D/bad.img" "$D/good.img"
    { vm_boot rig minivmm.agent; device bad "$D/bad.img" 'restart = "never"'; device good "$D/good.img"; } | vm_start a
    run -0 vm_guest a 'cat /sys/block/vd*/serial; echo'
    kill -STOP "$(served_by a bad)"
    begin=$(now)
    fire a 'echo b > /proc/sysrq-trigger'
    vm_count a '^MINIVMM-AGENT' 2 60
    took=$(($(now) - begin))
    echo "the second boot took $took s"
    [ $took -le 45 ]
    run -0 vm_guest a 'cat /sys/block/vd*/serial; echo'
    [ "$output" = good ] || fail "disks after the reset: $output"
    # its process does not outlive the machine
    vm_stop a
}
