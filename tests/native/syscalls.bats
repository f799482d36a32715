# Sandbox tables against what the programs really call: a row that no run needs is a hole with a reason.
# Needs strace; no KVM, no root.

setup() {
    TOP=$(realpath "$BATS_TEST_DIRNAME/../..")
    BIN=${MINIVMM_BIN:-$TOP}
    D=$(mktemp -d "$BATS_TEST_TMPDIR/XXXXXX")
    command -v strace > /dev/null || skip "strace is not installed"
    strace -o /dev/null true 2> /dev/null || skip "strace may not trace here"
}

# A typical life of minivmm-blk: two front-ends, every kind of request, SIGTERM.
blk_life() { # ENGINE
    local tracer=
    truncate -s 1M "$D/$1.img"
    timeout 60 strace -f -e raw=all -o "$D/$1.strace" "$BIN/minivmm-blk" -v --engine "$1" --socket-path "$D/$1.sock" \
        --image "$D/$1.img" 2> "$D/$1.log" 3>&- &
    tracer=$!
    for _ in $(seq 100); do
        [ -S "$D/$1.sock" ] && break
        sleep 0.1
    done
    timeout 40 "$TOP/tests/native/blk-front-end" "$D/$1.sock"
    pkill -TERM -P "$(pgrep -P "$tracer")"
    wait "$tracer"
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
