# Debian's stock kernel, each way in and each size of machine: what it finds is what was configured.
# weight: 80
load lib/helpers

# All that a test asks of the guest, in one command: KEY VALUE lines.
probe='
    echo cpus $(nproc)
    echo memory $(sed -n "s/^MemTotal: *\([0-9]*\) kB/\1/p" /proc/meminfo)
    echo packages $(grep "^physical id" /proc/cpuinfo | sort -u | wc -l)
    echo cores $(grep "^core id" /proc/cpuinfo | sort -u | wc -l)
    echo siblings $(sed -n "s/^siblings.*: //p" /proc/cpuinfo | sort -u)
    echo apicids $(sed -n "s/^apicid.*: //p" /proc/cpuinfo)
    for f in x2apic tsc_deadline_timer hypervisor; do echo $f $(grep -cw $f /proc/cpuinfo); done
    echo x2apic_mode $(dmesg | grep -c "Switched APIC routing to: .*x2apic")
    echo timer $(cat /sys/devices/system/clockevents/clockevent0/current_device)
    echo timers $(grep -c "^Clock Event Device: *lapic-deadline" /proc/timer_list)
    echo kvmclock $(grep -cw kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource)
    echo ecam $(dmesg | grep -c "PCI: ECAM .*\[bus 00")
    echo root $(dmesg | grep -c "ACPI: PCI Root Bridge")
    echo pci $(for d in /sys/bus/pci/devices/*; do echo ${d##*/},$(cat $d/vendor),$(cat $d/device); done)
    echo serial $(dmesg | grep -c "00:0[0-9]: ttyS0 at I/O 0x3f8")
    echo rtc $(cat /sys/class/rtc/rtc0/since_epoch) $(date +%s)
    echo msix $(grep -c "PCI-MSIX.*virtio0" /proc/interrupts)
    echo bad $(dmesg -r | grep -c "^<[0-3]>")
    dmesg -r | grep "^<[0-3]>" || true
'

# The value of KEY in $answers.
got() { sed -n "s/^$1 //p" <<< "$answers"; }
is() {
    [ "$(got "$1")" = "$2" ] || fail "$1: the guest says '$(got "$1")', not '$2'"
}
between() {
    local v
    v=$(got "$1")
    [ "$v" -ge "$2" ] && [ "$v" -le "$3" ] || fail "$1: the guest says '$v', not $2 to $3"
}

disk() {
    truncate -s 16M "$D/disk.img"
    printf '[[device]]\nid = "disk0"\nvirtio = "blk"\nimage = "%s"\n%s\n' "$D/disk.img" "${1-}"
}

probed() { # CPUS MEMORY_KB
    local n=$1 ids
    answers=$(vm_guest a "$probe")
    echo "$answers"
    is cpus "$n"
    # what the kernel keeps for itself grows with the memory that it manages
    between memory $(($2 * 94 / 100 - 34000)) "$2"
    is packages 1
    is cores "$n"
    is siblings "$n"
    ids=$(seq -s ' ' 0 $((n - 1)))
    is apicids "$ids"
    is x2apic "$n"
    is hypervisor "$n"
    is tsc_deadline_timer "$n"
    is x2apic_mode 1
    is timer lapic-deadline
    is timers "$n"
    is kvmclock 1
    is ecam 1
    is root 1
    [[ $(got pci) == 0000:00:00.0,*\ 0000:00:01.0,0x1af4,0x1042 ]] || fail "pci: $(got pci)"
    is serial 1
    is bad 0
}

@test "Debian's bzImage, 1 CPU, 256 MiB, and the console in both directions" {
    local t line rtc clock
    { vm_boot debian minivmm.agent; disk; } | vm_start a
    probed 1 $((256 << 10))
    # the CMOS clock: this host's time, and the kernel took its own from it
    read -r rtc clock <<< "$(got rtc)"
    t=$(now)
    [ $((t - rtc)) -ge -2 ] && [ $((t - rtc)) -le 30 ] || fail "the guest's clock is at $rtc, the host's at $t"
    [ $((rtc - clock)) -ge -3 ] && [ $((rtc - clock)) -le 3 ] || fail "RTC $rtc, system $clock"
    # more than any buffer on the way holds, out of the guest and into it
    run -0 vm_guest a 'seq 1 6000'
    [ "$(sha256sum <<< "$output")" = "$(seq 1 6000 | sha256sum)" ]
    line=$(seq -s ' ' 1 6000)
    run -0 vm_guest a "echo $line | sha256sum"
    [ "$output" = "$(sha256sum <<< "$line")" ]
    run -7 vm_guest a 'exit 7'
    vm_stop a
    run -0 vm_line a MINIVMM-POWER-BUTTON
}

@test "Debian's vmlinux, 2 CPUs, 5 GiB, memory above 4 GiB works" {
    { IMAGE=vmlinux CPUS=2 MEMORY=5G vm_boot debian minivmm.agent; disk; } | vm_start a
    probed 2 $((5 << 20))
    # Memory is given out from its top: pages of a file of 64 MiB lie above 4 GiB or below as
    # the zones' use shows; either way they hold what was written.
    run -0 vm_guest a '
        free4g() { awk "/zone *Normal/ { n = 1 } n && /nr_free_pages/ { print \$2; exit }" /proc/zoneinfo; }
        before=$(free4g)
        dd if=/dev/urandom of=/run/a bs=1M count=64 2> /dev/null
        cp /run/a /run/b
        after=$(free4g)
        cmp /run/a /run/b && echo pages $((before - after))
        grep "System RAM" /proc/iomem | tail -n 1'
    echo "$output"
    # two files of 16384 pages, in the zone above 4 GiB
    [ "$(sed -n 's/^pages //p' <<< "$output")" -gt 30000 ]
    [[ $output == *"100000000-"*": System RAM"* ]]
    vm_stop a
}

@test "Debian's bzImage, 4 CPUs, a queue and a vector for each" {
    { CPUS=4 MEMORY=512M vm_boot debian minivmm.agent; disk 'queues = 4'; } | BOOT_SECS=90 vm_start a
    probed 4 $((512 << 10))
    run -0 vm_guest a '
        echo queues $(ls /sys/block/vda/mq | wc -l)
        for c in 0 1 2 3; do
            echo queue $c on CPU $(cat /sys/block/vda/mq/$c/cpu_list)
            taskset -c $c dd if=/dev/vda of=/dev/null bs=4k count=50 iflag=direct skip=$((c * 100)) 2> /dev/null || echo failed
        done
        grep "virtio0-req" /proc/interrupts'
    echo "$output"
    [[ $output == *"queues 4"* && $output != *failed* ]]
    # each CPU sent at least 50 requests of its own, each answered by its queue's vector
    for q in 0 1 2 3; do
        [ "$(grep "virtio0-req.$q" <<< "$output" |
            awk '{ n = 0; for (i = 2; i <= 5; i++) n += $i; print n }')" -ge 50 ] || fail "queue $q had no interrupts"
    done
    # and the CPUs can go and come back by INIT and SIPI
    run -0 vm_guest a '
        for c in 1 2 3; do echo 0 > /sys/devices/system/cpu/cpu$c/online || exit 1; done
        nproc
        for c in 3 1 2; do echo 1 > /sys/devices/system/cpu/cpu$c/online || exit 1; done
        nproc'
    [ "$output" = $'1\n4' ]
    vm_stop a
}
