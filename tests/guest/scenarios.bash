# Each function is a machine, what happens to it from outside, and what must come of it.
# shellcheck shell=bash disable=SC2154,SC2034

# ---- guests that need no help ----------------------------------------------------------------------------------

boot() { # GUEST OPTIONS CPUS
    seq 1 20000 > "$T/initrd"
    machine "$1" "" "$3"
    go --set boot.initrd="$T/initrd" --set boot.cmdline="guest=boot cpus=$3 memory=64 $2 \
initrd=$(stat -c %s "$T/initrd") date=$(date -u +%Y%m%d) seconds=$(($(date +%s) % 86400)) last=here"
}
scenario_boot_pvh() { boot boot pvh=1 1; }
scenario_boot_pvh_4cpus() { boot boot pvh=1 4; }
scenario_boot_linux64() { boot boot64 pvh=0 2; }

scenario_smp_2() { machine smp '' 2; go; }
scenario_smp_4() { machine smp '' 4; go; }
scenario_smp_8() { machine smp '' 8; go; }
scenario_pci() { slow; machine pci disks=2 2; two_disks; go; }
scenario_virtio() { slow; machine virtio sectors=8192; two_disks; go; }
scenario_msix() { machine msix '' 2; two_disks; go; }
scenario_rings() { slow; machine rings '' 2; two_disks; go; }
scenario_packed() { slow; machine packed ''; two_disks; go; }
scenario_long_ports() {
    slow # 140,000 exits
    machine ports ''
    go
}
scenario_io() {
    machine io ''
    printf 'written by the harness' > "$T/disk1.img"
    truncate -s 4M "$T/disk1.img"
    disk disk0 'queues = 2'
    disk disk1 'readonly = true'
    go
}

# The most vectors that a configuration can ask for: 31 functions of 64 queues.  KVM has 4096 routes.
scenario_many_functions_G21() {
    local i
    slow
    machine machine 'do=many disks=31 queues=64'
    for ((i = 0; i < 31; i++)); do disk "disk$i" 'queues = 64'; done
    go
}

# ---- what the monitor does for an I/O: nothing -----------------------------------------------------------------

# System calls of all the monitor's threads in a run with COUNT requests.
count_calls() {
    local n=$1
    machine io "count=$n"
    printf '[[device]]\nid = "disk0"\nvia = "vhost-user"\nvirtio = "blk"\nsocket = "blk.sock"\n' >> "$T/vm.toml"
    [ -e "$T/disk.img" ] || truncate -s 4M "$T/disk.img"
    "$MINIVMM_BLK" --vhost-user "$T/blk.sock" --image "$T/disk.img" 2> "$T/blk.log" &
    local blk=$!
    wait_for 5 test -S "$T/blk.sock"
    ASAN_OPTIONS=detect_leaks=0 strace -f -qq -o "$T/trace.$n" "$MINIVMM" -c "$T/vm.toml" < /dev/null > "$T/console" 2> "$T/log" &
    pid=$!
    finish
    kill "$blk" 2> /dev/null
    wait "$blk" 2> /dev/null
    rm -f "$T/blk.sock"
    [ "$rc" = 0 ] && has_line "end: $n requests, 0 bad"
}

# Those between the guest's lines "begin" and "end".
calls_between() {
    awk '/write\(1, "begin/ { on = 1; next } /write\(1, "e/ { on = 0 } on { n++ } END { print n + 0 }' "$T/trace.$1"
}

scenario_no_wakeups() {
    local few many
    if ! command -v strace > /dev/null; then
        skip 'I/O does not wake the monitor' 'no strace'
        return
    fi
    check '100 requests under strace' count_calls 100
    check '10000 requests under strace' count_calls 10000
    few=$(calls_between 100) many=$(calls_between 10000)
    # Both contain the guest's last line, one to four calls for each letter: a lone one is written by a timer.  With a call for each
    # I/O the difference would be 9,900.
    check "100 requests cost $few system calls of loop and vCPU, 10,000 cost $many" \
        [ "$few" -gt 10 -a "$few" -lt 200 -a $((many - few)) -lt 200 ]
}

# ---- resets and ends -------------------------------------------------------------------------------------------

reboot() { # OPTIONS CPUS
    local on_reboot=restart
    machine machine "do=reboot $1" "$2"
    disk disk0
    go
}
scenario_reboot_i8042() { reboot 'by=0' 2; }
scenario_reboot_acpi() { reboot 'by=1' 1; }
scenario_reboot_triple_fault_G30() { reboot 'by=2' 2; }
scenario_reboot_all_cpus_at_once() { reboot 'by=0 all=1 times=10' 4; }
scenario_reboot_exit() {
    machine machine 'do=reboot by=1'
    disk disk0
    start
    finish
    check 'on_reboot = "exit" ends with 0' [ "$rc" = 0 ]
    check 'and after one boot' [ "$(grep -c '^boot' "$T/console")" = 1 ]
}

scenario_crash_G30() {
    machine machine 'do=crash by=jump'
    disk disk0
    start
    finish 5
    check 'G30 a jump to where no code is: exit status 1' [ "$rc" = 1 ]
    check 'G30 the log has the reason' log_has 'KVM '
    check 'G30 and the registers' log_has 'rip 00000000d0000000'
}

