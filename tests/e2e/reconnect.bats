# Back-ends that die and come back while Linux uses them: nothing is lost, and the guest sees a pause.
# weight: 90
load lib/helpers

disk() { # ID LINE...
    printf '[[device]]\nid = "%s"\nvirtio = "blk"\n' "$1"
    shift
    printf '%s\n' "$@"
}

served_by() { pgrep -P "$(vm_pid "$1")" -f -- "--serial=$2( |\$)"; } # NAME SERIAL
another() { local p; p=$(served_by "$1" "$2") && [ -n "$p" ] && [ "$p" != "$3" ]; }
fds() { find "/proc/$1/fd" -mindepth 1 | wc -l; }

kill_again() { # NAME SERIAL TIMES
    local i victim=''
    for ((i = 0; i < $3; i++)); do
        wait_for 10 another "$1" "$2" "$victim" || fail "kill $i: $2 did not come back" || return
        victim=$(served_by "$1" "$2")
        nap 0.0$((RANDOM % 9 + 1))
        kill -KILL "$victim"
    done
    wait_for 10 another "$1" "$2" "$victim"
}

@test "minivmm-blk killed again and again under fio: each block is what was written, no descriptor more" {
    local before begin
    truncate -s 64M "$D/disk.img"
    {
        CPUS=2 vm_boot debian minivmm.agent minivmm.tools=/dev/vdb
        disk disk0 "image = \"$D/disk.img\"" 'queues = 2'
        disk tools "image = \"$GUEST/tools.img\"" 'readonly = true'
    } | vm_start a
    vm_guest a '
        cd /run
        (while [ ! -e /run/enough ]; do
            fio --name=x --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --bsrange=4k-32k --rw=randwrite \
                --size=8M --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal > /run/fio.out 2>&1 || { echo bad > /run/fio.rc; exit; }
            echo round >> /run/rounds
        done
        echo good > /run/fio.rc) > /dev/null 2>&1 &'
    kill_again a disk0 3
    before="$(fds "$(vm_pid a)") $(fds "$(pgrep -P "$(vm_pid a)" -x spawner)")"
    begin=$(now)
    kill_again a disk0 "${KILLS:-60}"
    echo "${KILLS:-60} kills in $(($(now) - begin)) s; gaps: $(grep -o 'is back after [0-9]* ms' "$D/a/stderr" | grep -o '[0-9]*' | sort -n | tr '\n' ' ')"
    run -0 vm_guest a -t 120 'touch /run/enough; while [ ! -e /run/fio.rc ]; do sleep 0.2; done; cat /run/fio.rc; wc -l < /run/rounds; cat /run/fio.out | tail -n 3 | cut -c 1-300'
    echo "$output"
    [ "${lines[0]}" = good ]
    [ "${lines[1]}" -ge 2 ]
    [ "$(fds "$(vm_pid a)") $(fds "$(pgrep -P "$(vm_pid a)" -x spawner)")" = "$before" ]
    run vm_guest a 'dmesg -r | grep "^<[0-3]>"'
    [ -z "$output" ]
    vm_stop a
}

@test "qemu-storage-daemon and virtiofsd killed and started by hand: the same disk, the same files" {
    need qemu-storage-daemon
    [ -x /usr/libexec/virtiofsd ] || skip "virtiofsd is not installed"
    local i
    qsd() {
        peer_start qsd qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$D/disk.img" \
            --export "type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path=$D/qsd.sock"
    }
    fsd() {
        peer_start fsd /usr/libexec/virtiofsd --socket-path="$D/fs.sock" --shared-dir="$D/share" --tag=share --sandbox=none
    }
    mkdir "$D/share"
    truncate -s 16M "$D/disk.img"
    qsd
    fsd
    # later ones are connected to before one sees them listen, and virtiofsd then takes its socket away
    wait_for 20 test -S "$D/qsd.sock"
    wait_for 20 test -S "$D/fs.sock"
    {
        CPUS=2 vm_boot debian minivmm.agent
        disk disk0 'via = "vhost-user"' "socket = \"$D/qsd.sock\""
        printf '[[device]]\nid = "fs0"\nvia = "vhost-user"\nvirtio = "fs"\nsocket = "%s"\n' "$D/fs.sock"
    } | vm_start a
    vm_guest a 'modprobe virtiofs; mkdir -p /run/fs'
    for i in 1 2 3; do
        run -0 vm_guest a "echo disk $i | dd of=/dev/vda bs=512 seek=$i conv=sync,fsync 2> /dev/null
            mount -t virtiofs share /run/fs && echo file $i > /run/fs/$i && umount /run/fs"
        kill -KILL "$(peer_pid qsd)" "$(peer_pid fsd)"
        wait_for 5 pid_gone "$(peer_pid qsd)"
        wait_for 5 pid_gone "$(peer_pid fsd)"
        rm -f "$D/qsd.sock" "$D/fs.sock"
        # asked for while nobody is there
        vm_guest a "(dd if=/dev/vda bs=512 skip=$i count=1 iflag=direct 2> /dev/null | head -n 1 > /run/read.$i) > /dev/null 2>&1 &"
        qsd
        fsd
        run -0 vm_guest a "while [ ! -s /run/read.$i ]; do sleep 0.1; done; cat /run/read.$i; mount -t virtiofs share /run/fs && cat /run/fs/$i && umount /run/fs"
        [ "$output" = "disk $i"$'\n'"file $i" ] || fail "after death $i: $output"
    done
    [ "$(grep -c ' is back after ' "$D/a/stderr")" -ge 4 ] # of six, some of which come too fast for the log
    vm_stop a
    peer_stop qsd
    peer_stop fsd
    rm -f "$D/qsd.sock" "$D/fs.sock"
}

@test "killed while the guest reboots: the next boot has the disk" {
    truncate -s 8M "$D/disk.img"
    { vm_boot rig minivmm.agent; disk disk0 "image = \"$D/disk.img\""; } | vm_start a
    run -0 vm_guest a 'cat /sys/block/vda/serial; echo'
    vm_send a "x $(base64 -w 0 <<< 'echo b > /proc/sysrq-trigger')"$'\n'
    kill_again a disk0 5
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a 'cat /sys/block/vda/serial; echo'
    [ "$output" = disk0 ]
    vm_stop a
}
