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
# rig: -q -device
# rig: -q pcie-root-port,id=rp4,chassis=4,slot=4
# rig: -q -device
# rig: -q pcie-pci-bridge,id=old,bus=rp4
# rig: -q -device
# rig: -q e1000,bus=old,addr=1
# rig: -q -device
# rig: -q e1000,bus=old,addr=2
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

@test "a virtual function of an igb, which the host does away with" {
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
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    timeout 20 sh -c "echo 0 > $PCI/devices/$pf/sriov_numvfs"
    [ ! -e "$PCI/devices/$vf" ]
    run -0 vm_guest a 'ls /sys/class/net'
    [[ $output != *eth0* ]] || fail "$output"
    grep -q 'vf0: the guest let go of the device, and the host has it back' "$D/a/stderr" || fail "$(cat "$D/a/stderr")"
    vm_stop a
}

@test "a device that its host takes back under traffic: ejected from the guest, which goes on; the host has it; a reboot without it" {
    need_device $NIC
    {
        vm_boot rig minivmm.agent
        vfio_device nic0 "$BDF"
    } | vm_start a
    guest_ping a eth0
    run -0 vm_guest a 'cat /sys/bus/pci/slots/1/address; (nc 10.0.2.100 5000 < /dev/null | cat > /dev/null) > /dev/null 2>&1 &'
    [ "$output" = 0000:00:01 ] || fail "$output"
    modprobe e1000e
    "$MINIVMM" unbind "$BDF"
    wait_for 10 test -e "$PCI/devices/$BDF/net" || fail "the host's driver did not get it back"
    run -0 vm_guest a 'ls /sys/class/net /sys/bus/pci/devices; dmesg -r | grep "^<[0-3]>" || true'
    [[ $output != *eth0* && $output != *0000:00:01.0* && $output == *0000:00:00.0* ]] || fail "$output"
    grep -q 'nic0: the guest let go of the device, and the host has it back' "$D/a/stderr" || fail "$(cat "$D/a/stderr")"
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
    refused '/sys/bus/pci/devices/0000:7f:00.0: this host has no such device (lspci -D)'
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

@test "a group of two behind an old bridge: given whole or not at all" {
    local two=() d
    [ -n "${IN_RIG:-}" ] || skip "devices of this host are its own"
    modprobe -a vfio-pci e1000
    for d in "$PCI"/devices/*; do
        [ "$(cat "$d/device")" != 0x100e ] || two+=("${d##*/}")
    done
    [ ${#two[@]} = 2 ]
    run -1 "$MINIVMM" bind "${two[0]}"
    [[ $output == *"${two[1]}"*"driver e1000  loses network interface"* ]] || fail "$output"
    [[ $output == *"is given whole or not at all; these have to come along, if they may: ${two[1]}"* ]] || fail "$output"
    # By hand one goes alone; its group is of no use then.
    echo vfio-pci > "$PCI/devices/${two[0]}/driver_override"
    echo "${two[0]}" > "$PCI/devices/${two[0]}/driver/unbind"
    echo "${two[0]}" > "$PCI/drivers_probe"
    { vm_boot rig; vfio_device nic0 "${two[0]}"; } | vm_start b
    run -1 vm_exit b
    grep -q "^minivmm: nic0: group [0-9]* is not viable: ${two[1]} has e1000; all of a group" "$D/b/stderr" || fail "$(cat "$D/b/stderr")"
    "$MINIVMM" bind "${two[@]}"
    {
        vm_boot rig minivmm.agent
        vfio_device nic0 "${two[0]}"
        vfio_device nic1 "${two[1]}"
    } | vm_start a
    run -0 vm_guest a 'cat /sys/bus/pci/devices/0000:00:01.0/device /sys/bus/pci/devices/0000:00:02.0/device'
    [ "${lines[*]}" = "0x100e 0x100e" ] || fail "$output"
    vm_stop a
}

@test "an ordinary user: the group's node is enough, and locked memory is asked for by its number" {
    umask 022
    need_device $NIC
    chown 1000 "/dev/vfio/$(basename "$(readlink "$PCI/devices/$BDF/iommu_group")")"
    { vm_boot rig; vfio_device nic0 "$BDF"; } | MINIVMM=$(as_user 65536) vm_start b
    run -1 vm_exit b
    grep -q '^minivmm: nic0: map 256 MiB of guest memory for the device: .*: raise ulimit -l from 65536 KiB to 262144 KiB at least' "$D/b/stderr" ||
        fail "$(cat "$D/b/stderr")"
    { MEMORY=3584M vm_boot rig; vfio_device nic0 "$BDF"; } | MINIVMM=$(as_user 65536) vm_start b
    run -1 vm_exit b
    grep -q 'map [0-9]* MiB of .*: raise ulimit -l from 65536 KiB to 3670016 KiB at least' "$D/b/stderr" || fail "$(cat "$D/b/stderr")"
    {
        vm_boot rig minivmm.agent
        vfio_device nic0 "$BDF"
    } | MINIVMM=$(as_user 262144) vm_start a # what it said is enough
    guest_ping a eth0
    is_user a
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"

    echo 0 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit
    { vm_boot rig; vfio_device nic0 "$BDF"; } | vm_start b
    run -1 vm_exit b
    echo 65535 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit
    grep -q '^minivmm: nic0: map 256 MiB of guest memory for the device: no entries left .*dma_entry_limit by 1 at least' "$D/b/stderr" ||
        fail "$(cat "$D/b/stderr")"
}

# What the IOMMU was given, by the kernel's own trace: "COUNT BYTES" in pieces of 2 MiB or more.
pieces() {
    sed -n 's/.* map: IOMMU: iova=.* size=\([0-9]*\)$/\1/p' "$1" |
        awk '$1 >= 2097152 { count++; bytes += $1 } END { print count + 0, bytes + 0 }'
}

@test "huge pages: one call for both devices, and the IOMMU gets no piece that is smaller than a page" {
    local trace=/sys/kernel/tracing count bytes
    need_device $NIC
    NIC_BDF=$BDF
    need_device $DRIVE
    mount -t tracefs tracefs $trace
    echo 128 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
    printf '#!/bin/sh\nexec strace -D -e trace=ioctl -o "%s/calls" "%s" "$@"\n' "$D" "$MINIVMM" > "$D/traced"
    chmod 755 "$D/traced"
    echo 1 > $trace/events/iommu/map/enable
    {
        vm_boot rig minivmm.agent | sed 's/^memory = .*/&\nbacking = "hugetlb-2M"/'
        vfio_device nic0 "$NIC_BDF"
        vfio_device drive "$BDF"
    } | MINIVMM=$D/traced vm_start a
    vm_line a '^MINIVMM-AGENT'
    echo 0 > $trace/events/iommu/map/enable
    grep minivmm- $trace/trace > "$D/maps"
    umount $trace
    [ "$(grep -c 'VFIO_IOMMU_MAP_DMA' "$D/calls")" = 1 ] || fail "$(grep MAP_DMA "$D/calls")"
    read -r count bytes < <(pieces "$D/maps")
    [ "$bytes" = 268435456 ] || fail "$(cat "$D/maps")"
    [ "$count" -le 128 ]
    guest_ping a eth0
    run -0 vm_guest a 'dd if=/dev/nvme0n1 bs=1M count=4 iflag=direct 2> /dev/null | wc -c'
    [ "$output" = 4194304 ] || fail "$output"
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
    echo 0 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
}
