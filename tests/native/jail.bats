# Jails around real programs that do real work, and around one that tries what nobody in a jail may do.  The programs are the rig's, run in its
# tree as root (that is what pivot_root is for), so that their profiles find libraries where they belong.
load helpers

PROFILES='default fs minivmm qemu-storage-daemon passt vhost-device-vsock'

setup() {
    common
    NATIVES=${NATIVES:-$TOP/build/release/tests/native}
    cd "$BATS_TEST_DIRNAME" || return
}

teardown() {
    [ -z "$started" ] || kill -KILL "$started" 2> /dev/null || true
    [ ! -s "$D/pid" ] || kill -KILL "$(cat "$D/pid")" 2> /dev/null || true
}

# in_tree COMMAND...: the rig's tree is /, but for what tests need of this machine: /tmp, and the folder of this tree's programs.
in_tree() {
    local root=()
    [ -x "$RIG/root/usr/bin/passt" ] || skip "the rig's tree is not built (make rig)"
    [ -x "$RIG/peers/usr/bin/vhost-device-vsock" ] || skip "the rig has no peers (make rig)"
    [ "$(id -u)" = 0 ] || root=(--map-root-user)
    unshare "${root[@]}" --mount --propagation private bash -c '
        rig=$1 programs=$2 work=$3
        shift 3
        mount --bind "$rig/root" /mnt
        mount -t overlay -o "lowerdir=$rig/peers/usr:$rig/root/usr" none /mnt/usr
        mount -t tmpfs none /mnt/tmp
        mkdir -p "/mnt/tmp/programs" "/mnt$work" 2> /dev/null
        mount --bind "$programs" /mnt/tmp/programs
        mount --bind "$work" "/mnt$work"
        for d in dev proc; do mount --rbind "/$d" "/mnt/$d"; done
        cd /mnt
        pivot_root . mnt
        umount -l /mnt
        cd /tmp
        exec "$@"' in_tree "$RIG" "$NATIVES" "$D" "$@"
}

# listen PATH COMMAND...: {fd} in COMMAND is the number of a socket that listens at PATH.
listen() {
    python3 -c '
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
os.set_inheritable(s.fileno(), True)
os.execvp(sys.argv[2], [w.replace("{fd}", str(s.fileno())) for w in sys.argv[2:]])' "$@"
}

in_tree_listening() { # COMMAND...: at $D/sock
    export -f in_tree
    export RIG NATIVES D
    # shellcheck disable=SC2016
    listen "$D/sock" bash -c 'in_tree "$@"' in_tree "$@" > "$D/pid" 2> "$D/log" &
    started=$!
    listening
}

jailed=/tmp/programs/jailed

ends() { # how it ended, and what it said
    local status=0
    wait "$started" || status=$?
    started=
    cat "$D/log"
    [ "$status" = "$1" ] || { echo "status $status"; return 1; }
}

# try_all PREFIX...: every profile, everything forbidden.  passt has to be allowed what its own walls are made of, and the network is its work;
# our disks' work is done by rings, which they restrict themselves, and processes of theirs end with them.
try_all() {
    local profile attempt status failed=0
    python3 -c '
import socket
s = socket.socket(socket.AF_UNIX)
s.bind("\0minivmm-forbidden")
s.listen(99)
open("'"$D"'/abstract", "w")
while True: s.accept()' &
    started=$!
    disown
    until [ -e "$D/abstract" ]; do kill -0 "$started"; sleep 0.05; done
    "$NATIVES/forbidden" reach-abstract
    for profile in $PROFILES; do
        for attempt in $("$NATIVES/forbidden"); do
            status=0
            timeout 10 "$@" "$NATIVES/jailed" "$profile" "$NATIVES/forbidden" "$attempt" > /dev/null 2> "$D/said" || status=$?
            case $profile:$attempt:$status in
            passt:new-user-space:0 | passt:reach-network:0 | minivmm:make-uring:0 | minivmm:outlive:0) ;;
            *:1 | *:159) ;;
            *) echo "$profile: $attempt: status $status: $(cat "$D/said")"; failed=1 ;;
            esac
        done
    done
    return $failed
}

