# shellcheck shell=bash
# PID 1 of L1, second half, from the root tree: mount the rest, run
# /run/rig/cmd, report, stop.  /run/rig is a folder of the host's, read-only.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
p9=trans=virtio,version=9p2000.L,msize=512000

bye() {
    sync
    echo o > /proc/sysrq-trigger
    sleep 60
}
give_up() { echo "rig: $*" > /dev/console; bye; }
word() { sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
uptime_now() { cut -d' ' -f1 /proc/uptime; }
port() { # the virtio-serial port of that name
    local p
    for p in /sys/class/virtio-ports/*; do
        if [ "$(< "$p/name")" = "$1" ]; then echo "/dev/${p##*/}"; fi
    done
}

ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
modprobe -qa configfs kvm_amd
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
while read -r tag mode dir; do
    if [ "$mode" = over ]; then # laid over what is there; read-only from then on
        mkdir -p "/run/$tag"
        mount -t 9p -o "$p9,ro,cache=loose" "$tag" "/run/$tag" &&
            mount -t overlay -o "lowerdir=/run/$tag:$dir" "$tag" "$dir" || give_up "cannot mount $tag over $dir"
        continue
    fi
    mkdir -p "$dir"
    cache=mmap
    [ "$mode" = rw ] || cache=loose
    mount -t 9p -o "$p9,$mode,access=any,cache=$cache" "$tag" "$dir" || give_up "cannot mount $dir"
done < /run/rig/mounts
ip link set lo up
hostname l1

if [ "$(word rig.mode)" = shell ]; then
    setsid -c -w bash /run/rig/cmd < /dev/ttyS0 > /dev/ttyS0 2>&1
    bye
fi

ctl=$(port rig.ctl)
exec 7> "$ctl"
echo "up $(uptime_now)" >&7
# A sign of life for the host; `read` waits without a process.
{
    exec {nothing}<> <(:)
    while :; do
        read -rt 5 -u "$nothing" _
        echo beat >&7
    done
} < /dev/null &
heart=$!
# A port opens once only: CMD gets pipes, or /dev/stdout would not work in it.
mkfifo /run/out /run/err
cat < /run/out > "$(port rig.out)" 7>&- & readers=($!)
cat < /run/err > "$(port rig.err)" 7>&- & readers+=($!)
limit=$(word rig.timeout)
timeout -k 5 "$limit" bash /run/rig/cmd < /dev/null > /run/out 2> /run/err 7>&-
rc=$?
# 124: TERM sufficed; 137: it took KILL
if [ $rc = 124 ] || [ $rc = 137 ]; then
    {
        echo "rig: CMD ran into its limit of $limit s; the processes then:"
        ps -eo pid,ppid,stat,wchan:24,args
        echo w > /proc/sysrq-trigger
    } > /dev/console 2>&1
fi
# Daemons that CMD left behind may hold the pipes open for ever.
for _ in {1..20}; do
    kill -0 "${readers[@]}" 2> /dev/null || break
    sleep 0.1
done
kill "$heart"
echo "exit $rc $(uptime_now)" >&7
bye
