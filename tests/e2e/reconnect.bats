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

gaps() { # NAME: count, least, median, most
    sed -n 's/.* is back after \([0-9]*\) ms.*/\1/p' "$D/$1/stderr" | sort -n |
        awk '{ v[NR] = $1 } END { print NR " lines, " v[1] ", " v[int((NR + 1) / 2)] ", " v[NR] }'
}

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
    echo "# ${KILLS:-60} kills in $(($(now) - begin)) s; gaps without a back-end as the log has them, in ms: $(gaps a)" >&3
    run -0 vm_guest a -t 120 'touch /run/enough; while [ ! -e /run/fio.rc ]; do sleep 0.2; done; cat /run/fio.rc; wc -l < /run/rounds; cat /run/fio.out | tail -n 3 | cut -c 1-300'
    echo "$output"
    [ "${lines[0]}" = good ]
    [ "${lines[1]}" -ge 2 ]
    [ "$(fds "$(vm_pid a)") $(fds "$(pgrep -P "$(vm_pid a)" -x spawner)")" = "$before" ]
    # What the driver said of the cache is remembered, too.
    vm_guest a 'echo "write through" > /sys/block/vda/cache_type'
    kill_again a disk0 2
    run -0 vm_guest a 'cat /sys/block/vda/cache_type'
    [ "$output" = 'write through' ]
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

# What its driver told the one that died by commands is not said again: Linux does not know of the change.
@test "minivmm-net with two pairs killed: packets of each CPU go on, also after commands, and with a pair that was never used" {
    local cpus i
    modprobe tun 2> /dev/null || true
    [ -w /dev/net/tun ] && [ "$(id -u)" = 0 ] || skip "no right to make a tap"
    ip tuntap add mini-mq mode tap multi_queue
    ip addr add 10.79.0.1/24 dev mini-mq
    ip link set mini-mq up
    net_pid() { pgrep -P "$(vm_pid a)" -x minivmm-net; }
    net_back() { [ "$(grep -c 'net0: .* is back after' "$D/a/stderr")" -ge "$1" ]; }
    for cpus in 2 1; do
        {
            CPUS=$cpus vm_boot rig minivmm.agent
            printf '[[device]]\nid = "net0"\nvirtio = "net"\ntap = "mini-mq"\nqueues = 2\nmac = "52:54:00:12:34:56"\n'
        } | vm_start a
        vm_guest a 'ip link set eth0 address 02:03:04:05:06:07
            ip addr add 10.79.0.2/24 dev eth0
            ip link set eth0 up'
        for i in 1 2 3 4; do
            run -0 vm_guest a "ifconfig eth0 promisc
                for c in $(seq -s ' ' $cpus); do taskset \$c ping -q -A -c 30 -w 30 10.79.0.1 || exit 1; done
                ifconfig eth0 -promisc
                cat /sys/class/net/eth0/address"
            [ "$(grep -c ' 30 packets received, 0% packet loss' <<< "$output")" = $cpus ] || fail "round $i: $output"
            [[ $output == *02:03:04:05:06:07* ]]
            # and from the host, whose flows the kernel spreads over the pairs that are in use
            run -0 ping -q -A -c 50 -W 10 10.79.0.2 # without -w, which counts what is under way when it ends as lost
            [[ $output == *" 0% packet loss"* ]] || fail "round $i: $output"
            kill -KILL "$(net_pid)"
            wait_for 10 net_back "$i" || fail "round $i: $(tail -n 5 "$D/a/stderr")"
        done
        if [ $cpus = 2 ]; then
            run -0 vm_guest a 'ls -d /sys/class/net/eth0/queues/tx-* | wc -l; cat /sys/class/net/eth0/queues/tx-*/xps_cpus'
            [ "$output" = $'2\n1\n2' ] || fail "the guest does not use both pairs, one for each CPU: $output"
        fi
        vm_stop a
    done
    ip link del mini-mq
}

@test "virtiofsd killed while it is mounted: its files are errors and not a hang, all else goes on, and a new mount is as good as ever" {
    [ -x /usr/libexec/virtiofsd ] || skip "virtiofsd is not installed"
    local victim
    mkdir "$D/share"
    truncate -s 16M "$D/disk.img"
    echo 'from the host' > "$D/share/greeting"
    {
        CPUS=2 vm_boot debian minivmm.agent
        disk disk0 "image = \"$D/disk.img\""
        printf '[[device]]\nid = "fs0"\nvia = "vhost-user"\nvirtio = "fs"\nsandbox = "fs"\npaths = ["%s:rw"]\n' "$D/share"
        printf 'exec = ["/usr/libexec/virtiofsd", "--fd={listen}", "--tag=share", "--shared-dir=%s", "--sandbox=none"]\n' "$D/share"
    } | vm_start a
    fs_pid() { pgrep -P "$(vm_pid a)" -x virtiofsd; }
    fs_back() { [ "$(grep -c 'fs0: .* is back after' "$D/a/stderr")" -ge "$1" ]; }
    run -0 vm_guest a 'modprobe virtiofs; mkdir -p /run/fs; mount -t virtiofs share /run/fs; echo before > /run/fs/before; cat /run/fs/greeting
        (exec 5> /run/fs/held; while [ ! -e /run/enough ]; do sleep 0.2; done; echo late >&5; echo $? > /run/late) > /dev/null 2>&1 &'
    [ "$output" = 'from the host' ]
    nap 1 # Linux lets go of a file after its close(2), and would wait for ever for an answer to that
    kill -KILL "$(fs_pid)"
    wait_for 10 fs_back 1
    # The session was that process's: who asks the next one with its numbers of files is told so.
    run -0 vm_guest a -t 30 'touch /run/enough
        cat /run/fs/greeting > /run/read 2> /run/why || cat /run/why
        echo new > /run/fs/new || echo no
        while [ ! -s /run/late ]; do sleep 0.2; done; cat /run/late'
    [[ $output == *"greeting': Bad file descriptor"*"new: Bad file descriptor"*no*1 ]] || fail "$output"
    run -0 vm_guest a -t 30 'echo disk | dd of=/dev/vda bs=512 seek=3 conv=sync,fsync 2> /dev/null; dd if=/dev/vda bs=512 skip=3 count=1 iflag=direct 2> /dev/null | head -n 1'
    [ "$output" = disk ]
    run -0 vm_guest a -t 30 'umount -l /run/fs; mount -t virtiofs share /run/fs && cat /run/fs/before /run/fs/greeting; echo after > /run/fs/after'
    [ "$output" = $'before\nfrom the host' ]
    [ "$(cat "$D/share/after")" = after ]
    # In the middle of requests: who waits for one may wait for ever, for Linux' driver gives none up; the rest of the guest
    # does not, and a reboot has the folder again.
    vm_guest a '(while cat /run/fs/greeting > /dev/null; do :; done) > /dev/null 2>&1 &'
    nap 1
    kill -KILL "$(fs_pid)"
    wait_for 10 fs_back 2
    run -0 vm_guest a -t 30 'echo more | dd of=/dev/vda bs=512 seek=4 conv=sync oflag=direct 2> /dev/null; dd if=/dev/vda bs=512 skip=4 count=1 iflag=direct 2> /dev/null | head -n 1'
    [ "$output" = more ]
    vm_send a "x $(base64 -w 0 <<< 'echo b > /proc/sysrq-trigger')"$'\n'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a 'modprobe virtiofs; mkdir -p /run/fs; mount -t virtiofs share /run/fs; cat /run/fs/after /run/fs/greeting; umount /run/fs'
    [ "$output" = $'after\nfrom the host' ]
    vm_stop a
}