quit_by() { # SIGNAL NAME OPTIONS
    machine machine "$3"
    disk disk0
    start
    wait_line "${4:-crashing}"
    sleep 0.1
    kill "-$1" "$pid"
    finish 5
    check "$2: exit status 0" [ "$rc" = 0 ]
    check "$2: within 5 s" [ "$took" -lt 5000 ]
    leftovers
}
scenario_halted_G30() { quit_by INT 'G30 a guest that halts with interrupts off is stopped by SIGINT' 'do=crash by=halt'; }
scenario_spinning_G30() { quit_by INT 'G30 a guest that spins is stopped by SIGINT' 'do=crash by=spin'; }
scenario_signals_P05() {
    quit_by INT 'P05 SIGINT' do=wait ready
    quit_by HUP 'P05 SIGHUP' do=wait ready
}

scenario_power_button() {
    machine machine 'do=button'
    start
    wait_line ready
    kill -TERM "$pid"
    wait_line pressed
    finish 5
    check 'SIGTERM is the power button, on GSI 9' [ "$rc" = 0 ]
}

scenario_term_twice_P05() {
    machine machine 'do=button ignore=1'
    disk disk0
    start
    wait_line ready
    kill -TERM "$pid"
    wait_line pressed
    sleep 0.2
    check 'P05 one SIGTERM leaves a guest that does not care' kill -0 "$pid"
    kill -TERM "$pid"
    finish 5
    check 'P05 the second SIGTERM within 5 s stops at once' [ "$rc:$((took < 5000))" = 0:1 ]
}

scenario_killed_P04() {
    machine machine do=wait
    two_disks
    start
    wait_line ready
    kill -KILL "$pid"
    finish 5
    check 'P04 SIGKILL of the monitor' [ "$rc" = 137 ]
    check 'P04 its children die within a second' wait_for 1 unlocked
}

# ---- a terminal ------------------------------------------------------------------------------------------------

monitor_in_terminal() { pgrep -o -f -- "^$MINIVMM -q -c $T/vm.toml"; }

in_terminal() { # NAME, then the command that ends the machine
    local name=$1 end
    shift
    machine machine do=wait
    disk disk0
    rm -f "$T/status" "$T/before" "$T/after" "$T/in" "$T/tty"
    mkfifo "$T/in"
    exec {in}<> "$T/in"
    script -qefc "tty > $T/tty; stty -g > $T/before; $MINIVMM -q -c $T/vm.toml; echo \$? > $T/status; stty -g > $T/after" \
        "$T/console" < "$T/in" > /dev/null 2>&1 {in}>&- &
    pid=$!
    wait_line ready
    check "$name: the terminal is raw while the machine runs" grep -q -- -icanon <(stty -a -F "$(cat "$T/tty")")
    end=("$@")
    "${end[@]}"
    finish 5
    check "$name: exit status 0" [ "$(cat "$T/status")" = 0 ]
    check "$name: the terminal is as before" cmp -s "$T/before" "$T/after"
    leftovers
}
signal_in_terminal() { kill "-$1" "$(monitor_in_terminal)"; }
type_quit() { printf '\001x' > "$T/in"; }
scenario_terminal_P05() {
    in_terminal 'P05 SIGINT in a terminal' signal_in_terminal INT
    in_terminal 'P05 SIGHUP in a terminal' signal_in_terminal HUP
    in_terminal 'Ctrl-A x' type_quit
}

# ---- the console -----------------------------------------------------------------------------------------------

scenario_serial_input() {
    machine machine do=echo
    start
    wait_line ready
    tell 'a line for the guest'
    wait_line 'heard a line for the guest'
    finish 5
    check 'serial input with interrupts' [ "$rc" = 0 ]
}

scenario_input_flood_G31() {
    local want
    head -c 20000 /dev/zero | tr '\0' 'A' > "$T/flood"
    want=$((20000 * 65))
    machine machine 'do=drink count=20000'
    start
    wait_line ready
    cat "$T/flood" > "$T/in"
    wait_line "drank 20000 bytes, sum $want"
    finish
    check 'G31 a flood of input arrives whole' [ "$rc" = 0 ]
}

scenario_blocked_output_G31_R06() {
    mkfifo "$T/full"
    exec {full}<> "$T/full" # open for reading, and nobody reads
    head -c 65536 /dev/zero > "$T/full"
    machine machine 'do=flood count=30000'
    out=$T/full start
    finish
    check 'G31 output into a pipe that nobody reads: the guest goes on and powers off' [ "$rc" = 0 ]
    machine machine do=flood
    out=$T/full start
    sleep 1
    kill -INT "$pid"
    finish 5
    check 'G31 and it can be stopped' [ "$rc:$((took < 5000))" = 0:1 ]
    machine machine 'do=flood count=30000 linger=1'
    out=$T/full start -v
    wait_for 15 log_has 'nothing at 0xf0000000'
    timeout 15 cat < "$T/full" > /dev/null &
    local reader=$!
    check 'G31 what was dropped is counted' wait_for 5 log_has 'bytes dropped'
    tell go
    finish
    kill "$reader" 2> /dev/null
    exec {full}>&-
}

