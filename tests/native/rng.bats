# minivmm-rng against a front-end of ours, without a virtual machine.  No root, no KVM.
bats_require_minimum_version 1.5.0

setup() {
    TOP=$(realpath "$BATS_TEST_DIRNAME/../..")
    BIN=${MINIVMM_BIN:-$TOP}
    D=$(mktemp -d "$BATS_TEST_TMPDIR/XXXXXX")
    S=$D/sock
    [ -x "$BIN/minivmm-rng" ] || skip "minivmm-rng is not built"
    rng=
}

teardown() {
    [ -z "$rng" ] || kill -KILL "$rng" 2> /dev/null || true
}

serve() { # ARG...
    "$BIN/minivmm-rng" --socket-path "$S" "$@" 2> "$D/log" 3>&- &
    rng=$!
    for _ in $(seq 100); do
        ! grep -q " 00010000 .* $S\$" /proc/net/unix || return 0
        sleep 0.05
    done
    cat "$D/log"
    return 1
}

finish() {
    local status=0
    kill -TERM "$rng"
    wait "$rng" || status=$?
    rng=
    cat "$D/log"
    [ "$status" = 0 ]
}

@test "random bytes in buffers of all shapes; rings that break the rules (G22-G28)" {
    serve
    timeout 60 "$TOP/tests/native/rng-front-end" "$S"
    finish
    [ "$(wc -l < "$D/log")" -lt 15 ] # logs at a rate
}

@test "a rate is kept" {
    serve --rate=20000
    timeout 60 "$TOP/tests/native/rng-front-end" "$S" 20000
    finish
}

@test "what it says of itself, and what it refuses" {
    run -0 --separate-stderr "$BIN/minivmm-rng" --print-capabilities
    python3 -c 'import json, sys; assert json.loads(sys.argv[1])["type"] == "rng"' "$output"
    run -2 timeout 10 "$BIN/minivmm-rng" --socket-path "$S" --rate 0
    [[ $output == *"not a number from 1"* ]]
    run -2 timeout 10 "$BIN/minivmm-rng"
    run -2 timeout 10 "$BIN/minivmm-rng" --socket-path "$S" --image x
    [ ! -e "$S" ]
}

@test "it needs each row of its system call table, and nothing else" {
    command -v strace > /dev/null || skip "strace is not installed"
    strace -o /dev/null true 2> /dev/null || skip "strace may not trace here"
    "$BIN/minivmm-rng" --print-syscalls > "$D/table"
    strace -f -e raw=all -o "$D/strace" "$BIN/minivmm-rng" --rate 50000 --socket-path "$S" -v 2> "$D/log" 3>&- &
    local tracer=$!
    for _ in $(seq 100); do
        ! grep -q " 00010000 .* $S\$" /proc/net/unix || break
        sleep 0.1
    done
    timeout 60 "$TOP/tests/native/rng-front-end" "$S" 50000
    pkill -TERM -P "$tracer"
    wait "$tracer"
    "$TOP/tests/native/unused-rules" "$D/table" "$D/strace"
}
