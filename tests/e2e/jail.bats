# Walls: what the monitor and a device process may do, seen from outside, for root and for a plain user.
# weight: 40
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
        [ ! -e "/proc/$p/root/etc" ] && [ ! -e "/proc/$p/root/root" ]
    done
    vm_stop a
}
