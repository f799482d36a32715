# Sandbox tables against what the programs really call: a row that no run needs is a hole with a reason.
# Needs strace; some KVM too; no root.
bats_require_minimum_version 1.8.0
load helpers

setup() {
    common
    tracer=
    needs_strace
}

# What a test that failed has left running.  strace hands on SIGTERM only, which a guest may ignore.
teardown() {
    [ -n "$tracer" ] || return 0
    pkill -KILL -P "$(pgrep -P "$tracer" strace)" || true
    kill -KILL "$tracer" 2> /dev/null || true
}

# A typical life of minivmm-blk: two front-ends, every kind of request, SIGTERM.
blk_life() { # ENGINE
    truncate -s 1M "$D/$1.img"
    timeout 60 strace -f -e raw=all -o "$D/$1.strace" "$BIN/minivmm-blk" -v --engine "$1" --socket-path "$D/$1.sock" \
        --image "$D/$1.img" 2> "$D/$1.log" 3>&- &
    tracer=$!
    listening "$D/$1.sock"
    timeout 40 "$TOP/tests/native/blk-front-end" "$D/$1.sock"
    pkill -TERM -P "$(pgrep -P "$tracer")"
    wait "$tracer"
    tracer=
}

@test "minivmm-blk needs each row of its table, and nothing else" {
    [ -x "$BIN/minivmm-blk" ] || skip "minivmm-blk is not built"
    "$BIN/minivmm-blk" --print-syscalls > "$D/table"
    # Two engines, one table.
    blk_life uring || { grep -q 'io_uring' "$D/uring.log" && skip "no io_uring on this host: $(tail -n 1 "$D/uring.log")"; }
    blk_life sync
    "$TOP/tests/native/unused-rules" "$D/table" "$D/uring.strace" "$D/sync.strace"
}

@test "a row too many and a row too few are noticed" {
    [ -x "$BIN/minivmm-blk" ] || skip "minivmm-blk is not built"
    blk_life sync
    "$BIN/minivmm-blk" --print-syscalls | grep -v io_uring_enter > "$D/table"
    "$TOP/tests/native/unused-rules" "$D/table" "$D/sync.strace"
    printf 'getcwd\t-\t-\tno reason at all\n' | cat "$D/table" - > "$D/more"
    run "$TOP/tests/native/unused-rules" "$D/more" "$D/sync.strace"
    [ "$status" -eq 1 ]
    [ "$output" = "never used: getcwd  -  -  no reason at all" ]
    grep -v '^pread64' "$D/table" > "$D/less"
    run "$TOP/tests/native/unused-rules" "$D/less" "$D/sync.strace"
    [ "$status" -eq 1 ]
    [ "$output" = "not in the table: pread64" ]
}

# A guest that does nothing but shut its processor down: the machine restarts again and again.
triple_fault_guest() {
    (cd "$D" && tiny_kernel 'lidt none; ud2; none: .word 0; .long 0')
}

@test "a sealed monitor restarts its machine and stops it within its tables" {
    [ "$(uname -m)" = x86_64 ] || skip "the guest is for x86_64"
    [ -w /dev/kvm ] || skip "no access to /dev/kvm"
    [ -x "$BIN/minivmm" ] || skip "minivmm is not built"
    triple_fault_guest
    truncate -s 1M "$D/disk.img"
    printf '[vm]\ncpus = 2\nmemory = "64M"\n[boot]\nkernel = "kernel"\n[serial]\nto = "none"\n' > "$D/vm.toml"
    printf '[[device]]\nid = "disk0"\nvirtio = "blk"\nimage = "disk.img"\n' >> "$D/vm.toml"
    cd "$D"
    timeout 60 strace -f -e raw=all -o strace "$BIN/minivmm" -c vm.toml 3>&- &
    tracer=$!
    local monitor='' sealed=0 status task
    for _ in $(seq 200); do # 0xae01: KVM_CREATE_VM
        [ "$(grep -c 'ioctl(.*, 0xae01,' strace 2> /dev/null)" -ge 4 ] && break
        sleep 0.1
    done
    monitor=$(pgrep -P "$(pgrep -P "$tracer" strace)" -x minivmm)
    for task in /proc/"$monitor"/task/*; do
        status=$(cat "$task/status" 2> /dev/null) || continue # KVM's own threads come and go with each VM
        grep -q '^Seccomp:.*2$' <<< "$status"
        grep -q '^NoNewPrivs:.*1$' <<< "$status"
        grep -q '^CapEff:.*0000000000000000$' <<< "$status"
        sealed=$((sealed + 1))
    done
    [ "$sealed" -ge 3 ]
    kill -INT "$monitor"
    wait "$tracer"
    tracer=
    [ "$(grep -c 'ioctl(.*, 0xae01,' strace)" -ge 4 ]
    { "$BIN/minivmm" --print-syscalls; "$BIN/minivmm-blk" --print-syscalls; } > table
    run "$TOP/tests/native/unused-rules" table strace
    [[ $output != *"not in the table"* ]]
}

@test "a kernel without Landlock: said once by a program on its own and by a monitor for all, and by explain for each" {
    local without=$TOP/build/release/tests/native/without
    truncate -s 1M "$D/disk.img"
    "$without" landlock_create_ruleset "$BIN/minivmm-blk" --image "$D/disk.img" --vhost-user "$D/blk.sock" 2> "$D/log" 3>&- &
    local pid=$!
    for _ in $(seq 100); do [ ! -s "$D/log" ] || break; sleep 0.05; done
    kill "$pid"
    wait "$pid"
    [ "$(grep -c 'no Landlock in this kernel' "$D/log")" = 1 ]
    "$BIN/minivmm-blk" --image "$D/disk.img" --vhost-user "$D/blk.sock" 2> "$D/log" 3>&- &
    pid=$!
    listening "$D/blk.sock"
    kill "$pid"
    wait "$pid"
    [ ! -s "$D/log" ]

    printf '[vm]\nmemory = "64M"\non_reboot = "exit"\n[boot]\nkernel = "kernel"\n' > "$D/vm.toml"
    printf '[[device]]\nid = "disk%s"\nvirtio = "blk"\nimage = "disk.img"\nreadonly = true\n' 0 1 >> "$D/vm.toml"
    run -0 "$without" landlock_create_ruleset "$BIN/minivmm" explain -c "$D/vm.toml"
    [ "$(grep -c '^  landlock    NONE: this kernel has none' <<< "$output")" = 3 ]
    run -0 "$BIN/minivmm" explain -c "$D/vm.toml"
    ! grep -q '^  landlock    NONE' <<< "$output" || false
    [ -w /dev/kvm ] || return 0
    triple_fault_guest
    run timeout 60 "$without" landlock_create_ruleset "$BIN/minivmm" -c "$D/vm.toml"
    [ "$(grep -c 'no Landlock in this kernel' <<< "$output")" = 1 ]
    run timeout 60 "$BIN/minivmm" -c "$D/vm.toml"
    [[ $output != *Landlock* ]]
}
