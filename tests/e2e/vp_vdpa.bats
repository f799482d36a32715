# A vDPA device in hardware: a virtio PCI function of L1's behind an IOMMU, by vp_vdpa.
# weight: 60
# rig: --l1 rig
# rig: --iommu intel
# rig: -q -device
# rig: -q pcie-root-port,id=rp1,chassis=1,slot=1
# rig: -q -drive
# rig: -q file=%G/tools.img,if=none,id=d1,format=raw,snapshot=on
# rig: -q -device
# rig: -q virtio-blk-pci,bus=rp1,drive=d1,disable-legacy=on,iommu_platform=on,page-per-vq=on
load lib/helpers

PCI=/sys/bus/pci

teardown() {
    local d
    for d in $(vm_names); do vm_ended "$d" || kill -KILL "$(vm_pid "$d")" || true; done
    [ ! -e /sys/bus/vdpa/devices/vp0 ] || vdpa dev del vp0 || true
    e2e_teardown
}

# The function behind the port is the only one that is no part of L1 itself.
need_function() {
    local d
    [ -n "${IN_RIG:-}" ] || skip "devices of this host are its own"
    need vdpa capsh
    for d in $PCI/devices/*:01:00.0; do
        [ "$(cat "$d/vendor" 2> /dev/null)" = 0x1af4 ] || continue
        BDF=${d##*/}
        echo vp-vdpa > "$d/driver_override"
        [ ! -e "$d/driver" ] || echo "$BDF" > "$d/driver/unbind"
        echo "$BDF" > $PCI/drivers_probe
        vdpa dev add name vp0 mgmtdev "pci/$BDF"
        wait_for 10 compgen -G '/sys/bus/vdpa/devices/vp0/vhost-vdpa-*' > /dev/null
        NODE=/dev/$(basename /sys/bus/vdpa/devices/vp0/vhost-vdpa-*)
        return
    done
    fail "L1 has no virtio function to give away (the rig makes one: # rig: lines above)"
}

@test "vp_vdpa: data, doorbell pages of the function's own, driver unbound and bound; too little RLIMIT_MEMLOCK, then its removal" {
    local sum
    need_function
    {
        MEMORY=128M vm_boot rig minivmm.agent
        printf '[[device]]\nid = "d"\nvia = "vhost-vdpa"\npath = "%s"\n' "$NODE"
    } | vm_start a
    run -0 vm_guest a 'dd if=/dev/vda bs=1M count=8 iflag=direct 2> /dev/null | sha256sum'
    [ "$output" = "$(head -c 8388608 "$GUEST/tools.img" | sha256sum)" ] || fail "$output"
    # write-only, and shown to the guest without complaint
    grep -q -- "-w-s .* $NODE" "/proc/$(vm_pid a)/maps" || fail "$(cat "/proc/$(vm_pid a)/maps")"
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    run -0 vm_guest a 'head -c 4194304 /dev/urandom > /run/data; sha256sum < /run/data; dd if=/run/data of=/dev/vda bs=64k oflag=direct 2> /dev/null
        cd /sys/bus/virtio/drivers/virtio_blk; d=$(ls -d virtio*); for i in 1 2; do echo $d > unbind; echo $d > bind; done
        dd if=/dev/vda bs=64k count=64 iflag=direct 2> /dev/null | sha256sum'
    [ "${lines[0]}" = "${lines[1]}" ] || fail "$output"

    # the doorbell pages do not hold it
    run -0 vm_guest a 'dd if=/dev/vda of=/dev/null bs=64k iflag=direct > /dev/null 2>&1 < /dev/null & echo'
    timeout 20 vdpa dev del vp0
    grep -q 'd: vhost-vdpa back-end: the device was removed from the host' "$D/a/stderr"
    run -0 vm_guest a 'echo alive'
    kill -INT "$(vm_pid a)"
    vm_exit a

    vdpa dev add name vp0 mgmtdev "pci/$BDF"
    wait_for 10 compgen -G '/sys/bus/vdpa/devices/vp0/vhost-vdpa-*' > /dev/null
    run -1 capsh --drop=cap_sys_resource -- -c "ulimit -l 8192; exec timeout 30 $MINIVMM -c $D/a/vm.toml"
    [[ $output = *"it locks the 128M of the guest in memory, and RLIMIT_MEMLOCK does not allow it (ulimit -l 132096"* ]] || fail "$output"
}