@test "no profile lets a program do what is forbidden" {
    try_all env
}

@test "the same on a kernel without Landlock: the other walls hold alone" {
    try_all "$NATIVES/without" landlock_create_ruleset
}

@test "the same for an ordinary user" {
    [ "$(id -u)" = 0 ] || skip "the test before was that"
    command -v setpriv > /dev/null || skip "no setpriv"
    mkdir "$D/programs"
    cp "$NATIVES"/{jailed,forbidden} "$D/programs/"
    chmod go+x "$BATS_RUN_TMPDIR" "$BATS_RUN_TMPDIR"/test "$BATS_TEST_TMPDIR" "$D"
    chmod -R go+rX "$D"
    NATIVES=$D/programs
    setpriv --reuid=1000 --regid=1000 --clear-groups test -x "$NATIVES/jailed" || skip "an ordinary user does not get to $D"
    try_all setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all --bounding-set=-all
}

@test "our own programs: all that their tables have is in their profile" {
    local program
    for program in blk nvme console rng switch vsock pci-example; do
        "$BIN/minivmm-$program" --print-syscalls
    done > "$D/tables"
    python3 - "$TOP/vmm/profiles/minivmm.toml" "$D/tables" << 'END'
import sys, tomllib
allowed, ioctls, limit, rows = set(), set(), 0, 0
with open(sys.argv[1], "rb") as f:
    profile = tomllib.load(f)
for row in profile["allow"]:
    if row["calls"] == ["ioctl"]:
        ioctls.add(int(row["when"].split(" == ")[1], 16))
    elif "refuse" not in row:
        allowed |= set(row["calls"])
for line in open(sys.argv[2]):
    call, when, *_ = line.rstrip("\n").split("\t")[-4:]  # behind the name of a process beside it
    rows += 1
    if call == "limit":
        limit = max(limit, int(line.split("\t")[2]))
    elif call == "ioctl":
        assert int(when.split(" == ")[1], 16) in ioctls, line
    else:
        assert call in allowed, line
assert rows > 200 and limit + 10 <= profile["limits"]["nofile"], (rows, limit)
END
}

@test "virtiofsd: files, 1,000 small ones, links, and no way out" {
    mkdir "$D/share"
    in_tree_listening $jailed --fd '{fd}' --path "$D/share:rw" fs \
        /usr/libexec/virtiofsd --fd=3 "--shared-dir=$D/share" --sandbox=none
    timeout 60 ./fs-front-end "$D/sock" "$D/share"
    ends 0
}

@test "virtiofsd: a folder that is shown read-only cannot be changed" {
    mkdir "$D/share"
    in_tree_listening $jailed --fd '{fd}' --path "$D/share" fs \
        /usr/libexec/virtiofsd --fd=3 "--shared-dir=$D/share" --sandbox=none
    run timeout 60 ./fs-front-end "$D/sock" "$D/share"
    echo "$output"
    [ "$status" != 0 ]
    [[ $output == *"operation 35: Read-only file system"* ]]
    [ -z "$(ls "$D/share")" ]
    ends 0
}

storage_daemon() { # BLOCKDEV-OPTIONS
    local o=driver=virtio-blk-vhost-user,path=$D/sock,cache.direct=on
    truncate -s 64M "$D/img"
    in_tree_listening $jailed --fd '{fd}' --path "$D/img:rw" qemu-storage-daemon qemu-storage-daemon \
        --blockdev "driver=file,node-name=d,filename=$D/img,discard=unmap$1" \
        --export type=vhost-user-blk,id=e,node-name=d,addr.type=fd,addr.str=3,writable=on,num-queues=2
    in_tree timeout 60 qemu-io --image-opts "$o" -c 'write -P 0x5a 0 1M' -c 'write -P 0x66 1M 3M' -c 'write -z 1M 512k' \
        -c 'write -z -u 2M 512k' -c 'discard 3M 512k' -c 'flush' -c 'read -P 0x5a 0 1M' -c 'read -P 0 1M 512k' \
        -c 'read -P 0x66 1536k 512k' > "$D/qemu-io" 2>&1 || { cat "$D/qemu-io" "$D/log"; return 1; }
    ! grep -qiE 'fail|error|verif' "$D/qemu-io" || { cat "$D/qemu-io"; return 1; }
    in_tree timeout 60 qemu-img bench -c 20000 -d 32 -s 4096 -t none --image-opts "$o"
    cmp <(head -c 1M /dev/zero | tr '\0' '\132') <(head -c 1M "$D/img")
    kill -TERM "$(cat "$D/pid")"
    ends 0
}