scenario_blocked_log_R06() {
    mkfifo "$T/full"
    exec {full}<> "$T/full"
    head -c 65536 /dev/zero > "$T/full" # a log that is full from the beginning
    machine machine 'do=reboot times=5 by=1'
    disk disk0
    err=$T/full start -v --set vm.on_reboot=restart
    finish
    report
    exec {full}>&-
    machine machine 'do=reboot times=3 by=2'
    disk disk0
    "$MINIVMM" -v -v -c "$T/vm.toml" --set vm.on_reboot=restart < /dev/null > "$T/console" 2>&- &
    pid=$!
    finish
    report
}

# ---- devices that die or stall ---------------------------------------------------------------------------------

dead() { # NAME OPTIONS
    label="$1: "
    machine machine "do=dead ${2:-}"
    disk disk0 'queues = 2' 'restart = "never"'
    disk disk1
    start
    wait_line ready
    sleep "${3:-0.05}"
    kill -KILL "$(child disk0)"
    finish
    report
}
scenario_device_killed_P01() {
    dead 'P01 a disk killed while idle'
    dead 'P01 a disk killed in the midst of requests' when=busy 0.2
    dead 'P01 a disk killed in the midst of requests, again' when=busy 0.11
}

scenario_killed_while_resetting_P01() {
    machine machine 'do=stalled again=1'
    two_disks
    start
    wait_line ready
    kill -STOP "$(child disk0)"
    tell go
    sleep 0.3
    check 'P01 the reset waits for a device that stalls' eval '! has_line reset'
    kill -KILL "$(child disk0)"
    finish 5
    report
}

open_fds() { find "/proc/$1/fd" -mindepth 1 | wc -l; }
spawner() { pgrep -P "$pid" -x spawner; }
other_child() { local now; now=$(child "$1") && [ -n "$now" ] && [ "$now" != "$2" ]; } # ID PID-BEFORE

# kill_disk TIMES PAUSE [EARLY]: the process behind the disk, whichever it is, some time after it has got the guest's memory, and
# each EARLYth at once; then waits for the last one's successor.
kill_disk() {
    python3 -c 'import os, signal, sys, time
monitor, times, pause, early = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
def has_memory(pid):
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            if "memfd:" in open("/proc/%s/maps" % pid).read():
                return
        except PermissionError:
            time.sleep(0.1) # only root may look
            return
        time.sleep(0.002)
    sys.exit("kill %d: it has got no memory" % n)
def served(before):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for child in open("/proc/%s/task/%s/children" % (monitor, monitor)).read().split():
            try:
                if child != before and open("/proc/%s/comm" % child).read() == "minivmm-blk\n":
                    return child
            except OSError:
                pass
        time.sleep(0.002)
    sys.exit("kill %d: it did not come back" % n)
victim = None
for n in range(times):
    victim = served(victim)
    if n % early != early - 1:
        has_memory(victim)
        time.sleep(pause)
    os.kill(int(victim), signal.SIGKILL)
served(victim)' "$pid" "$1" "$2" "${3:-1000}" || not_ok "$1 kills" "see the harness"
}

# Under requests without pause; the guest checks what it reads.
scenario_long_killed_again_and_again_P02() {
    local before after times=${KILLS:-300}
    LIMIT=30
    machine machine do=killed
    disk disk0
    start
    wait_line ready
    kill_disk 2 0.02 # a first use may make something that stays
    before=$(open_fds "$pid"):$(open_fds "$(spawner)")
    kill_disk "$times" 0.02 100
    wait_for 10 same_fds "${before%:*}" # the last one is still to be taken over
    after=$(open_fds "$pid"):$(open_fds "$(spawner)")
    tell end
    finish
    report
    check "P02 $times kills cost no descriptor ($before and $after)" [ "$before" = "$after" -a "${before%:*}" -gt 20 -a "${before#*:}" -gt 5 ]
    check 'P02 each death is said, but not without end' [ "$(grep -c 'starting it again' "$T/log")" -lt $((times + 5)) -a "$(grep -c "is back" "$T/log")" -gt 3 ]
}

scenario_killed_while_resetting_P02() {
    slow
    machine machine do=resetting
    disk disk0 'queues = 2'
    start
    wait_line ready
    kill_disk 30 0.03
    tell end
    finish
    report
}

