# Walls: what the monitor and a device process may do, seen from outside, for root and for a plain user.
# weight: 90
load lib/helpers

disk() { printf '[[device]]\nid = "disk0"\nvirtio = "blk"\nimage = "%s"\n' "$D/disk.img"; }

children() { # PID: its devices
    local p
    for p in $(cat "/proc/$1"/task/*/children); do [ "$(cat "/proc/$p/comm")" = spawner ] || echo "$p"; done
}

status_is() { # PID KEY VALUE: of each thread
    local t v
    for t in "/proc/$1"/task/[0-9]*; do
        v=$(sed -n "s/^$2:[[:space:]]*//p" "$t/status")
        [ "$v" = "$3" ] || fail "$(cat "$t/comm") ($t): $2 is '$v', not '$3'" || return
    done
}

walled() { # PID
    status_is "$1" NoNewPrivs 1
    status_is "$1" Seccomp 2
    status_is "$1" CapEff 0000000000000000
    status_is "$1" CapPrm 0000000000000000
    status_is "$1" CapAmb 0000000000000000
}

# A device process: nothing of this host is in sight.  Only root may look.
jailed() { # PID
    local ns fd to
    walled "$1"
    for ns in user mnt pid net ipc uts cgroup; do
        [ "$(readlink "/proc/$1/ns/$ns")" != "$(readlink "/proc/self/ns/$ns")" ] || fail "$ns: the host's name space"
    done
    [ -z "$(ls -A "/proc/$1/root/")" ] || fail "its root holds: $(ls -A "/proc/$1/root/")"
    [ "$(wc -l < "/proc/$1/mountinfo")" = 1 ] || fail "mounts: $(cat "/proc/$1/mountinfo")"
    [ "$(grep -c : "/proc/$1/net/dev")" = 1 ] || fail "network: $(cat "/proc/$1/net/dev")"
    [ ! -s "/proc/$1/environ" ]
    for fd in "/proc/$1/fd/"*; do
        to=$(readlink "$fd")
        case $to in
        /dev/null | "$D/disk.img" | pipe:* | socket:* | anon_inode:* | /memfd:*) ;;
        *) fail "descriptor ${fd##*/} is $to" ;;
        esac
    done
}

