# What the files here share: `load helpers` at their top, `common PROGRAM...` in setup().
#
# TOP: this tree; NATIVE: this folder; BIN: the programs; CACHE, RIG, TREE: what `make rig` has made; D: a folder of the test's own; S: a
# socket in it.  started: a process in the background, or empty; it does not outlive its test.
bats_require_minimum_version 1.5.0

common() { # PROGRAM...: what has to be built
    local program
    TOP=$(realpath "$BATS_TEST_DIRNAME/../..")
    NATIVE=$BATS_TEST_DIRNAME
    BIN=${MINIVMM_BIN:-$TOP}
    CACHE=${MINIVMM_CACHE:-$HOME/.cache/minivmm}
    RIG=$CACHE/rig
    TREE=$RIG/root
    D=$(mktemp -d "$BATS_TEST_TMPDIR/XXXXXX")
    S=$D/sock
    started=
    export QEMU_MODULE_DIR=$TREE/usr/lib/x86_64-linux-gnu/qemu
    for program in "$@"; do [ -x "$BIN/$program" ] || skip "$program is not built"; done
}

teardown() {
    [ -z "$started" ] || kill -KILL "$started" 2> /dev/null || true
}

needs_tree() { [ -x "$TREE/usr/bin/qemu-system-x86_64" ] || skip "the rig's tree is not built (make rig)"; }
needs_kvm() { [ -w /dev/kvm ] || skip "no access to /dev/kvm"; }
needs_tun() { [ -w /dev/net/tun ] || skip "no access to /dev/net/tun"; }
needs_name_spaces() { unshare -rn true 2> /dev/null || skip "no name spaces on this host"; }

needs_strace() {
    command -v strace > /dev/null || skip "strace is not installed"
    strace -o /dev/null true 2> /dev/null || skip "strace may not trace here"
}

peer() { # PROGRAM ARG...: of the rig's tree
    timeout 60 "$TREE/lib64/ld-linux-x86-64.so.2" --argv0 "$1" --library-path \
        "$TREE/usr/lib/x86_64-linux-gnu:$TREE/usr/lib/x86_64-linux-gnu/pulseaudio" "$TREE/usr/bin/$1" "${@:2}"
}

# Until somebody listens at SOCKET, as long as what was started lives.  Its file alone may be what an earlier one left, or bound only.
listening() { # [SOCKET]
    for _ in $(seq 200); do
        ! grep -q " 00010000 .* ${1:-$S}\$" /proc/net/unix || return 0
        [ -z "$started" ] || kill -0 "$started" 2> /dev/null || break
        sleep 0.05
    done
    cat "$D/log" 2> /dev/null
    return 1
}

background() { # COMMAND...: what it says is in $D/log
    "$@" > "$D/log" 2>&1 3>&- &
    started=$!
}

serve() { # COMMAND...: in the background, until it listens at $S
    background "$@"
    listening
}

finish() { # SIGTERM: status 0, no socket left
    local status=0
    kill -TERM "$started"
    wait "$started" || status=$?
    started=
    cat "$D/log"
    [ "$status" = 0 ] && [ ! -e "$S" ]
}

# ./kernel: one that only halts, or does what is said, as a tiny ELF file.
tiny_kernel() { # [INSTRUCTIONS]
    cat > guest.S << END
        .section .note, "a", @note
        .align 4
        .long 4, 4, 18          # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .long _start
        .text
        .code32
        .globl _start
_start: ${1:-cli; hlt; jmp _start}
END
    gcc -m32 -c -o guest.o guest.S
    ld -m elf_i386 -N --no-warn-rwx-segments -Ttext 0x200000 --section-start=.note=0x201000 -o guest32 guest.o
    objcopy -O elf64-x86-64 guest32 kernel
}
