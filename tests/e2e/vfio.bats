# Devices of the host by VFIO, behind an emulated IOMMU: an e1000e, an NVMe drive, an igb with a virtual function.
# weight: 260
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
load lib/vfio

@test "e1000e: MSI-X, ping, a file with its checksum; a reboot; the driver unbound and bound 20 times" {
    need_device $NIC
    {
        vm_boot rig minivmm.agent
        vfio_device nic0 "$BDF"
    } | vm_start a
    guest_net a eth0
    run -0 vm_guest a 'grep eth0 /proc/interrupts; readlink /sys/class/net/eth0/device/driver; lspci 2> /dev/null || true'
    [[ $output == *MSIX*drivers/e1000e* ]] || fail "$output"

    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    guest_net a eth0

    run -0 vm_guest a -t 200 'set -e; cd /sys/bus/pci/drivers/e1000e; d=$(ls -d 0000:*)
        ip link set eth0 down
        for i in $(seq 20); do echo $d > unbind; echo $d > bind; done; ls /sys/class/net'
    [[ $output == *eth0* ]] || fail "$output"
    guest_net a eth0
    run -0 vm_guest a 'dmesg | grep -iE "hang|reset adapter|error" || true'
    [ -z "$output" ] || fail "$output"
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
}

@test "configs/passthrough.toml, with e1000e without MSI: INTx, ping, a file with its checksum, and again after a reboot" {
    need_device $NIC
    sed -e "s|\"vmlinuz\"|\"$GUEST/rig-bzImage\"|" -e "s|\"initrd.img\"|\"$GUEST/rig-initrd\"|" \
        -e 's|"console=ttyS0"|"console=ttyS0 panic=-1 quiet minivmm.agent pci=nomsi"|' "$TOP/configs/passthrough.toml" |
        vm_start a --set "device.nic0.host=$BDF"
    guest_net a eth0
    run -0 vm_guest a 'grep eth0 /proc/interrupts'
    [[ $output == *IO-APIC*fasteoi*eth0* ]] || fail "$output"
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    guest_net a eth0
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
}

@test "an NVMe drive and a network card in one guest, in one container; a reboot; what the host reads" {
    local sum disk
    need_device $NIC
    NIC_BDF=$BDF
    # What the host's driver writes the guest's reads, and the other way round.
    modprobe nvme
    BDF=$(device_of $DRIVE) || skip "this host has no NVMe drive"
    wait_for 10 test -e "$PCI/devices/$BDF/nvme" || fail "the host's driver does not have it"
    disk=/dev/$(basename "$(echo "$PCI/devices/$BDF"/nvme/nvme*/nvme*n1)")
    head -c 16777216 /dev/urandom > "$D/data"
    dd if="$D/data" of="$disk" bs=1M oflag=direct conv=fsync
    "$MINIVMM" bind --dry-run "$BDF" | grep -q "loses disk ${disk#/dev/}"
    "$MINIVMM" bind "$BDF"
    {
        CPUS=2 vm_boot rig minivmm.agent
        vfio_device nic0 "$NIC_BDF"
        vfio_device drive "$BDF"
    } | vm_start a
    vm_line a '^MINIVMM-AGENT'
    [ "$(find "/proc/$(vm_pid a)/fd" -lname /dev/vfio/vfio | wc -l)" = 1 ]
    run -0 vm_guest a -t 120 'for i in $(seq 100); do [ ! -b /dev/nvme0n1 ] || break; sleep 0.1; done
        dd if=/dev/nvme0n1 bs=1M count=16 iflag=direct 2> /dev/null | sha256sum
        head -c 8388608 /dev/urandom > /run/data; sha256sum < /run/data
        dd if=/run/data of=/dev/nvme0n1 bs=1M seek=32 oflag=direct conv=fsync 2> /dev/null; grep nvme0q /proc/interrupts'
    [ "${lines[0]}" = "$(sha256sum < "$D/data")" ] || fail "$output"
    [[ ${lines[2]} == *MSIX*nvme0q0* ]] || fail "$output"
    sum=${lines[1]}
    guest_net a eth0
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a -t 120 'dd if=/dev/nvme0n1 bs=1M skip=32 count=8 iflag=direct 2> /dev/null | sha256sum'
    [ "$output" = "$sum" ] || fail "$output"
    guest_net a eth0
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    "$MINIVMM" unbind "$BDF"
    wait_for 10 test -b "$disk" || fail "the host's driver did not get it back"
    [ "$(dd if="$disk" bs=1M skip=32 count=8 iflag=direct 2> /dev/null | sha256sum)" = "$sum" ]
}