# A disk that somebody else starts: with `listen` it connects to us, else it listens.
foreign_disk() { # KEY LINE...
    local key=$1
    shift
    truncate -s 4M "$T/disk.img"
    printf '[[device]]\nid = "disk0"\nvia = "vhost-user"\nvirtio = "blk"\n%s = "%s/blk.sock"\n' "$key" "$T" >> "$T/vm.toml"
    [ $# = 0 ] || printf '%s\n' "$@" >> "$T/vm.toml"
}
foreign_start() { # KEY
    if [ "$1" = listen ]; then
        python3 -c 'import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.set_inheritable(True)
os.execv(sys.argv[2], [sys.argv[2], "--fd=%d" % s.fileno(), "--image", sys.argv[3]])' "$T/blk.sock" "$MINIVMM_BLK" "$T/disk.img" 2>> "$T/blk.log" &
    else
        rm -f "$T/blk.sock"
        "$MINIVMM_BLK" --vhost-user "$T/blk.sock" --image "$T/disk.img" 2>> "$T/blk.log" &
    fi
    blk=$!
}
foreign_kill() { kill -KILL "$blk"; wait "$blk" 2> /dev/null; }

foreign_again() { # KEY
    local i before after blk
    LIMIT=40
    machine machine do=killed
    foreign_disk "$1"
    [ "$1" = listen ] || { foreign_start "$1"; wait_for 5 test -S "$T/blk.sock"; }
    start
    [ "$1" != listen ] || { wait_for 5 test -S "$T/blk.sock"; foreign_start "$1"; }
    wait_line ready
    before=$(open_fds "$pid")
    for ((i = 0; i < 20; i++)); do
        sleep 0.05
        foreign_kill
        [ $i != 5 ] || sleep 1
        foreign_start "$1"
        [ $i != 10 ] || { wait_for 5 log_back; foreign_kill; foreign_start "$1"; } # before it has served
        sleep 0.05
    done
    wait_for 10 same_fds "$before"
    after=$(open_fds "$pid")
    tell end
    finish
    foreign_kill
    report
    check "P02 a back-end at $1 = ... costs no descriptor ($before and $after)" [ "$before" = "$after" -a "$before" -gt 20 ]
    check "P02 $1 = ... leaves no socket of ours" eval "[ $1 = socket ] || wait_for 2 test ! -e '$T/blk.sock'"
}
same_fds() { [ "$(open_fds "$pid")" = "$1" ]; }
log_back() { log_has ' is back after '; }
scenario_long_socket_again_P02() { foreign_again socket; }
scenario_long_listen_again_P02() { foreign_again listen; }

scenario_listen_nobody() {
    machine machine do=wait
    foreign_disk listen
    start
    wait_for 5 log_has 'waiting for a back-end to connect'
    check 'listen: minivmm says that it waits' log_has 'waiting for a back-end to connect'
    kill -KILL "$pid"
    finish 2
    check 'listen: a killed monitor leaves no socket' wait_for 2 test ! -e "$T/blk.sock"
}

# What asks for a reset that then finds nobody.
gone_for_good() { # NAME LOG-LINE
    finish
    report
    check "$1" log_has "$2"
}
scenario_reconnect_never_P02() {
    local blk
    machine machine do=dead
    foreign_disk socket 'reconnect = "never"'
    disk disk1
    foreign_start socket
    wait_for 5 test -S "$T/blk.sock"
    start
    wait_line ready
    foreign_kill
    gone_for_good 'P02 reconnect = "never"' 'closed its connection'
}
scenario_reconnect_for_a_time_P02() {
    local blk
    machine machine do=dead
    foreign_disk socket 'reconnect = "1s"'
    disk disk1
    foreign_start socket
    wait_for 5 test -S "$T/blk.sock"
    start
    wait_line ready
    foreign_kill
    gone_for_good 'P02 reconnect = "1s": no longer' 'did not come back within 1 s'
}
# Whoever starts us may have it so, and then nobody could wait for a child.
scenario_started_with_SIGCHLD_ignored_P02() {
    printf '#!/usr/bin/python3\nimport os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv("%s", ["minivmm", *sys.argv[1:]])\n' \
        "$MINIVMM" > "$T/ignoring"
    chmod +x "$T/ignoring"
    machine machine do=wait
    two_disks
    MINIVMM=$T/ignoring start
    wait_line ready
    kill -KILL "$(child disk0)"
    check 'P02 a killed disk is noticed with SIGCHLD ignored at the start' wait_for 5 log_has 'disk0: minivmm-blk is back after'
    kill -INT "$pid"
    finish 5
    check 'P02 and the machine ends well' [ "$rc" = 0 ]
}

scenario_spawner_killed_P02() {
    machine machine do=dead
    two_disks
    start
    wait_line ready
    kill -KILL "$(spawner)"
    wait_for 2 log_has 'stays dead'
    kill -KILL "$(child disk0)"
    gone_for_good 'P02 without the spawner a device stays dead' 'the process that starts devices again is gone'
}

# A program of the user's: the first time a disk, then what SCRIPT says.
wrapped_disk() { # SCRIPT LINE...
    truncate -s 4M "$T/disk.img"
    printf '[[device]]\nid = "disk0"\nvia = "vhost-user"\nvirtio = "blk"\nsandbox = "none"\n' >> "$T/vm.toml"
    printf "exec = ['/bin/sh', '-c', '[ ! -e %s ] || { %s; }; : > %s; exec %s --fd={fd} --serial=disk0 --image %s']\n" \
        "$T/again" "$1" "$T/again" "$MINIVMM_BLK" "$T/disk.img" >> "$T/vm.toml"
    [ $# = 1 ] || printf '%s\n' "${@:2}" >> "$T/vm.toml"
}
scenario_restart_on_failure_P02() {
    local victim
    machine machine do=dead
    disk disk0 'restart = "on-failure"'
    disk disk1
    start
    wait_line ready
    victim=$(child disk0)
    kill -KILL "$victim"
    wait_for 5 other_child disk0 "$victim"
    check 'P02 restart = "on-failure": what is killed is not' wait_for 5 log_back
    kill -TERM "$(child disk0)"
    gone_for_good 'P02 restart = "on-failure": what ends well is done' 'exit status 0'
}
scenario_restart_back_off_P02() {
    local tries
    machine machine do=wait
    wrapped_disk "echo tried >> $T/tries; echo no disk today >&2; exit 3"
    start
    wait_line ready
    kill -KILL "$(child disk0)"
    sleep 4.5
    tries=$(wc -l < "$T/tries")
    kill -INT "$pid"
    finish 3
    check "P02 one that dies at once is tried after 0, 1, 2 ... s: $tries times in 4.5 s" [ "$tries" = 3 ]
    check 'P02 with its own words' log_has 'no disk today'
    check 'P02 the machine stops at once meanwhile' [ "$rc:$((took < 2000))" = 0:1 ]
}

scenario_killed_while_stopping_P01() {
    local i victim
    for i in 0 0.002 0.01; do
        machine machine do=wait
        two_disks
        start
        wait_line ready
        victim=$(child disk0)
        kill -INT "$pid"
        sleep "$i"
        kill -KILL "$victim" 2> /dev/null
        finish 5
        check "P01 a disk killed while the machine stops ($i s): exit status 0" [ "$rc" = 0 ]
    done
}

scenario_dies_before_ready_P01() {
    machine machine do=wait
    cat >> "$T/vm.toml" << 'END'
[[device]]
id = "disk0"
via = "vhost-user"
virtio = "blk"
exec = ["/bin/sh", "-c", "echo going down >&2; kill -KILL $$", "{fd}"]
sandbox = "none"
END
    start
    finish 5
    check 'P01 a device that dies before it is ready: refused' [ "$rc" = 1 ]
    check 'P07 with its own words' log_has 'going down'
}

scenario_paused_P03() {
    local victim
    machine machine do=paused
    two_disks
    start
    wait_line ready
    victim=$(child disk0)
    kill -STOP "$victim"
    tell go
    wait_line waiting
    sleep 0.2
    kill -CONT "$victim"
    finish
    report
}

scenario_stopped_then_quit_P03() {
    machine machine do=wait
    two_disks
    start
    wait_line ready
    kill -STOP "$(child disk0)"
    kill -INT "$pid"
    finish 8
    check 'P03 the machine stops although a device is stopped' [ "$rc:$((took < 5000))" = 0:1 ]
}

# A program that takes the connection and never answers.
scenario_long_never_ready_P03() {
    machine machine do=wait
    cat >> "$T/vm.toml" << 'END'
[[device]]
id = "disk0"
via = "vhost-user"
virtio = "blk"
exec = ["/bin/sh", "-c", "exec sleep 60", "{fd}"]
sandbox = "none"
END
    start
    finish
    check 'P03 a device that is never ready: refused' [ "$rc" = 1 ]
    check 'P03 at the deadline, 10 s' [ "$took" -gt 9000 -a "$took" -lt 14000 ]
    check 'P03 with what it waited for' log_has 'does not answer'
}

scenario_descriptors_G14() {
    local before after victim
    machine machine do=storm
    two_disks
    start
    wait_line ready
    if ! ls "/proc/$pid/fd" > /dev/null 2>&1; then
        skip 'G14 resets cost no descriptor' 'not allowed to look'
        kill -INT "$pid"
        return
    fi
    victim=$(child disk0)
    before=$(open_fds "$pid"):$(open_fds "$victim")
    tell go
    wait_line stormed
    after=$(open_fds "$pid"):$(open_fds "$victim")
    tell end
    finish
    report
    check "G14 resets cost no descriptor ($before and $after)" [ "$before" = "$after" ]
}

scenario_long_stalled_reset_G14() {
    machine machine "do=stalled ${1:-}"
    disk disk0 'queues = 2' "restart = \"${2:-never}\""
    disk disk1
    start
    wait_line ready
    kill -STOP "$(child disk0)"
    tell go
    finish
    report
    check 'G14 by its deadline, 10 s' [ "$took" -gt 9000 -a "$took" -lt 14000 ]
}
scenario_long_stalled_reset_and_again_P03() { scenario_long_stalled_reset_G14 again=1 always; }

# ---- jails -----------------------------------------------------------------------------------------------------

# A program that knows nothing of jails, in one.
jailed_disk() { # ID
    local romdisk
    romdisk=$(realpath "$here/../../docs/romdisk.py")
    truncate -s 4M "$T/$1.img"
    printf '[[device]]\nid = "%s"\nvia = "vhost-user"\nvirtio = "blk"\nexec = ["/usr/bin/python3", "%s", "--file=%s", "--fd={fd}"]\npaths = ["%s", "%s"]\n' \
        "$1" "$romdisk" "$T/$1.img" "$romdisk" "$T/$1.img" >> "$T/vm.toml"
}

scenario_doctor() {
    check 'doctor finds that machines can run' eval '"$MINIVMM" doctor > "$T/doctor"'
    check 'and that this KVM has all that is needed' grep -q '^ok kvm  .* all that minivmm needs; up to [0-9]* CPUs$' "$T/doctor"
    check 'and how fast it is' grep -Eq '^(ok|! ) kvm speed +[0-9]+ M instructions/s' "$T/doctor"
}

scenario_explain() {
    if [ "$(id -u)" != 0 ]; then
        skip 'explain says what is' 'only root can look into all processes'
        return
    fi
    machine machine do=wait 2
    disk disk0
    jailed_disk rom0
    printf '[[device]]\nid = "con"\nvirtio = "console"\nports = ["a=pty", "b=socket:%s/b.sock", "c=file:%s/c.log"]\n' "$T" "$T" >> "$T/vm.toml"
    printf '[[device]]\nid = "v"\nvirtio = "vsock"\ncid = 7\npath = "%s/v.sock"\n' "$T" >> "$T/vm.toml"
    start
    wait_line ready
    check 'what explain says is true of the processes' eval '"$here/lib/explain-check" "$MINIVMM" "$T/vm.toml" "$pid" >> "$T/log"'
    local first
    first=$(pgrep -P "$pid" -f romdisk)
    kill -KILL "$first"
    check 'the jailed program comes back' wait_for 5 eval 'second=$(pgrep -P "$pid" -f romdisk) && [ "$second" != "$first" ] && log_has "rom0: /usr/bin/python3 is back after"'
    check 'into the same jail' eval '"$here/lib/explain-check" "$MINIVMM" "$T/vm.toml" "$pid" >> "$T/log"'
    kill -INT "$pid"
    finish 5
}

scenario_explain_serial_socket() {
    if [ "$(id -u)" != 0 ]; then
        skip 'explain says who keeps sockets' 'only root can look into all processes'
        return
    fi
    machine machine do=wait
    printf '[serial]\nto = "unix:%s/serial.sock"\n' "$T" >> "$T/vm.toml"
    disk own
    foreign_disk listen
    start
    wait_for 5 grep -q "00010000 .* $T/blk.sock\$" /proc/net/unix
    foreign_start listen
    check 'explain says who keeps sockets' wait_for 5 eval '"$here/lib/explain-check" "$MINIVMM" "$T/vm.toml" "$pid" > "$T/explained"'
    cat "$T/explained" >> "$T/log"
    kill -INT "$pid"
    finish 5
    wait "$blk" 2> /dev/null
    check 'and that they are gone at its end' [ ! -e "$T/serial.sock" -a ! -e "$T/blk.sock" ]
}

# Somebody without any right but to /dev/kvm runs a machine, and its devices are in jails.
scenario_ordinary_user() {
    local as=(setpriv --reuid=1000 --regid=1000 --groups="$(stat -c %g /dev/kvm)" --inh-caps=-all --bounding-set=-all)
    if [ "$(id -u)" != 0 ] || ! "${as[@]}" test -x "$MINIVMM" -a -r "$here/../../docs/romdisk.py"; then
        skip 'an ordinary user runs a machine' 'not root, or no other user gets to this tree'
        return
    fi
    machine machine do=wait 1
    disk disk0
    jailed_disk rom0
    chmod go+x "$WORK" && chmod -R go+rX "$T" && chown 1000 "$T"/*.img
    if ! "${as[@]}" test -w /dev/kvm; then
        # A node of its own, where the machine's lets root only.
        mknod -m 600 "$T/kvm" c 10 232 && chown 1000 "$T/kvm" && touch "$T/own-kvm"
    fi
    printf '#!/bin/bash\nexec %s "%s" "$@"\n' "${as[*]}" "$MINIVMM" > "$T/as-user"
    [ ! -e "$T/own-kvm" ] || sed -i "s,^exec ,exec unshare -m --propagation private bash -c 'mount --bind \"\$0\" /dev/kvm; exec \"\$@\"' $T/kvm ," "$T/as-user"
    chmod +x "$T/as-user"
    MINIVMM=$T/as-user start
    wait_line ready
    check 'the monitor is an ordinary user' [ "$(ps -o uid= -p "$pid" | tr -d ' ')" = 1000 ]
    check 'it has two devices and a spawner' [ "$(pgrep -c -P "$pid")" = 3 ]
    local p
    for p in $(pgrep -P "$pid" -f 'romdisk|serial='); do
        check "process $p is jailed" grep -qzP 'NoNewPrivs:\t1\nSeccomp:\t2' "/proc/$p/status"
        check "and in a user name space" [ "$(readlink "/proc/$p/ns/user")" != "$(readlink /proc/self/ns/user)" ]
    done
    kill -INT "$pid"
    finish 5
}

# hostile_disk [LINE]...: a disk whose program, before it serves, leaves processes that ignore all they can, in sessions of their own, and executes itself
# from a second thread, which rids it of the signal that comes with its parent's death; or does that and then sleeps, while there is $T/sleeps.
hostile_disk() {
    local romdisk
    romdisk=$(realpath "$here/../../docs/romdisk.py")
    cat > "$T/hostile.py" << 'END'
import ctypes, os, signal, sys, threading, time
def deaf():
    for s in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
        signal.signal(s, signal.SIG_IGN)
for fd in (0, 3):  # with and without the connection
    if os.fork() == 0:
        os.setsid()
        deaf()
        if os.fork() == 0:
            os.close(fd)
        time.sleep(600)
deaf()
ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG
serve = "" if os.path.exists(sys.argv[2]) else "runpy.run_path(sys.argv[0], run_name='__main__')"
again = f"import runpy, sys, time\nsys.argv = sys.argv[1:]\ntry: {serve or 'pass'}\nfinally: time.sleep(600)"
threading.Thread(target=os.execv, args=(sys.argv[1], ["/usr/bin/python3", "-c", again, *sys.argv[3:]])).start()
time.sleep(600)
END
    truncate -s 4M "$T/rom0.img"
    disks+=("$T/rom0.img")
    printf '[[device]]\nid = "rom0"\nvia = "vhost-user"\nvirtio = "blk"\nexec = ["/usr/bin/python3", "%s", "%s", "%s", "%s", "--file=%s", "--fd={fd}"]\npaths = ["%s", "%s", "%s"]\n' \
        "$T/hostile.py" "$(realpath /usr/bin/python3)" "$T/sleeps" "$romdisk" "$T/rom0.img" "$romdisk" "$T" "$T/rom0.img" >> "$T/vm.toml"
    [ $# = 0 ] || printf '%s\n' "$@" >> "$T/vm.toml"
}
hostile() { pgrep -f -- "--file=$T/rom0.img"; }
hostile_runs() { [ "$(hostile | wc -l)" = 5 ] && ! pgrep -f "^/usr/bin/python3 $T/hostile.py" -P "$pid" > /dev/null; }
jail_keeper() {
    local p
    for p in $(pgrep -x jail-keeper); do
        ! grep -qzxF "$T/vm.toml" "/proc/$p/cmdline" || echo "$p"
    done
}
no_hostile() { ! hostile > /dev/null; }

scenario_killed_with_hostile_programs_P04() {
    local first
    machine machine do=wait
    hostile_disk
    start
    wait_line ready
    check 'P04 a program that executes itself from a second thread' wait_for 5 hostile_runs
    kill -KILL "$pid"
    finish 5
    check 'P04 ends with a killed monitor, and all that it left behind' wait_for 1 no_hostile
    check 'P04 so does the process that saw to it' wait_for 1 eval '! pgrep -f -- "^$MINIVMM -v -c $T/vm.toml"'

    rm "$T/in" "$T/console"
    start
    wait_line ready
    first=$(pgrep -P "$pid" -f romdisk)
    kill -KILL "$first"
    check 'P04 one that the spawner has started' wait_for 5 log_has 'rom0: /usr/bin/python3 is back after'
    check 'P04 is as hostile' wait_for 5 hostile_runs
    kill -KILL "$pid"
    finish 5
    check 'P04 and ends with a killed monitor' wait_for 1 no_hostile

    rm "$T/in" "$T/console"
    : > "$T/sleeps"
    start
    check 'P04 one that never serves' wait_for 5 hostile_runs
    kill -KILL "$pid"
    finish 5
    check 'P04 ends with a monitor that is killed before the machine is sealed' wait_for 1 no_hostile
}

scenario_killed_while_learning_P04() {
    machine machine do=wait
    hostile_disk "sandbox = { learn = '$T/learned.toml' }" 'restart = "never"'
    start
    wait_line ready
    check 'P04 learn: a program that may do anything' wait_for 5 hostile_runs
    kill -KILL "$pid"
    finish 5
    check 'P04 learn: ends with a killed monitor' wait_for 1 no_hostile
    check 'P04 learn: its profile is written' wait_for 5 test -s "$T/learned.toml"
}

scenario_jail_keeper_killed_P04() {
    local keeper
    machine machine do=wait
    hostile_disk
    start
    wait_line ready
    check 'P04 without the spawner' kill -KILL "$(spawner)"
    wait_for 2 log_has 'stays dead'
    kill -KILL "$pid"
    finish 5
    check 'P04 a hostile program ends with the monitor' wait_for 1 no_hostile

    rm "$T/in" "$T/console"
    start
    wait_line ready
    keeper=$(jail_keeper)
    check 'P04 the keeper of jails is killed' kill -KILL "$keeper"
    check 'P04 which is said' wait_for 2 log_has 'the process that would end programs with minivmm has ended'
    kill -KILL "$(pgrep -P "$pid" -f romdisk)"
    check 'P04 nothing is started that it does not hold' wait_for 5 log_has 'rom0: start /usr/bin/python3: tie it to its keeper: No such process'
    kill -INT "$pid"
    finish 5
    check 'P04 the machine ends well' [ "$rc" = 0 ]
    check 'P04 and all of it' wait_for 1 no_hostile
}

# A guest may write where another device's paths lie.  What it puts in their way is not followed when that device's program starts again.
scenario_long_jail_paths_do_not_move() {
    local name
    machine machine do=wait
    mkdir -p "$T/share/in" "$T/nest/in/deep" "$T/apart" "$T/real"
    for name in share/word share/in/word nest/in/deep/word; do echo its own > "$T/$name"; done
    echo of others > "$T/apart/word"
    echo linked > "$T/real/word"
    ln -s real "$T/link"
    cat > "$T/says.py" << 'END'
import runpy, sys
for name in "share/word", "share/in/word", "nest/in/deep/word", "link/word":
    print(name, "is", open(f"{sys.argv[1]}/{name}").read().strip(), file=sys.stderr, flush=True)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
END
    jailed_disk rom0
    name="\"$T/says.py\", \"$T/share/word:rw\", \"$T/share/in/word\", \"$T/nest:rw\", \"$T/nest/in/deep/word\", \"$T/link\""
    sed -i "s|^paths = \\[|&$name, |; s|\"/usr/bin/python3\", |&\"$T/says.py\", \"$T\", |" "$T/vm.toml"
    start
    wait_line ready
    check 'paths are shown, and one behind a link of the user'"'"'s' wait_for 2 log_has 'rom0: link/word is linked'
    mv "$T/share/word" "$T/share/was"
    ln -s "$T/apart/word" "$T/share/word"
    moved 'a link in the place of one is not followed' share/word
    rm "$T/share/word"
    echo its own, anew > "$T/share/word"
    back 'another file there is shown' 'share/word is its own, anew'
    mv "$T/share/in" "$T/share/was.in"
    ln -s "$T/apart" "$T/share/in"
    moved 'nor is one on the way' share/in/word
    rm "$T/share/in"
    mv "$T/share/was.in" "$T/share/in"
    back 'what was there before is shown' 'link/word is linked'
    mv "$T/nest/in" "$T/nest/was"
    ln -s "$T/apart" "$T/nest/in"
    moved 'nor one on the way into the jail' nest/in/deep/word
    check 'and nothing is made behind it' [ ! -e "$T/apart/deep" ]
    kill -INT "$pid"
    finish 5
}
moved() { # NAME PATH
    sleep 1.1 # one that has served comes back without a pause
    kill -KILL "$(pgrep -P "$pid" -f romdisk)"
    check "$1" wait_for 5 log_has "rom0: start /usr/bin/python3: put it into its jail: show $T/$2: Too many levels of symbolic links (a symbolic link has come into its way since minivmm started); starting it again"
    check 'and nothing of others was read' eval '! log_has "of others"'
}
back() { # NAME LINE
    : > "$T/log"
    check "$1" wait_for 10 eval "log_has '$2' && log_has 'rom0: /usr/bin/python3 is back after'"
}

# A program that only knows how to listen at a path does that in its jail, and is reached there.
scenario_listens_in_its_jail() {
    machine machine do=wait
    jailed_disk rom0
    sed -i 's/"--fd={fd}"/"--socket-path={socket}"/' "$T/vm.toml"
    start
    wait_line ready
    local first
    first=$(pgrep -P "$pid" -f romdisk)
    check 'its path is nowhere on the host' [ ! -e /run/vhost-user ]
    kill -KILL "$first"
    check 'and so it is after its end' wait_for 5 log_has 'rom0: /usr/bin/python3 is back after'
    kill -INT "$pid"
    finish 5
    check 'the machine ends well' [ "$rc" = 0 ]
}

# What it makes there is its own, but does not lead the monitor to a socket of the host's.
scenario_jail_link_at_its_socket() {
    machine machine do=wait
    giving_back_end doorbell-back-end
    printf '[[device]]\nid = "bad0"\nvia = "vhost-user"\nvirtio = "blk"\nexec = ["/usr/bin/python3", "-c", "%s"]\n' \
        "import os, time; os.symlink('$T/bad.sock', '/run/vhost-user/socket'); time.sleep(60) # {socket}" >> "$T/vm.toml"
    start
    finish 15
    check 'exit status 1' [ "$rc" = 1 ]
    check 'the sentence says what it is' log_has 'bad0: start /usr/bin/python3: what it made at its {socket} is no socket'
    bad_end
}

# What a jail kills at its start is a machine that does not start, and says why.
scenario_jail_kills_P08() {
    machine machine do=wait
    printf '[[device]]\nid = "bad0"\nvia = "vhost-user"\nvirtio = "blk"\nexec = ["/usr/bin/python3", "-c", "%s"]\n' \
        'import ctypes; ctypes.CDLL(None).unshare(0x10000000) # {fd}' >> "$T/vm.toml"
    start
    finish 5
    check 'P08 exit status 1' [ "$rc" = 1 ]
    check 'P08 the sentence says that its sandbox killed it' log_has 'bad0: /usr/bin/python3: killed by seccomp: a system call that its sandbox forbids'
}

# K08: a host without name spaces.  The machine does not start; with vm.insecure it does, and says so.
scenario_no_name_spaces_K08() {
    if ! unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && test -w /dev/kvm' 2> /dev/null; then
        skip 'K08 a host without name spaces' 'none can be made here to take them away in'
        return
    fi
    machine machine do=wait
    jailed_disk rom0
    printf '#!/bin/bash\nexec unshare -Ur sh -c "echo 0 > /proc/sys/user/max_user_namespaces; exec \\"\\$@\\"" sh "%s" "$@"\n' "$MINIVMM" > "$T/without"
    chmod +x "$T/without"
    MINIVMM=$T/without start
    finish 5
    check 'K08 refused' [ "$rc" = 1 ]
    check 'K08 with the mend' log_has 'make its name spaces: No space left on device (raise sysctl user.max_user_namespaces)'
    rm "$T/in" "$T/log"
    MINIVMM=$T/without start --set vm.insecure=true
    wait_line ready
    check 'K08 insecure: it runs, and says so' log_has 'rom0: WITHOUT isolation: start /usr/bin/python3: make its name spaces'
    kill -INT "$pid"
    finish 5
}
