# DPDK's virtio-user port as the front-end of minivmm-net, with a real tap behind it and no virtual machine.
load helpers

setup() {
    common
    LIBRARIES=$RIG/peers/usr/lib/x86_64-linux-gnu
    [ -x "$RIG/peers/usr/bin/dpdk-testpmd" ] || skip "the rig's peers are not there (make rig)"
    needs_tun
    command -v ip > /dev/null || skip "iproute2 is not installed"
    needs_name_spaces
    export TOP D RIG LIBRARIES
}

in_own_network() { # COMMAND...: with tap0, and minivmm-net behind it
    local status=0
    # shellcheck disable=SC2016
    XDG_RUNTIME_DIR=$D unshare -rn bash -c '
        ip tuntap add tap0 mode tap vnet_hdr $3 && echo 1 > /proc/sys/net/ipv6/conf/tap0/disable_ipv6 &&
            ip link set tap0 up || exit
        "$1/minivmm-net" --tap tap0 --socket-path "$2/sock" $4 2> "$2/log" 3>&- &
        net=$!
        shift 4
        "$@"
        status=$?
        kill $net
        wait $net && exit $status' bash "$BIN" "$D" "${TAP:-}" "${NET:-}" "$@" || status=$?
    cat "$D/log"
    [ "$status" = 0 ]
}

virtio_user() { # BITS KEY=VALUE...
    local bits=$1 pmds=("$LIBRARIES"/dpdk/pmds-*) d
    for _ in $(seq 100); do
        [ ! -S "$D/sock" ] || break
        sleep 0.05
    done
    shift
    set -- "path=$D/sock" "$@"
    local IFS=,
    local vdev="net_virtio_user0,$*"
    IFS=' '
    set --
    for d in bus_vdev mempool_ring net_virtio; do set -- "$@" -d "${pmds[0]}/librte_$d.so"; done
    timeout 100 "$TOP/tests/native/dpdk-front-end" "$bits" stdbuf -o0 "$RIG/root/lib64/ld-linux-x86-64.so.2" --argv0 dpdk-testpmd \
        --library-path "$LIBRARIES:$RIG/root/usr/lib/x86_64-linux-gnu" "$RIG/peers/usr/bin/dpdk-testpmd" \
        --no-huge -m 128 --no-pci --no-shconf --no-telemetry --log-level=pmd.net.virtio.init:debug -l 0,1 "$@" --vdev "$vdev" -- \
        -i --total-num-mbufs=4096 --forward-mode=icmpecho
}
export -f virtio_user

@test "virtio-user, split ring: echoes of all sizes, then packets at its own speed; none is lost" {
    in_own_network bash -c 'virtio_user 32 packed_vq=0'
}

@test "virtio-user, packed ring: the same" {
    in_own_network bash -c 'virtio_user 32,34 packed_vq=1'
}

@test "virtio-user without merged buffers, with buffers in order" {
    in_own_network bash -c 'virtio_user 32 mrg_rxbuf=0 in_order=1'
}