@test "a virtual function of an igb" {
    local pf vf
    [ -n "${IN_RIG:-}" ] || skip "devices of this host are its own"
    modprobe -a vfio-pci igb
    pf=$(device_of $PF) || skip "this host has no igb"
    ip link set "$(ls "$PCI/devices/$pf/net")" up
    echo 1 > "$PCI/devices/$pf/sriov_numvfs"
    vf=$(basename "$(readlink "$PCI/devices/$pf/virtfn0")")
    "$MINIVMM" bind "$vf"
    {
        vm_boot rig minivmm.agent
        vfio_device vf0 "$vf"
    } | vm_start a
    guest_net a eth0
    run -0 vm_guest a 'grep eth0 /proc/interrupts; readlink /sys/class/net/eth0/device/driver'
    [[ $output == *MSIX*drivers/igbvf* ]] || fail "$output"
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    echo 0 > "$PCI/devices/$pf/sriov_numvfs"
}

@test "a device that its host takes back: dead to the guest, which goes on" {
    need_device $NIC
    {
        vm_boot rig minivmm.agent
        vfio_device nic0 "$BDF"
    } | vm_start a
    guest_net a eth0
    timeout 20 sh -c "echo $BDF > $PCI/devices/$BDF/driver/unbind"
    [ ! -e "$PCI/devices/$BDF/driver" ]
    run -0 vm_guest a 'cat /sys/bus/pci/devices/0000:00:01.0/config | head -c 4 | od -A n -t x1; echo lives'
    [[ $output == *"ff ff ff ff"*lives* ]] || fail "$output"
    grep -q 'nic0: the host wants the device back; the guest sees it no more' "$D/a/stderr"
    vm_guest a 'echo reboot > /run/after'
    vm_count a '^MINIVMM-AGENT' 2
    run -0 vm_guest a 'ls /sys/bus/pci/devices'
    [[ $output != *0000:00:01.0* ]] || fail "$output"
    vm_stop a
}

@test "what cannot be had is refused with its mend: no device, a driver of the host's, taken, locked memory" {
    refused() { # SENTENCE
        run -1 vm_exit b
        grep -q "^minivmm: nic0: $1" "$D/b/stderr" || fail "$(cat "$D/b/stderr")"
    }
    need_device $NIC
    { vm_boot rig; vfio_device nic0 0000:7f:00.0; } | vm_start b
    refused '/sys/bus/pci/devices/0000:7f:00.0: No such file'
    { vm_boot rig; vfio_device nic0 "$(device_of 0x8086 0x29c0)"; } | vm_start b
    refused '.* has no driver; give it to vfio-pci: minivmm bind'
    {
        vm_boot rig minivmm.agent
        vfio_device nic0 "$BDF"
    } | vm_start a
    vm_line a '^MINIVMM-AGENT'
    { vm_boot rig; vfio_device nic0 "$BDF"; } | vm_start b
    refused ".*$BDF: open /dev/vfio/[0-9]* (another program has the group): Device or resource busy"
    vm_stop a

    echo "$BDF" > "$PCI/drivers/vfio-pci/unbind"
    echo > "$PCI/devices/$BDF/driver_override"
    modprobe e1000e
    [ -e "$PCI/devices/$BDF/driver" ] || echo "$BDF" > "$PCI/drivers_probe"
    { vm_boot rig; vfio_device nic0 "$BDF"; } | vm_start b
    refused "$BDF has the driver e1000e; give it to vfio-pci: minivmm bind $BDF"
}
