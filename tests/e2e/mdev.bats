# Mediated devices of the kernel's samples by VFIO: mtty, two serial ports with INTx that takes no eventfd to unmask, and mdpy, a
# frame buffer in a BAR that is mapped.  No IOMMU is needed for them.
# l1: rig
load lib/helpers

TTY=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
FRAMES=83b8f4f2-509f-382f-3c1e-e6bfe0fa1002
DEVICES=/sys/bus/pci/devices

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

# A port of mtty hears itself: what is sent comes back, with interrupts.  In pieces shorter than its FIFO, for it takes a full one for
# an empty one.
port_carries() { # VM PORT PIECES
    run -0 vm_guest "$1" "stty -F /dev/$2 raw -echo 115200; exec 5<> /dev/$2
        (timeout 20 head -c ${3}0 /dev/$2 | sha256sum) > /run/got &
        sleep 1; head -c ${3}0 /dev/urandom > /run/sent
        for n in \$(seq 0 $(($3 - 1))); do dd if=/run/sent bs=10 skip=\$n count=1 2> /dev/null > /dev/$2; sleep 0.05; done
        grep $2 /proc/interrupts; wait; cat /run/got; sha256sum < /run/sent"
    [ "${lines[1]}" = "${lines[2]}" ] || fail "$output"
    [[ ${lines[0]} == *IO-APIC*fasteoi*$2* ]] || fail "$output"
    [ "$(awk '{ print $2 }' <<< "${lines[0]}")" -ge "$3" ] || fail "$output"
}

@test "mtty: serial data through I/O BARs and INTx, again after a reboot" {
    local i
    mdev_make mtty mtty-2 $TTY
    {
        vm_boot rig minivmm.agent
        mdev_device tty $TTY
    } | vm_start a -v
    for i in 1 2; do
        vm_count a '^MINIVMM-AGENT' $i
        run -0 vm_guest a "cat $DEVICES/0000:00:01.0/vendor $DEVICES/0000:00:01.0/device; readlink $DEVICES/0000:00:01.0/driver
            grep -cE '^[12]: uart:16[^ ]* port:.* irq:' /proc/tty/driver/serial"
        [ "${lines[*]}" = "0x4348 0x3253 ../../../bus/pci/drivers/serial 2" ] || fail "$output"
        port_carries a ttyS1 20
        port_carries a ttyS2 5
        [ "$i" = 2 ] || vm_guest a 'echo reboot > /run/after'
    done
    vm_stop a
    run -0 grep "^minivmm: tty: " "$D/a/stderr"
    [ "$output" = "minivmm: tty: the device cannot be reset: a guest that starts again finds it as it was left" ] || fail "$output"
}

# Which page of minivmm's own addresses that page of the device's memory is.
host_page() { # VM PAGE
    local start
    start=$(grep -m 1 'vfio-device' "/proc/$(vm_pid "$1")/maps" | cut -d - -f 1)
    [ -n "$start" ] || fail "no memory of the device's is mapped: $(cat "/proc/$(vm_pid "$1")/maps")"
    echo $((16#$start / 4096 + $2))
}

mmio_exits() { cat "/sys/kernel/debug/kvm/$(vm_pid "$1")-"*/mmio_exits; }

@test "mdpy: memory of the device's in a BAR is the guest's, without an exit" {
    local page mem exits
    mdev_make mdpy mdpy-vga $FRAMES
    {
        vm_boot debian minivmm.agent iomem=relaxed
        mdev_device frames $FRAMES
    } | vm_start a
    run -0 vm_guest a "cat $DEVICES/0000:00:01.0/vendor $DEVICES/0000:00:01.0/device; echo 1 > $DEVICES/0000:00:01.0/enable
        bar=\$(head -n 1 $DEVICES/0000:00:01.0/resource | cut -d ' ' -f 1)
        devmem \$((bar + 4096)) 32 0x600df00d; devmem \$((bar + 4096)) 32"
    [ "${lines[*]}" = "0x1b36 0x000f 0x600DF00D" ] || fail "$output"
    page=$(host_page a 1)
    mem=/proc/$(vm_pid a)/mem
    [ "$(dd if="$mem" bs=4096 skip="$page" count=1 2> /dev/null | od -A n -t x4 -N 4)" = " 600df00d" ]
    printf '\x78\x56\x34\x12' | dd of="$mem" bs=4096 seek="$page" conv=notrunc 2> /dev/null
    exits=$(mmio_exits a)
    run -0 vm_guest a "bar=\$(head -n 1 $DEVICES/0000:00:01.0/resource | cut -d ' ' -f 1); devmem \$((bar + 4096)) 32"
    [ "$output" = 0x12345678 ] || fail "$output"
    [ "$(mmio_exits a)" = "$exits" ]
    vm_stop a
    [ ! -s "$D/a/stderr" ] || fail "$(cat "$D/a/stderr")"
}
