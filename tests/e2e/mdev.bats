# Mediated devices of the kernel's samples by VFIO: mtty, two serial ports with INTx that takes no eventfd to unmask, and mdpy, a
# frame buffer in a BAR that is mapped.  No IOMMU is needed for them.
# rig: --l1 rig
load lib/helpers

TTY=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
FRAMES=83b8f4f2-509f-382f-3c1e-e6bfe0fa1002

mdev_make() { # MODULE TYPE UUID
    [ -n "${IN_RIG:-}" ] || skip "devices of this host are its own"
    modprobe -qa mdev vfio_iommu_type1 "$1" || skip "this kernel has no $1"
    echo "$3" > "/sys/class/mdev_bus/$1/mdev_supported_types/$2/create"
}

# Its machine first: a device that somebody has is not removed before.
teardown() {
    local u rc=0
    e2e_teardown || rc=$?
    for u in $TTY $FRAMES; do
        [ ! -e "/sys/bus/mdev/devices/$u" ] || timeout 10 sh -c "echo 1 > /sys/bus/mdev/devices/$u/remove"
    done
    return $rc
}

mdev_device() { # ID UUID
    printf '[[device]]\nid = "%s"\nvia = "vfio"\nmdev = "%s"\n' "$1" "$2"
}

@test "mtty: serial data through I/O BARs and INTx, again after a reboot; mdpy: a mapped BAR" {
    local i
    mdev_make mtty mtty-2 $TTY
    mdev_make mdpy mdpy-vga $FRAMES
    {
        vm_boot rig minivmm.agent
        mdev_device tty $TTY
        mdev_device frames $FRAMES
    } | vm_start a
    for i in 1 2; do
        vm_count a '^MINIVMM-AGENT' $i
        run -0 vm_guest a 'cat /sys/bus/pci/devices/0000:00:01.0/vendor /sys/bus/pci/devices/0000:00:01.0/device
            grep -E "^[12]: uart:16[^ ]* port:.* irq:" /proc/tty/driver/serial | wc -l'
        [ "${lines[*]}" = "0x4348 0x3253 2" ] || fail "$output"
        run -0 vm_guest a 'stty -F /dev/ttyS1 raw -echo 115200; (timeout 10 head -c 3000 /dev/ttyS1 | sha256sum) > /run/got &
            sleep 1; head -c 3000 /dev/urandom > /run/sent
            for n in $(seq 0 29); do dd if=/run/sent bs=100 skip=$n count=1 2> /dev/null > /dev/ttyS1; sleep 0.05; done
            wait; cat /run/got; sha256sum < /run/sent; grep -c ttyS1 /proc/interrupts; awk "/ttyS1/ { print (\$2 > 20) }" /proc/interrupts'
        [ "${lines[0]}" = "${lines[1]}" ] || fail "$output"
        [ "${lines[2]} ${lines[3]}" = "1 1" ] || fail "$output"
        # What is written through the BAR is read from it, and no access to it exits.
        run -0 vm_guest a 'cat /sys/bus/pci/devices/0000:00:02.0/device; echo 2 > /dev/null
            echo 1 > /sys/bus/pci/devices/0000:00:02.0/enable
            bar=$(head -n 1 /sys/bus/pci/devices/0000:00:02.0/resource | cut -d " " -f 1)
            devmem $((bar + 4096)) 32 0x600df00d; devmem $((bar + 4096)) 32'
        [ "${lines[*]}" = "0x000f 0x600DF00D" ] || fail "$output"
        [ "$i" = 2 ] || vm_guest a 'echo reboot > /run/after'
    done
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
}