@test "qemu-storage-daemon: qemu-io and qemu-img on its disk" {
    storage_daemon ''
}

@test "qemu-storage-daemon: the same with aio=native" {
    truncate -s 4096 "$D/probe"
    dd if="$D/probe" of=/dev/null iflag=direct bs=4096 2> /dev/null || skip "no O_DIRECT in $D"
    storage_daemon ,cache.direct=on,aio=native
}

@test "qemu-storage-daemon: a qcow2 image, as the README has it" {
    local o=driver=virtio-blk-vhost-user,path=$D/sock,cache.direct=on
    in_tree qemu-img create -q -f qcow2 "$D/img" 64M
    in_tree_listening $jailed --fd '{fd}' --path "$D/img:rw" qemu-storage-daemon qemu-storage-daemon \
        --blockdev "qcow2,node-name=d,file.driver=file,file.filename=$D/img" \
        --export vhost-user-blk,id=e,node-name=d,writable=on,addr.type=fd,addr.str=3
    in_tree timeout 60 qemu-io --image-opts "$o" -c 'write -P 0x5a 0 1M' -c 'write -z 1M 512k' -c 'flush' \
        -c 'read -P 0x5a 0 1M' -c 'read -P 0 1M 2M' > "$D/qemu-io" 2>&1 || { cat "$D/qemu-io" "$D/log"; return 1; }
    ! grep -qiE 'fail|error|verif' "$D/qemu-io" || { cat "$D/qemu-io"; return 1; }
    kill -TERM "$(cat "$D/pid")"
    ends 0
    in_tree qemu-img check -q "$D/img"
    in_tree qemu-io -f qcow2 -c 'read -P 0x5a 0 1M' "$D/img"
}

@test "passt: an address by DHCP, 200 kB by TCP from the host" {
    export -f in_tree
    export RIG NATIVES D
    # shellcheck disable=SC2016
    run -0 timeout 60 ./passt-front-end bash -c 'in_tree "$@" 2> "$D/log"' in_tree \
        $jailed --fd '{fd}' passt passt --foreground --vhost-user '--fd=3'
    [[ $output == *"200000 bytes"* ]]
}

@test "vhost-device-vsock: a megabyte in each direction" {
    mkdir "$D/vsock"
    in_tree $jailed --path "$D/vsock:rw" vhost-device-vsock \
        vhost-device-vsock --guest-cid=3 "--socket=$D/vsock/s" "--uds-path=$D/vsock/u" > "$D/pid" 2> "$D/log" &
    started=$!
    for _ in $(seq 100); do
        [ ! -S "$D/vsock/s" ] || break # in a name space of its own, so not in /proc/net/unix; the front-end tries again
        sleep 0.05
    done
    timeout 60 ./vsock-peer-front-end "$D/vsock/s" "$D/vsock/u" || { cat "$D/log"; return 1; }
}