in_jail() { # as a machine runs: everything in its place
    local blk
    blk=$(children "$(vm_pid a)")
    blk=${blk// /}
    [ "$(cat "/proc/$blk/comm")" = minivmm-blk ]
    walled "$(vm_pid a)"
    jailed "$blk"
}

as_root() { [ "$(id -u)" = 0 ] || skip "only root can look into a jail"; }

@test "started by root: the monitor is sealed, its disk is jailed" {
    as_root
    truncate -s 1M "$D/disk.img"
    { vm_boot rig minivmm.agent; disk; } | vm_start a
    run -0 vm_guest a 'dd if=/dev/zero of=/dev/vda bs=4k count=16 conv=fsync 2> /dev/null'
    in_jail
    vm_stop a
}

@test "started by a plain user: Debian boots with a disk, and all is jailed as before" {
    local dir
    if [ "$(id -u)" != 0 ]; then skip "every other test shows this: the suite is run by a plain user"; fi
    need setpriv
    umask 022
    # in the rig, what only root may reach
    for dir in "$GUEST" "$D"; do
        while [ -n "${IN_RIG:-}" ] && [ "$dir" != / ]; do
            chmod go+x "$dir" 2> /dev/null || true
            dir=$(dirname "$dir")
        done
    done
    [ -n "${IN_RIG:-}" ] || chmod go+x "$BATS_RUN_TMPDIR" "$BATS_RUN_TMPDIR"/test "$BATS_TEST_TMPDIR" "$D"
    truncate -s 1M "$D/disk.img"
    chown 1000:1000 "$D/disk.img"
    printf '#!/bin/sh\nexec setpriv --reuid=1000 --regid=1000 --groups="$(stat -c %%g /dev/kvm)" --inh-caps=-all --bounding-set=-all "%s" "$@"\n' \
        "$MINIVMM" > "$D/as-user"
    chmod 755 "$D/as-user"
    [ -z "${IN_RIG:-}" ] || chmod g+rw /dev/kvm
    { vm_boot debian minivmm.agent; disk; } | MINIVMM=$D/as-user vm_start a
    run -0 vm_guest a 'dd if=/dev/zero of=/dev/vda bs=4k count=16 conv=fsync 2> /dev/null'
    status_is "$(vm_pid a)" Uid $'1000\t1000\t1000\t1000'
    in_jail
    vm_stop a
}

# Programs of other people, started and jailed by minivmm.
foreign() { # ID TYPE EXEC-WORDS SANDBOX [PATHS]
    printf '[[device]]\nid = "%s"\nvia = "vhost-user"\nvirtio = "%s"\nexec = [%s]\nsandbox = "%s"\npaths = [%s]\n' "$1" "$2" "$3" "$4" "${5:-}"
}

share() { # the folder $D/share by virtiofsd
    mkdir "$D/share"
    echo 'from the host' > "$D/share/greeting"
    foreign fs0 fs "\"/usr/libexec/virtiofsd\", \"--fd={listen}\", \"--tag=share\", \"--shared-dir=$D/share\", \"--sandbox=none\"" fs "\"$D/share:rw\""
}

@test "virtiofsd in its jail: the guest mounts a folder, writes and reads it" {
    [ -x /usr/libexec/virtiofsd ] || skip "no virtiofsd"
    { vm_boot debian minivmm.agent minivmm.tools=/dev/vda; printf '[[device]]\nid = "tools"\nvirtio = "blk"\nreadonly = true\nimage = "%s"\n' "$GUEST/tools.img"; share; } | vm_start a
    run -0 vm_guest a 'modprobe virtiofs && mount -t virtiofs share /mnt && cat /mnt/greeting'
    [[ $output == *"from the host"* ]]
    run -0 vm_guest a 'for i in $(seq 200); do echo $i > /mnt/file$i; done; sync; cat /mnt/file* | wc -l; umount /mnt'
    [[ $output == *200* ]]
    [ "$(cat "$D/share/file123")" = 123 ]
    local p
    for p in $(children "$(vm_pid a)"); do
        [ "$(cat "/proc/$p/comm")" = virtiofsd ] || continue
        status_is "$p" NoNewPrivs 1
        status_is "$p" Seccomp 2
        [ ! -e "/proc/$p/root/etc" ]
        [ ! -e "/proc/$p/root/root" ]
    done
    vm_stop a
}

# A disk whose image lies in memory: what the guest writes counts as its program's.
limited_disk() { # LIMITS
    truncate -s 100M "$memory_image"
    foreign hog blk "\"$MINIVMM_BLK\", \"--fd={fd}\", \"--image=$memory_image\"" none | sed '/^paths/d'
    printf 'limits = %s\n' "$1"
}

blk_pid() { pgrep -f "^$MINIVMM_BLK .*--image=$memory_image"; }
no_limits_left() { [ -z "$(find /sys/fs/cgroup -name 'minivmm-*')" ]; }
LIMITS='{ memory = "32M", processes = 16, cpu = "150%" }'

memory_cgroups() {
    local controllers
    controllers=$(cat /sys/fs/cgroup/cgroup.controllers 2> /dev/null) || controllers=none
    [[ " $controllers " == *" memory "* ]] || skip "no cgroups of version 2 with memory here: $controllers"
    as_root
    memory_image=/dev/shm/minivmm-limited.$$
}

# A death by its limit is one like any other: what comes back is limited, too, and the guest's writes are done in the end.
killed_by_limit() {
    local first group
    run -0 vm_guest a 'cat /sys/block/vda/size'
    first=$(blk_pid)
    group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$first/cgroup")
    [[ $group == */minivmm-"$(vm_pid a)".hog ]]
    [ "$(cat "$group/memory.max" "$group/pids.max" "$group/cpu.max")" = $'33554432\n16\n150000 100000' ]
    vm_guest a 'dd if=/dev/zero of=/dev/vda bs=256k count=200 conv=fsync 2> /dev/null' > /dev/null & local writer=$!
    wait_for 30 pid_gone "$first"
    grep -q 'hog.*killed by signal 9' "$D/a/stderr"
    [ "$(sed -n 's/^oom_kill //p' "$group/memory.events")" -ge 1 ]
    while ! wait_for 1 pid_gone $writer; do fallocate --punch-hole --offset 0 --length 100M "$memory_image"; done
    wait $writer
    [ "$(blk_pid)" != "$first" ]
    grep -qx "0::${group#/sys/fs/cgroup}" "/proc/$(blk_pid)/cgroup"
}

@test "R03: a program over its memory limit is killed, comes back into the same limits, and the guest goes on" {
    memory_cgroups
    { vm_boot rig minivmm.agent; limited_disk "$LIMITS"; } | vm_start a
    killed_by_limit
    run -0 "$TOP/tests/guest/lib/explain-check" "$MINIVMM" "$D/a/vm.toml" "$(vm_pid a)"
    vm_stop a
    no_limits_left
    rm "$memory_image"
}

@test "limits in a cgroup that is delegated to a plain user: removed after a kill of the monitor, too" {
    memory_cgroups
    need setpriv
    local own=/sys/fs/cgroup/delegated dir
    for dir in "$GUEST" "$D"; do
        while [ -n "${IN_RIG:-}" ] && [ "$dir" != / ]; do
            chmod go+x "$dir" 2> /dev/null || true
            dir=$(dirname "$dir")
        done
    done
    mkdir "$own"
    echo '+memory +pids +cpu' > /sys/fs/cgroup/cgroup.subtree_control
    chown 1000 "$own" "$own/cgroup.procs" "$own/cgroup.subtree_control"
    printf '#!/bin/sh\necho $$ > %s/cgroup.procs\nexec setpriv --reuid=1000 --regid=1000 --groups="$(stat -c %%g /dev/kvm)" --inh-caps=-all --bounding-set=-all "%s" "$@"\n' \
        "$own" "$MINIVMM" > "$D/delegated"
    chmod 755 "$D/delegated"
    [ -z "${IN_RIG:-}" ] || chmod g+rw /dev/kvm
    vm_boot rig minivmm.agent > "$D/config"
    limited_disk "$LIMITS" >> "$D/config"
    chmod a+rw "$memory_image"
    MINIVMM=$D/delegated vm_start a < "$D/config"
    run -0 vm_guest a 'cat /sys/block/vda/size'
    grep -qx "0::/delegated/minivmm-$(vm_pid a).hog" "/proc/$(blk_pid)/cgroup"
    [ "$(cat "$own/minivmm-$(vm_pid a).hog/memory.max")" = 33554432 ]
    kill -KILL "$(vm_pid a)"
    wait_for 10 no_limits_left
    wait_for 10 rmdir "$own"
    rm "$memory_image"
}

@test "limits that the host cannot keep: refused with the mend, and the start goes on only with insecure" {
    memory_cgroups
    mkdir /sys/fs/cgroup/shut
    sleep 300 3>&- & local other=$!
    echo $other > /sys/fs/cgroup/shut/cgroup.procs
    printf '#!/bin/sh\necho $$ > /sys/fs/cgroup/shut/cgroup.procs\nexec "%s" "$@"\n' "$MINIVMM" > "$D/shut"
    chmod 755 "$D/shut"
    vm_boot rig minivmm.agent > "$D/config"
    limited_disk "$LIMITS" >> "$D/config"
    MINIVMM=$D/shut vm_start a < "$D/config"
    run -1 vm_exit a
    grep -q 'limits: enable +memory +pids +cpu in /sys/fs/cgroup/shut: other processes are in it .*Delegate=yes' "$D/a/stderr"
    no_limits_left
    MINIVMM=$D/shut vm_start a --set vm.insecure=true < "$D/config"
    run -0 vm_guest a 'cat /sys/block/vda/size'
    grep -q 'WITHOUT their limits: limits: enable' "$D/a/stderr"
    vm_stop a
    kill "$other"
    wait "$other" || true
    rmdir /sys/fs/cgroup/shut
    rm "$memory_image"
}
