# What the real minivmm refuses at the command line: one clear line that names the object and the mend, the documented
# exit status, nothing left behind.  Rows C04 to C07, B01, K01, R01; P04 at the end.
load helpers

setup() {
    common minivmm
    cd "$D"
    truncate -s 1M disk.raw
    mkfifo fifo
    mkdir folder
    echo text > text
    AS=() # what runs it
    NAME=refusal-$$-$RANDOM
}

needs_kernel() {
    needs_kvm
    local kernel
    for kernel in "$TREE"/boot/vmlinuz-*; do :; done
    [ -e "$kernel" ] || skip "no Debian kernel here (make rig)"
    ln -s "$kernel" vmlinuz
}

machine() { # [DEVICE LINE...]: vm.toml
    printf '[vm]\nmemory = "64M"\n[boot]\nkernel = "kernel"\n[serial]\nto = "none"\n' > vm.toml
    local line
    for line in "$@"; do
        case $line in
        blk\ * | fs\ *) printf '[[device]]\nid = "%s"\nvirtio = "%s"\n' "${line#* }" "${line%% *}" ;;
        *) echo "$line" ;;
        esac
    done >> vm.toml
}

# One line, that status, the words in it, no process that was born of this folder, no socket.
refused() { # STATUS WORDS ARG...
    local want=$1 words=$2
    shift 2
    [ -e kernel ] || [ -L kernel ] || echo none > kernel
    run timeout 20 "${AS[@]}" "$BIN/minivmm" -c vm.toml --set "vm.name=$NAME" "$@" < /dev/null
    echo "status $status: $output"
    [ "$status" = "$want" ]
    [ "${#lines[@]}" = 1 ]
    [[ $output == *"$words"* ]]
    ! pgrep -f "vm.name=$NAME" || false
    [ -z "$(find . -name '*.sock')" ]
}

@test "--help of every program is one screen, and names the options that all have" {
    local program
    for program in minivmm minivmm-{blk,console,net,net-control,nvme,pci-example,rng,switch,vsock}; do
        run -0 "$BIN/$program" --help
        echo "$output"
        [ "$(wc -l <<< "$output")" -le 24 ]
        [ "$(grep -cE '.{91}' <<< "$output")" = 0 ]
        [ "$program" = minivmm ] || [ "$(grep -cE '.{81}' <<< "$output")" = 0 ]
        grep -qF -- --version <<< "$output"
    done
    run -0 "$BIN/minivmm" doctor --help
}

@test "C05: images" {
    machine 'blk disk0' 'image = "nothing.raw"'
    refused 1 'minivmm: disk0: open nothing.raw: No such file or directory'
    refused 1 'minivmm: disk0: open folder: Is a directory' --set device.disk0.image=folder
    refused 1 'minivmm: disk0: open folder: it is a directory' --set device.disk0.image=folder --set device.disk0.readonly=true
    refused 1 'minivmm: disk0: open fifo: it is a FIFO; an image is a file or a block device' --set device.disk0.image=fifo
    refused 1 'minivmm: disk0: open /dev/null: it is a character device' --set device.disk0.image=/dev/null
    refused 2 'image is empty, expected a path' --set device.disk0.image=
    refused 1 'minivmm: disk0: fd:17: Bad file descriptor' --set device.disk0.image=fd:17
    refused 1 'minivmm: disk0: fd:boot: no such name in LISTEN_FDNAMES' --set device.disk0.image=fd:boot
}

