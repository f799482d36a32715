# R02: each device program without memory, at its start and while it serves; short-of-memory has the scenario.  No root, no KVM.
load helpers

setup() {
    common
    gcc -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -shared -fPIC -o "$D/no_memory.so" "$TOP/tests/native/lib/no_memory.c"
}

without_memory() { # DEVICE ARG...
    [ -x "$BIN/minivmm-$1" ] || skip "minivmm-$1 is not built"
    ! ldd "$BIN/minivmm-$1" 2>&1 | grep -qE 'statically|not a dynamic' || skip "minivmm-$1 is static"
    timeout -k 5 100 "$TOP/tests/native/short-of-memory" "$BIN/minivmm-$1" "$D/no_memory.so" "$D" "${@:2}"
}

@test "R02: minivmm-blk without memory" {
    truncate -s 1M "$D/image"
    without_memory blk --image "$D/image"
}

@test "R02: minivmm-net without memory" {
    needs_tun
    needs_name_spaces
    [ -x "$BIN/minivmm-net" ] || skip "minivmm-net is not built"
    unshare -rn bash -c 'ip tuntap add tap0 mode tap && ip link set tap0 up && exec "$@"' - \
        timeout -k 5 100 "$TOP/tests/native/short-of-memory" "$BIN/minivmm-net" "$D/no_memory.so" "$D" --tap tap0
}

@test "R02: minivmm-rng without memory" {
    without_memory rng
}

@test "R02: minivmm-console without memory" {
    without_memory console --port con=pty
}

@test "R02: minivmm-vsock without memory" {
    without_memory vsock --cid 3 --socket "$D/vm.vsock"
}

@test "R02: minivmm-switch without memory" {
    without_memory switch
}
