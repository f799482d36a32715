# minivmm-rng against a front-end of ours, without a virtual machine.  No root, no KVM.
load helpers

setup() { common minivmm-rng; }

rng() { # ARG...
    serve "$BIN/minivmm-rng" --socket-path "$S" "$@"
}

@test "random bytes in buffers of all shapes; rings that break the rules (G22-G28)" {
    rng
    timeout 60 "$TOP/tests/native/rng-front-end" "$S"
    finish
    [ "$(wc -l < "$D/log")" -lt 15 ] # logs at a rate
}

@test "a rate is kept" {
    rng --rate=20000
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
    needs_strace
    "$BIN/minivmm-rng" --print-syscalls > "$D/table"
    strace -f -e raw=all -o "$D/strace" "$BIN/minivmm-rng" --rate 50000 --socket-path "$S" -v 2> "$D/log" 3>&- &
    local tracer=$!
    listening
    timeout 60 "$TOP/tests/native/rng-front-end" "$S" 50000
    pkill -TERM -P "$tracer"
    wait "$tracer"
    "$TOP/tests/native/unused-rules" "$D/table" "$D/strace"
}