@test "C05: images that only their device program can judge" {
    needs_kvm
    tiny_kernel
    truncate -s 1000 odd.raw
    : > empty.raw
    machine 'blk disk0' 'image = "odd.raw"'
    refused 1 "minivmm: disk0: minivmm-blk: image $(realpath odd.raw): its size, 1000 bytes, is not a multiple of 512"
    refused 1 'its size, 0 bytes' --set device.disk0.image=empty.raw
    truncate -s 1536 odd.raw
    refused 1 'is not a multiple of 4096' --set device.disk0.block_size=4096
    # the same image twice, or somebody else's
    machine 'blk disk0' 'image = "disk.raw"' 'blk disk1' 'image = "./disk.raw"'
    refused 1 "minivmm: disk1: minivmm-blk: image $(realpath disk.raw) is in use by another process"
    refused 1 "is in use by another process" --set device.disk1.readonly=true
    machine 'blk disk0' 'image = "disk.raw"'
    "$BIN/minivmm-blk" --image disk.raw --socket-path other 2> /dev/null 3>&- &
    started=$!
    listening other
    refused 1 "minivmm: disk0: minivmm-blk: image $(realpath disk.raw) is in use by another process"
}

@test "C05: an image that may not be written" {
    chmod 444 disk.raw
    [ "$(id -u)" != 0 ] || as_nobody
    machine 'blk disk0' 'image = "disk.raw"'
    refused 1 'minivmm: disk0: open disk.raw: Permission denied'
}

as_nobody() { # in a folder that everybody may read
    command -v setpriv > /dev/null || skip "no setpriv"
    local open
    open=$(mktemp -d)
    chmod 755 "$open"
    cp -a disk.raw "$open"
    cp vm.toml "$open" 2> /dev/null || true
    cd "$open"
    AS=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    "${AS[@]}" test -x "$BIN/minivmm" -a -r "$open" || skip "another user does not get at $BIN or $open"
}

@test "C06: kernels" {
    machine
    refused 1 'minivmm: boot.kernel: open nothing: No such file or directory' --set boot.kernel=nothing
    needs_kvm
    refused 1 'minivmm: kernel folder: not a regular file' --set boot.kernel=folder
    refused 1 'minivmm: kernel fifo: not a regular file' --set boot.kernel=fifo
    refused 1 'minivmm: kernel /dev/null: not a regular file' --set boot.kernel=/dev/null
    refused 1 'minivmm: kernel text: neither a bzImage nor an ELF file' --set boot.kernel=text
    : > empty
    refused 1 'minivmm: kernel empty: the file is empty' --set boot.kernel=empty
    tiny_kernel
    head -c 100 kernel > cut
    refused 1 'minivmm: kernel cut: ' --set boot.kernel=cut
    cp guest32 elf32
    refused 1 'minivmm: kernel elf32: ' --set boot.kernel=elf32
    refused 1 'minivmm: boot.initrd: open nothing: No such file or directory' --set boot.initrd=nothing
    refused 1 'minivmm: initrd folder: not a regular file' --set boot.initrd=folder
    refused 1 'minivmm: initrd fifo: not a regular file' --set boot.initrd=fifo
    truncate -s 4G huge
    refused 1 'minivmm: initrd huge: ' --set boot.initrd=huge
    truncate -s 64M exact
    refused 1 'minivmm: initrd exact: ' --set boot.initrd=exact
}

@test "C06: Debian's kernel, damaged or without room" {
    needs_kernel
    machine
    head -c 500000 vmlinuz > cut
    refused 1 'minivmm: kernel cut: the file is cut short: its header promises' --set boot.kernel=cut
    cp -L vmlinuz bad
    chmod +w bad
    printf 'XXXX' | dd of=bad bs=1 seek=$((0x202)) conv=notrunc status=none
    refused 1 'minivmm: kernel bad: ' --set boot.kernel=bad
    printf 'HdrS\1\2' | dd of=bad bs=1 seek=$((0x202)) conv=notrunc status=none
    refused 1 'minivmm: kernel bad: ' --set boot.kernel=bad
    refused 1 'but RAM ends at 0x4000000 (vm.memory)' --set boot.kernel=vmlinuz
    truncate -s 200M initrd
    refused 1 'minivmm: initrd initrd: ' --set boot.kernel=vmlinuz --set boot.initrd=initrd --set vm.memory=256M
}