@test "learn: a profile from a run is good for the same run, and for no more" {
    mkdir "$D/share"
    # The program that is learned from is in a jail, too, so what it shares has to be named.
    local attempt virtiofsd=(/usr/libexec/virtiofsd --fd=3 "--shared-dir=$D/share" --sandbox=none)
    sed '/^\[\[allow\]\]/,$d; s/^about.*/about = "for learning"/' "$TOP/vmm/profiles/fs.toml" > "$D/like-fs.toml"
    in_tree_listening $jailed --learn "$D/learned.toml" --fd '{fd}' --path "$D/share:rw" fs "${virtiofsd[@]}"
    timeout 100 ./fs-front-end "$D/sock" "$D/share"
    ends 0
    for _ in $(seq 100); do
        [ ! -s "$D/learned.toml" ] || break
        sleep 0.05
    done
    cat "$D/learned.toml"
    grep -q '"openat2"' "$D/learned.toml"
    run -1 grep -q '"setxattr"\|"mount"' "$D/learned.toml"
    sed -i "s,like  = \"default\",like = \"$D/like-fs.toml\"," "$D/learned.toml"
    rm "$D/sock"
    in_tree_listening $jailed --fd '{fd}' --path "$D/share:rw" "$D/learned.toml" "${virtiofsd[@]}"
    timeout 60 ./fs-front-end "$D/sock" "$D/share"
    ends 0
    for attempt in become-other-user reach-machines; do
        run "$NATIVES/jailed" "$D/learned.toml" "$NATIVES/forbidden" "$attempt"
        [ "$status" = 159 ]
    done
    run "$NATIVES/jailed" "$D/learned.toml" "$NATIVES/forbidden" outlive
    [ "$status" = 1 ]
}

# ---- refusals --------------------------------------------------------------------------------------------------

@test "a host without user name spaces: refused with the mend, unless told to go on" {
    # shellcheck disable=SC2016
    local limit='echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    run unshare -Ur sh -c "$limit" sh "$NATIVES/jailed" default /bin/true
    [ "$status" = 125 ]
    [[ $output == *"make its name spaces: No space left on device (raise sysctl user.max_user_namespaces)"* ]]
    run unshare -Ur sh -c "$limit" sh "$NATIVES/jailed" --insecure default /bin/true
    [ "$status" = 0 ]
    [[ $output == *"WITHOUT isolation"* ]]
}

@test "what cannot be shown is said" {
    run "$NATIVES/jailed" --path /no/such default /bin/true
    [ "$status" = 125 ]
    [[ $output == *"show /no/such in its jail: No such file or directory"* ]]
    run "$NATIVES/jailed" --path / default /bin/true
    [[ $output == *"that would be the whole host; name what is needed in it"* ]]
    run "$NATIVES/jailed" default /no/such/program
    [[ $output == *"start /no/such/program: No such file or directory"* ]]
}

refuses_profile() { # TEXT SENTENCE
    printf '%s' "$1" > "$D/p.toml"
    run "$NATIVES/jailed" "$D/p.toml" /bin/true
    [ "$status" = 125 ]
    [[ $output == *"$2"* ]] || { echo "$output"; return 1; }
}

@test "a profile with a mistake is refused with its place" {
    refuses_profile 'abuot = "x"' 'p.toml:1:1: key "abuot" is not known (did you mean "about"?)'
    refuses_profile $'about = "x"\nnet = "host"' 'key "net" is missing'
    refuses_profile $'about = "x"\nlike = "dfault"' 'no profile is named "dfault" (did you mean "default"?)'
    refuses_profile $'about = "x"\n[[allow]]\nwhy = "x"\ncalls = ["opn"]' 'p.toml:4:10: "opn" is no system call that libseccomp knows'
    refuses_profile $'about = "x"\n[[allow]]\ncalls = ["open"]' 'p.toml:2:1: key "why" is missing'
    refuses_profile $'about = "x"\n[[allow]]\nwhy = "x"\nwhen = "arg9 == 1"\ncalls = ["open"]' 'when does not begin with arg0 to arg5'
    refuses_profile $'about = "x"\n[[keep]]\nwhy = "x"\ncapability = "SYS_MODULE"' '"SYS_MODULE" is none that a jail gives'
    refuses_profile $'about = "x"\n[[show]]\nwhy = "x"\npath = "tmp"' 'path does not begin with a slash'
    refuses_profile "about = \"x\"
like = \"$D/p.toml\"" 'goes round in a circle'
    refuses_profile 'about = ' 'p.toml:1:9: '
}
