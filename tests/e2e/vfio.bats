# Devices of the host by VFIO, behind an emulated IOMMU: an e1000e, an NVMe drive, an igb with a virtual function.
# rig: --iommu intel
# rig: -q -device
# rig: -q pcie-root-port,id=rp1,chassis=1,slot=1
# rig: -q -device
# rig: -q pcie-root-port,id=rp2,chassis=2,slot=2
# rig: -q -device
# rig: -q pcie-root-port,id=rp3,chassis=3,slot=3
# rig: -q -netdev
# rig: -q user,id=n1,guestfwd=tcp:10.0.2.100:5000-cmd:cat %G/rig-bzImage
# rig: -q -device
# rig: -q e1000e,bus=rp1,netdev=n1
# rig: -q -drive
# rig: -q file=%G/tools.img,if=none,id=d1,format=raw,snapshot=on
# rig: -q -device
# rig: -q nvme,serial=rig0,drive=d1,bus=rp2
# rig: -q -netdev
# rig: -q user,id=n2,guestfwd=tcp:10.0.2.100:5000-cmd:cat %G/rig-bzImage
# rig: -q -device
# rig: -q igb,bus=rp3,netdev=n2
load lib/helpers

PCI=/sys/bus/pci

# The address of the first device of that kind.
device_of() { # VENDOR DEVICE
    local d
    for d in $PCI/devices/*; do
        [ "$(cat "$d/vendor") $(cat "$d/device")" = "$1 $2" ] || continue
        echo "${d##*/}"
        return
    done
    return 1
}

need_device() { # VENDOR DEVICE
    [ -n "${IN_RIG:-}" ] || skip "devices of this host are its own"
    BDF=$(device_of "$1" "$2") || skip "this host has no device $1:$2"
    modprobe vfio-pci
    vfio_bind "$BDF"
}

vfio_bind() { # BDF
    echo vfio-pci > "$PCI/devices/$1/driver_override"
    [ ! -e "$PCI/devices/$1/driver" ] || echo "$1" > "$PCI/devices/$1/driver/unbind"
    echo "$1" > "$PCI/drivers_probe"
}

vfio_device() { # ID BDF
    printf '[[device]]\nid = "%s"\nvia = "vfio"\nhost = "%s"\n' "$1" "$2"
}

# A network card of the outer QEMU's: ping, and a file with its checksum.
guest_net() { # VM INTERFACE
    run -0 vm_guest "$1" "for i in \$(seq 100); do [ ! -e /sys/class/net/$2 ] || break; sleep 0.1; done
        ip addr add 10.0.2.15/24 dev $2 && ip link set $2 up
        for i in \$(seq 100); do [ \"\$(cat /sys/class/net/$2/carrier 2> /dev/null)\" != 1 ] || break; sleep 0.1; done
        ping -c 3 -W 5 10.0.2.2"
    run -0 vm_guest "$1" -t 120 'nc 10.0.2.100 5000 < /dev/null | sha256sum'
    [ "$output" = "$(sha256sum < "$GUEST/rig-bzImage")" ] || fail "$output"
}

@test "e1000e: MSI-X, ping, a file with its checksum" {
    need_device 0x8086 0x10d3
    {
        vm_boot rig minivmm.agent
        vfio_device nic0 "$BDF"
    } | vm_start a -v
    vm_line a '^MINIVMM-AGENT'
    cat "$D/a/stderr" >&2
    run -0 vm_guest a 'cat /sys/bus/pci/devices/*/vendor; cat /proc/interrupts; dmesg | grep -i e1000 || true'
    echo "$output" >&2
    guest_net a eth0
    run -0 vm_guest a 'grep eth0 /proc/interrupts'
    [[ $output == *MSI* ]] || fail "$output"
    vm_stop a
}
