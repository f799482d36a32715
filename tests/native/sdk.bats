# The device of docs/device.md, taken out of the page and built against what `make install` installs, and the same in Python: against a
# front-end of ours, qemu-img and qemu-io (libblkio), QEMU, and minivmm itself with a tiny guest.  No root; minivmm's part needs KVM.
load helpers

setup_file() {
    TOP=$(realpath "$BATS_TEST_DIRNAME/../..")
    SDK=$BATS_FILE_TMPDIR
    export TOP SDK PKG_CONFIG_PATH=$SDK/root/lib/pkgconfig
    # MINIVMM_O: the folder of another build than the tree's own.
    make -s -C "$TOP" ${MINIVMM_O:+O="$MINIVMM_O"} PREFIX="$SDK/root" install > "$SDK/install" 2>&1 || { cat "$SDK/install"; return 1; }
    awk '/^```c$/ { on = 1; next } /^```/ { on = 0 } on' "$TOP/docs/device.md" > "$SDK/romdisk.c"
    # shellcheck disable=SC2046  # a list
    gcc -O2 -Wall -Wextra -Wno-unused-parameter -Werror -o "$SDK/romdisk" "$SDK/romdisk.c" $(pkg-config --cflags --libs minivmm-device)
}

setup() {
    common
    O=driver=virtio-blk-vhost-user,path=$S,cache.direct=on,read-only=on
}

rom() { # PROGRAM
    serve "$@" --file "$D/img" --socket-path "$S"
}

# rig build makes it, from the page as it is.
rust() {
    ROMDISK_RS=$("$TOP/tests/rig/build-rust" -p) || skip "the page's Rust device is not built (make rig)"
}

kill_it() { # what the crates serve knows no SIGTERM
    kill -KILL "$started"
    wait "$started" || true
    started=
    rm -f "$S"
    cat "$D/log"
}

leave() {
    if [ "${ROMDISK_RS:-}" ]; then
        kill_it
    else
        finish
    fi
}

random_image() { head -c 8M /dev/urandom > "$D/img"; }

reads_back() { # by libblkio, a few at a time and many, and nothing is written
    needs_tree
    random_image
    cp "$D/img" "$D/before"
    rom "$@"
    peer qemu-img convert -O raw --image-opts "$O" "$D/back"
    cmp "$D/img" "$D/back"
    peer qemu-img bench -c 2000 -d 1 -s 4096 -t none --image-opts "$O"
    peer qemu-img bench -c 5000 -d 32 -s 65536 -t none --image-opts "$O"
    run peer qemu-io --image-opts "${O%,read-only=on}" -c 'write -P 1 0 4k'
    echo "$output"
    [[ $output != *"wrote 4096"* ]]
    run -0 peer qemu-io -r --image-opts "$O" -c 'read -v 0 16'
    [[ $output == *"$(od -An -tx1 -N16 "$D/img" | cut -c 2-)"* ]]
    leave
    cmp "$D/img" "$D/before"
}

boots() { # PROGRAM: QEMU as the front-end, a guest that runs from sector 0
    needs_tree
    # cli; ds = 0; print the text on COM1; end by isa-debug-exit.
    printf '\xfa\x31\xc0\x8e\xd8\xbe\x1a\x7c\xac\x84\xc0\x74\x06\xba\xf8\x03\xee\xeb\xf5\xba\x01\x05\xb0\x00\xee\xf4' > "$D/img"
    printf 'read from sector 0\n\0' >> "$D/img"
    truncate -s 1M "$D/img"
    printf '\x55\xaa' | dd of="$D/img" bs=1 seek=510 conv=notrunc status=none
    rom "$@"
    run peer qemu-system-x86_64 -L "$TREE/usr/share/seabios" -L "$TREE/usr/share/qemu" -M q35,accel=tcg,memory-backend=m \
        -object memory-backend-memfd,id=m,size=64M,share=on -chardev "socket,id=c,path=$S" \
        -device vhost-user-blk-pci,chardev=c,bootindex=0,num-queues=1 -display none -nodefaults -serial stdio \
        -device isa-debug-exit,iobase=0x501
    echo "$status: $output"
    [ "$status" = 1 ]
    [[ $output == *"read from sector 0"* ]]
    leave
}

# The guest of the data path's own test: its first disk is ours, its second the page's.
under_minivmm() { # socket|exec PROGRAM
    local how=$1 place
    shift
    needs_kvm
    make -s -C "$TOP" O="$SDK/guests" "$SDK/guests/tests/guest/io.elf"
    truncate -s 4M "$D/disk0.img"
    printf 'written by the harness' > "$D/img"
    truncate -s 4M "$D/img"
    case $how in
    socket) rom "$@"; place="socket = \"$S\"" ;;
    exec) place="exec = [\"$1\", \"--file\", \"$D/img\", \"--fd={fd}\"]"$'\n''sandbox = "none"' ;;
    esac
    cat > "$D/vm.toml" << END