@test "C04: memory and processors" {
    machine
    refused 2 'memory = 0 is not in the range' --set vm.memory=0
    refused 2 'memory = -1 is' --set vm.memory=-1
    refused 2 'memory is not a multiple of' --set vm.memory=5000001
    refused 2 'memory = "1000000T" is not in the range' --set vm.memory=1000000T
    refused 2 'cpus = 0 is not in the range' --set vm.cpus=0
    refused 2 'cpus = 5000 is not in the range' --set vm.cpus=5000
    needs_kvm
    tiny_kernel
    refused 1 'minivmm: kernel kernel: no kernel runs in 1024 KiB' --set vm.memory=1M
    refused 1 'minivmm: vm.memory: KVM takes no ' --set vm.memory=64T
    [ "$(cat /proc/sys/vm/nr_hugepages)" = 0 ] || return 0
    refused 1 '/proc/sys/vm/nr_hugepages' --set vm.backing=hugetlb-2M
}

@test "C07: slots" {
    machine 'blk disk0' 'slot = 3' 'image = "disk.raw"' 'blk disk1' 'slot = 3' 'image = "other.raw"'
    refused 2 '[device] "disk1": slot 3 is taken by the device in line 7'
    refused 2 'slot = 0 is not in the range from 1 to 31' --set device.disk1.slot=0
    refused 2 'slot = 32 is not in the range from 1 to 31' --set device.disk1.slot=32
    local i many=()
    for i in $(seq 32); do many+=("blk d$i" "image = \"$i.raw\""); done
    machine "${many[@]}"
    run timeout 20 "$BIN/minivmm" -c vm.toml
    echo "$output"
    [ "$status" = 2 ]
    [[ ${lines[0]} == *device* ]]
}

@test "B01: back-ends that are not there" {
    machine 'fs fs0' 'via = "vhost-user"' 'socket = "nothing"'
    refused 1 'minivmm: fs0: connect to nothing: No such file or directory (has the program that listens there been started?)'
    refused 1 'minivmm: fs0: connect to text: Connection refused (it is not a socket)' --set device.fs0.socket=text
    refused 1 'minivmm: fs0: connect to folder: Connection refused (it is not a socket)' --set device.fs0.socket=folder
    local long
    long=$(printf 'x%.0s' $(seq 120))
    refused 1 "a socket's path has at most 107 bytes" --set "device.fs0.socket=$long"
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("dead")'
    refused 1 'minivmm: fs0: connect to dead: Connection refused (nobody listens there any more)' --set device.fs0.socket=dead
    refused 1 'minivmm: fs0: fd:0: not a Unix stream socket' --set device.fs0.socket=fd:0 || # bats's standard input may be anything
        [[ $output == 'minivmm: fs0: fd:0: '* ]]
}

@test "P07: programs that do not start" {
    machine 'fs fs0' 'via = "vhost-user"' 'sandbox = "none"' 'exec = ["nothing-here", "{fd}"]'
    refused 1 'minivmm: fs0: start nothing-here: no such program beside minivmm or in PATH'
    sed -i 's/nothing-here/.\/text/' vm.toml
    refused 1 'minivmm: fs0: start ./text: execute it: Permission denied'
    sed -i 's/.\/text/.\/gone/' vm.toml
    refused 1 'minivmm: fs0: start ./gone: execute it: No such file or directory'
    needs_kvm
    tiny_kernel
    sed -i 's/.\/gone/true/' vm.toml
    refused 1 'minivmm: fs0: handshake with true: the back-end closed its connection'
    sed -i 's/exec = .*/exec = ["sh", "-c", "echo no such share >\&2; exit 3", "{fd}"]/' vm.toml
    refused 1 'no such share'
}

