# Devices of the host by their own nodes and IOMMUFD, on the rig's own kernel (Debian's has none).
# weight: 60
# rig: --l1 rig
# rig: --iommu intel
# rig: -q -device
# rig: -q pcie-root-port,id=rp1,chassis=1,slot=1
# rig: -q -device
# rig: -q pcie-root-port,id=rp2,chassis=2,slot=2
# rig: -q -netdev
# rig: -q user,id=n1,guestfwd=tcp:10.0.2.100:5000-cmd:cat %G/rig-bzImage
# rig: -q -device
# rig: -q e1000e,bus=rp1,netdev=n1
# rig: -q -drive
# rig: -q file=%G/rig-bzImage,if=none,id=d1,format=raw,snapshot=on
# rig: -q -device
# rig: -q nvme,serial=rig0,drive=d1,bus=rp2
load lib/helpers
load lib/vfio

cdev_device() { # ID BDF
    printf '[[device]]\nid = "%s"\nvia = "vfio"\ncdev = "/dev/vfio/devices/%s"\n' "$1" "$(ls "$PCI/devices/$2/vfio-dev")"
}

@test "a network card and an NVMe drive by node, in one address space of IOMMUFD; a reboot; taken back" {
    need_device $NIC
    NIC_BDF=$BDF
    need_device $DRIVE
    [ -c /dev/iommu ] || skip "this kernel has no IOMMUFD"
    {
        vm_boot rig minivmm.agent
        cdev_device nic0 "$NIC_BDF"
        cdev_device drive "$BDF"
    } | vm_start a
    guest_net a eth0
    [ "$(find "/proc/$(vm_pid a)/fd" -lname /dev/iommu | wc -l)" = 1 ]
    [ "$(find "/proc/$(vm_pid a)/fd" -lname '/dev/vfio/devices/*' | wc -l)" = 2 ]
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    guest_ping a eth0
    run -0 vm_guest a -t 120 'for i in $(seq 100); do [ ! -b /dev/nvme0n1 ] || break; sleep 0.1; done
        dd if=/dev/nvme0n1 bs=1M count=4 iflag=direct 2> /dev/null | sha256sum'
    [ "$output" = "$(head -c 4194304 "$GUEST/rig-bzImage" | sha256sum)" ] || fail "$output"
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    timeout 20 sh -c "echo $NIC_BDF > $PCI/devices/$NIC_BDF/driver/unbind"
    run -0 vm_guest a 'ls /sys/bus/pci/devices; dd if=/dev/nvme0n1 bs=1M count=4 iflag=direct 2> /dev/null | wc -c'
    [[ $output != *0000:00:01.0* && $output == *0000:00:02.0*4194304 ]] || fail "$output"
    grep -q 'nic0: the guest let go of the device, and the host has it back' "$D/a/stderr"
    vm_stop a
}

refused() { # SENTENCE
    run -1 vm_exit b
    grep -q "^minivmm: nic0: $1" "$D/b/stderr" || fail "$(cat "$D/b/stderr")"
}

@test "an ordinary user: the node, /dev/iommu and as much locked memory as is asked for; a node that is taken, and none" {
    umask 022
    need_device $NIC
    [ -c /dev/iommu ] || skip "this kernel has no IOMMUFD"
    node=/dev/vfio/devices/$(ls "$PCI/devices/$BDF/vfio-dev")
    { vm_boot rig; cdev_device nic0 "$BDF"; } | MINIVMM=$(as_user 262144) vm_start b
    refused "open $node (chown it to this user): Permission denied"
    chown 1000 "$node"
    { vm_boot rig; cdev_device nic0 "$BDF"; } | MINIVMM=$(as_user 262144) vm_start b
    refused "open /dev/iommu (chown it to this user): Permission denied"
    chown 1000 /dev/iommu
    { vm_boot rig; cdev_device nic0 "$BDF"; } | MINIVMM=$(as_user 65536) vm_start b
    refused 'map 256 MiB of guest memory for the device: .*: raise ulimit -l from 65536 KiB to 262144 KiB at least'
    {
        vm_boot rig minivmm.agent
        cdev_device nic0 "$BDF"
    } | MINIVMM=$(as_user 262144) vm_start a
    guest_ping a eth0
    is_user a
    { vm_boot rig; cdev_device nic0 "$BDF"; } | vm_start b
    refused "$node: VFIO_DEVICE_BIND_IOMMUFD (another program has it"
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    { vm_boot rig; printf '[[device]]\nid = "nic0"\nvia = "vfio"\ncdev = "/dev/vfio/devices/vfio99"\n'; } | vm_start b
    refused 'open /dev/vfio/devices/vfio99: no such device'
}

@test "the node as an open descriptor, that of a user who may not open it" {
    umask 022
    need_device $NIC
    [ -c /dev/iommu ] || skip "this kernel has no IOMMUFD"
    node=/dev/vfio/devices/$(ls "$PCI/devices/$BDF/vfio-dev")
    chown 0 "$node"
    chown 1000 /dev/iommu
    {
        vm_boot rig minivmm.agent
        printf '[[device]]\nid = "nic0"\nvia = "vfio"\ncdev = "fd:9"\n'
    } | MINIVMM=$(as_user 262144) vm_start a 9<> "$node"
    run -0 vm_guest a 'readlink /sys/class/net/eth0/device/driver'
    [[ $output == */e1000e ]] || fail "$output"
    is_user a
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
}