[vm]
memory = "64M"
on_reboot = "exit"
[boot]
kernel = "$SDK/guests/tests/guest/io.elf"
cmdline = "cpus=1 memory=64"
[[device]]
id = "disk0"
virtio = "blk"
image = "disk0.img"
queues = 2
[[device]]
id = "disk1"
via = "vhost-user"
virtio = "blk"
$place
END
    run timeout 60 "$SDK/root/bin/minivmm" -c "$D/vm.toml"
    echo "$status: $output"
    [ "$status" = 0 ]
    [[ $output == *"PASS a read-only disk"*" passed, 0 failed, 0 skipped"* ]]
    [ "$how" = exec ] || leave
}

@test "what is installed: an archive without our devices, headers that stand alone, their names" {
    local h
    [ "$(wc -l < "$SDK/romdisk.c")" -lt 80 ]
    nm --defined-only "$SDK/root/lib/libminivmm-device.a" > "$D/names" 2> /dev/null
    grep -q ' T vdev_main$' "$D/names"
    run ! grep -qE ' [TDB] (vblk|vnet|vrng|blk_)' "$D/names"
    while read -r h; do
        echo "$h"
        echo "#include <minivmm/$h>" | gcc -std=gnu11 -Wall -Wextra -Werror -I"$SDK/root/include" -x c -fsyntax-only -
    done < <(cd "$SDK/root/include/minivmm" && find . -name '*.h' | cut -c 3-)
    run ! grep -rE '#include "' "$SDK/root/include"
    [ -x "$SDK/root/bin/minivmm" ]
    [ -x "$SDK/root/bin/minivmm-blk" ]
    [ "$(pkg-config --modversion minivmm-device)" = "$(cat "$TOP/VERSION")" ]
}

@test "C, as a driver sees it: reads, refusals, rings that break the rules (G22-G26)" {
    random_image
    rom "$SDK/romdisk"
    timeout 60 "$TOP/tests/native/sdk-front-end" "$S" "$D/img" hostile
    leave
}

@test "Python, as a driver sees it" {
    random_image
    rom "$TOP/docs/romdisk.py"
    timeout 60 "$TOP/tests/native/sdk-front-end" "$S" "$D/img"
    leave
    [ "$(wc -l < "$D/log")" = 1 ]
    grep -q 'front-end dropped: a request without header or status' "$D/log"
}

@test "Rust, as a driver sees it" {
    rust
    random_image
    rom "$ROMDISK_RS"
    timeout 60 "$TOP/tests/native/sdk-front-end" "$S" "$D/img" crates
    kill_it
}

@test "C: its command line and capabilities" {
    run -0 --separate-stderr "$SDK/romdisk" --print-capabilities
    python3 -c 'import json, sys; assert json.loads(sys.argv[1])["type"] == "block"' "$output"
    run -1 timeout 10 "$SDK/romdisk" --file "$D/nothing" --socket-path "$S"
    [[ $output == "romdisk: "*"No such file"* ]]
    run -2 timeout 10 "$SDK/romdisk" --socket-path "$S" --image x
    [ ! -e "$S" ]
}

@test "C: it needs each row of its system call table, and nothing else" {
    needs_strace
    random_image
    "$SDK/romdisk" --print-syscalls > "$D/table"
    strace -f -e raw=all -o "$D/strace" "$SDK/romdisk" --file "$D/img" --socket-path "$S" -v 2> "$D/log" 3>&- &
    local tracer=$!
    listening
    timeout 60 "$TOP/tests/native/sdk-front-end" "$S" "$D/img" hostile
    pkill -TERM -P "$tracer"
    wait "$tracer"
    "$TOP/tests/native/unused-rules" "$D/table" "$D/strace"
}

@test "C: qemu-img and qemu-io read it, and cannot write" { reads_back "$SDK/romdisk"; }

@test "Rust: qemu-img and qemu-io read it, and cannot write" {
    rust
    reads_back "$ROMDISK_RS"
}

@test "Python: qemu-img and qemu-io read it, and cannot write" { reads_back "$TOP/docs/romdisk.py"; }

@test "C: QEMU boots from it" { boots "$SDK/romdisk"; }

@test "Rust: QEMU boots from it" {
    rust
    boots "$ROMDISK_RS"
}

@test "Python: QEMU boots from it" { boots "$TOP/docs/romdisk.py"; }

@test "C: under minivmm, started by it" { under_minivmm exec "$SDK/romdisk"; }

@test "C: under minivmm, which connects" { under_minivmm socket "$SDK/romdisk"; }

@test "Rust: under minivmm, which connects" {
    rust
    under_minivmm socket "$ROMDISK_RS"
}

@test "Python: under minivmm, started by it" { under_minivmm exec "$TOP/docs/romdisk.py"; }

@test "Python: under minivmm, which connects" { under_minivmm socket "$TOP/docs/romdisk.py"; }
