# I/O in steady state never enters the monitor.
# weight: 35
load lib/helpers

# System calls that all threads of the monitor returned from while the guest ran COMMAND.
calls_during() { # NAME COMMAND
    local pid
    pid=$(vm_pid "$1")
    peer_start strace strace -f -c -o "$D/calls" -p "$pid"
    wait_for 10 grep -q 'attached' "$D/strace.log"
    run -0 vm_guest "$1" -t 150 "$2"
    kill -INT "$(peer_pid strace)"
    wait_for 10 pid_gone "$(peer_pid strace)"
    awk '$4 ~ /^[0-9]+$/ && $NF != "total" { n += $4 } END { print n + 0 }' "$D/calls"
}

exits() { # NAME FIELD
    cat /sys/kernel/debug/kvm/"$(vm_pid "$1")"-*/"$2"
}

@test "10,000 guest I/Os: neither the loop nor a CPU's thread returned to user space for them" {
    local idle busy mmio before after
    need strace
    [ -r /sys/kernel/debug/kvm ] && [ "$(id -u)" = 0 ] || skip "KVM's counters and strace of a sealed process are root's"
    truncate -s 64M "$D/disk.img"
    {
        CPUS=2 vm_boot debian minivmm.agent
        printf '[[device]]\nid = "disk0"\nvirtio = "blk"\nimage = "%s"\n' "$D/disk.img"
    } | vm_start a
    # each character of a command or an answer costs exits: both are as long for the one as for the other
    vm_guest a '
        dd if=/dev/vda of=/dev/null bs=4k count=100 iflag=direct 2> /dev/null
        echo "sleep 5" > /run/idle
        echo "dd if=/dev/vda of=/dev/null bs=4k count=5000 iflag=direct 2> /dev/null
            dd if=/dev/zero of=/dev/vda bs=4k count=5000 oflag=direct 2> /dev/null" > /run/busy'
    mmio=$(exits a mmio_exits) before=$(exits a exits)
    idle=$(calls_during a 'sh /run/idle')
    busy=$(calls_during a 'sh /run/busy')
    after=$(exits a exits)
    echo "system calls while idle $idle, during 10,000 I/Os $busy; $((after - before)) exits to KVM in between"
    cat "$D/calls"
    run -0 vm_guest a 'set -- $(cat /sys/block/vda/stat); echo $(($1 + $5))'
    [ "$output" -ge 10100 ]
    # KVM had the doorbells
    [ $((after - before)) -ge 10000 ]
    [ "$idle" -gt 0 ]
    [ $((busy - idle)) -lt 300 ]
    [ $(($(exits a mmio_exits) - mmio)) -lt 50 ]
    vm_stop a
}
