# A guest that moves while its disk is read: two QEMUs, each with a minivmm-blk of its own, and a boot sector that checks what it
# has read.  The log of dirty pages is what makes it right.  No root, no KVM.
load helpers

setup() {
    common minivmm-blk
    needs_tree
}

@test "QEMU moves a running guest (LOG_SHMFD): every page that minivmm-blk wrote arrives" {
    as -o "$D/guest.o" "$TOP/tests/native/moving-guest.S"
    ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o "$D/guest" "$D/guest.o"
    python3 -c 'import sys
open(sys.argv[2], "wb").write(open(sys.argv[1], "rb").read() + b"".join(bytes([k + k // 512 & 255]) * 512 for k in range(16384)))
' "$D/guest" "$D/img"
    timeout 100 "$TOP/tests/native/blk-move" "$D" "$BIN/minivmm-blk" \
        "$TREE/lib64/ld-linux-x86-64.so.2" --argv0 qemu-system-x86_64 \
        --library-path "$TREE/usr/lib/x86_64-linux-gnu:$TREE/usr/lib/x86_64-linux-gnu/pulseaudio" "$TREE/usr/bin/qemu-system-x86_64" \
        -L "$TREE/usr/share/seabios" -L "$TREE/usr/share/qemu" -M q35,accel=tcg,memory-backend=m \
        -object memory-backend-memfd,id=m,size=64M,share=on -display none -nodefaults
}