@test "K01: /dev/kvm is missing, forbidden, or something else" {
    unshare -rm true 2> /dev/null || skip "no mount name spaces here"
    machine
    AS=(unshare -rm sh -c 'mount -t tmpfs none /dev && touch /dev/null && eval "$0" && exec "$@"')
    refused_there() { # PREPARATION WORDS
        local as=("${AS[@]}")
        AS+=("$1")
        refused 1 "$2"
        AS=("${as[@]}")
    }
    refused_there : 'minivmm: open /dev/kvm: No such file or directory (load kvm_intel or kvm_amd'
    refused_there 'touch /dev/kvm' 'minivmm: /dev/kvm: it is not KVM: Inappropriate ioctl for device'
    [ "$(id -u)" = 0 ] || return 0
    [ -c /dev/kvm ] || skip "no /dev/kvm"
    as_nobody
    "${AS[@]}" test ! -w /dev/kvm || skip "everybody may use /dev/kvm here"
    refused 1 'minivmm: open /dev/kvm: Permission denied (add yourself to the group that owns it'
}

@test "R01: too few descriptors, at each number" {
    needs_kvm
    tiny_kernel
    machine 'blk disk0' 'image = "disk.raw"'
    local n
    for n in $(seq 8 2 48); do
        AS=(bash -c 'ulimit -n "$0"; exec "$@"' "$n")
        refused 1 '(raise ulimit -n)'
    done
    # a machine without devices needs few: refused or running, never half of it
    machine 'blk disk0' 'image = "disk.raw"'
    sed -i '/device/,$d; s/"none"/"unix:serial.sock"/' vm.toml
    for n in $(seq 8 40); do
        run timeout -s INT 3 bash -c 'ulimit -n "$0"; exec "$@"' "$n" "$BIN/minivmm" -c vm.toml
        [ ! -e serial.sock ]
        [ "$status" != 1 ] || [[ ${#lines[@]} = 1 && $output == *'(raise ulimit -n)'* ]] || { echo "$n: $output"; return 1; }
        [ "$status" = 1 ] || break
    done
    [ "$status" = 124 ] # it ran, and SIGINT ended it
    [ "$n" -gt 10 ]
}

@test "the serial port's place" {
    needs_kvm
    tiny_kernel
    machine
    refused 1 'minivmm: serial: listen on text: something is there already' --set serial.to=unix:text
    refused 1 'minivmm: serial: listen on /nonexistent/s: No such file or directory' --set serial.to=unix:/nonexistent/s
    refused 1 'minivmm: serial: open /nonexistent/s: No such file or directory' --set serial.to=file:/nonexistent/s
    refused 1 'minivmm: serial: open folder: Is a directory' --set serial.to=file:folder
}

serial_machine() { # in the background, until it listens
    "$BIN/minivmm" -c vm.toml --set serial.to=unix:serial.sock 3>&- &
    started=$!
    listening .*serial.sock
}

alive() { # a zombie is only waiting for init
    grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"
}

gone() { # within 2 s
    for _ in $(seq 40); do
        [ -e serial.sock ] || return 0
        sleep 0.05
    done
    return 1
}

@test "P04: the serial port's socket goes with its machine, whatever way" {
    needs_kvm
    tiny_kernel
    machine 'blk disk0' 'image = "disk.raw"'
    serial_machine
    sleep 0.3
    kill -INT "$started"
    wait "$started"
    [ ! -e serial.sock ] # orderly: at once
    serial_machine
    sleep 0.3
    local child
    child=$(pgrep -P "$started" -x minivmm-blk)
    kill -KILL "$started"
    wait "$started" || true
    gone
    for _ in $(seq 40); do alive "$child" || break; sleep 0.05; done
    ! alive "$child" || false
    serial_machine
    sleep 0.3
    rm serial.sock
    echo text > serial.sock
    kill -INT "$started"
    wait "$started"
    [ "$(cat serial.sock)" = text ]
    started=
}

@test "an image in a format of other monitors' is served as it is, with a warning" {
    printf 'QFI\373' | dd of=disk.raw conv=notrunc status=none
    run -1 "$BIN/minivmm-blk" --image disk.raw --fd 99
    grep -qF 'image disk.raw begins as a qcow2 file does' <<< "$output"
    printf 'boot' | dd of=disk.raw conv=notrunc status=none
    run -1 "$BIN/minivmm-blk" --image disk.raw --fd 99
    [ "$(grep -c begins <<< "$output")" = 0 ]
}
