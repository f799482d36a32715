# How a machine ends and begins again: reboot, resets of every kind, power button, signals, exit statuses.
# weight: 150
load lib/helpers

# A command that does not come back.
fire() { # NAME COMMAND
    vm_send "$1" "x $(base64 -w 0 <<< "$2")"$'\n'
}

disk() { printf '[[device]]\nid = "disk0"\nvirtio = "blk"\nimage = "%s"\n' "$D/disk.img"; }

with_reboot() { sed "s/^\[vm\]/[vm]\non_reboot = \"$1\"/"; }

fds() { find "/proc/$(vm_pid "$1")/fd" -mindepth 1 | wc -l; }
threads() { find "/proc/$(vm_pid "$1")/task" -mindepth 1 -maxdepth 1 | wc -l; }

# An agent is there for the N-th time, and its disk works.
ready() { # NAME N
    vm_count "$1" '^MINIVMM-AGENT' "$2"
    vm_guest "$1" "cat /proc/sys/kernel/random/boot_id; dd if=/dev/vda bs=512 count=1 iflag=direct 2> /dev/null | head -n 1"
}

@test "Debian reboots five times, each time a new machine with its disk, nothing of the monitor's grows" {
    local n fds threads boots='' blk
    { echo marked; head -c 1M /dev/zero; } | head -c 1M > "$D/disk.img"
    { vm_boot debian minivmm.agent; disk; } | with_reboot restart | vm_start a
    for n in 1 2 3 4 5 6; do
        run -0 ready a $n
        [ "${lines[1]}" = marked ]
        boots+="${lines[0]}"$'\n'
        if [ $n = 1 ]; then
            fds=$(fds a) threads=$(threads a) blk=$(cat "/proc/$(vm_pid a)"/task/*/children)
        fi
        [ "$(fds a)" = "$fds" ]
        [ "$(threads a)" = "$threads" ]
        [ $n = 6 ] || vm_guest a 'echo reboot > /run/after'
    done
    [ "$(sort -u <<< "${boots%$'\n'}" | wc -l)" = 6 ] || fail "the same boot twice: $boots"
    [ "$(cat "/proc/$(vm_pid a)"/task/*/children)" = "$blk" ]
    vm_stop a
}

@test "on_reboot = exit: a reboot ends minivmm with status 0" {
    vm_boot rig minivmm.run=true minivmm.after=reboot | with_reboot exit | vm_start a
    run -0 vm_result a
    vm_exit a
    [ "$(vm_console a | grep -c '^MINIVMM-INIT')" = 1 ]
}

@test "a reset by ACPI, keyboard controller, PCI port, triple fault, and panic: each starts the machine again" {
    local n=1 how
    vm_boot rig minivmm.agent | vm_start a
    for how in acpi kbd pci triple; do
        vm_count a '^MINIVMM-AGENT' $n
        run -0 vm_guest a "echo $how > /sys/kernel/reboot/type; echo 1 > /sys/kernel/reboot/force; cat /sys/kernel/reboot/type"
        [ "$output" = $how ]
        fire a 'echo b > /proc/sysrq-trigger'
        n=$((n + 1))
    done
    vm_count a '^MINIVMM-AGENT' $n
    fire a 'echo c > /proc/sysrq-trigger'
    vm_count a '^MINIVMM-AGENT' $((n + 1))
    run -0 vm_line a 'Kernel panic' 1
    # a triple fault where a reset means the end
    vm_stop a
    vm_boot rig reboot=t minivmm.run=true minivmm.after=reboot | with_reboot exit | vm_start b
    vm_exit b "$BOOT_SECS"
    [ "$(vm_console b | grep -c '^MINIVMM-INIT')" = 1 ]
}

# How long until minivmm has ended, in tenths of a second.
ends_within() { # NAME SECS STATUS
    local begin=${EPOCHREALTIME/./}
    run vm_exit "$1" "$2"
    [ "$status" = "$3" ] || fail "status $status, not $3: $output"
    echo "ended after $(((${EPOCHREALTIME/./} - begin) / 1000)) ms"
}

@test "SIGTERM presses the power button, and a deaf guest is stopped by the second one" {
    truncate -s 1M "$D/disk.img"
    { vm_boot rig minivmm.agent; disk; } | vm_start a
    # the guest hears no button any more
    vm_guest a 'for p in $(pidof init); do [ $p = 1 ] || kill -9 $p; done'
    run -0 vm_guest a 'grep -c . /proc/interrupts; grep -i -E "acpi|ged" /proc/interrupts'
    echo "$output"
    kill -TERM "$(vm_pid a)"
    # it was an event for the guest: the machine lives on
    nap 1
    run -0 vm_guest a 'grep -i -E "acpi|ged" /proc/interrupts'
    echo "$output"
    ! vm_ended a || false
    # the five seconds are counted from the first
    nap 5
    kill -TERM "$(vm_pid a)"
    nap 1
    ! vm_ended a || false
    kill -TERM "$(vm_pid a)"
    ends_within a 5 0
    # and one that listens hears it and ends by itself
    { vm_boot rig minivmm.agent; disk; } | vm_start b
    vm_line b '^MINIVMM-AGENT'
    kill -TERM "$(vm_pid b)"
    vm_exit b
    run -0 vm_line b '^MINIVMM-POWER-BUTTON' 1
}

@test "SIGINT, SIGHUP and SIGTERM twice stop a guest that has hardly begun, at once and in order" {
    local sig name
    truncate -s 1M "$D/disk.img"
    for sig in INT HUP TERM; do
        name=vm$sig
        { vm_boot debian minivmm.agent; disk; } | sed 's/ quiet//' | vm_start "$name"
        vm_line "$name" 'Linux version'
        kill -$sig "$(vm_pid "$name")"
        [ $sig != TERM ] || kill -$sig "$(vm_pid "$name")"
        ends_within "$name" 5 0
    done
}

@test "a killed monitor takes its devices with it" {
    local blk spawner
    truncate -s 1M "$D/disk.img"
    { vm_boot rig minivmm.agent; disk; } | vm_start a
    vm_line a '^MINIVMM-INIT'
    blk=$(pgrep -P "$(vm_pid a)" -x minivmm-blk) spawner=$(pgrep -P "$(vm_pid a)" -x spawner)
    kill -KILL "$(vm_pid a)"
    run -137 vm_exit a
    wait_for 2 pid_gone "$blk"
    wait_for 2 pid_gone "$spawner"
}
