# minivmm-switch with front-ends of ours, in a network name space of the test's own: switch-front-end has the scenarios.
# The uplink needs /dev/net/tun; no KVM.
bats_require_minimum_version 1.5.0

setup() {
    TOP=$(realpath "$BATS_TEST_DIRNAME/../..")
    BIN=${MINIVMM_BIN:-$TOP}
    D=$(mktemp -d "$BATS_TEST_TMPDIR/XXXXXX")
    [ -x "$BIN/minivmm-switch" ] || skip "minivmm-switch is not built"
    unshare -rn true 2> /dev/null || skip "no name spaces on this host"
}

scenario() { # NAME
    timeout 100 "$TOP/tests/native/switch-front-end" "$BIN/minivmm-switch" "$D/sock" "$1"
    [ ! -e "$D/sock" ]
}

@test "two drivers of every kind talk, a third hears what is for all and nothing else" {
    scenario two
}

@test "eight drivers: each with each, and one to all" {
    scenario eight
}

@test "thousands of frames: none lost, none twice, in order" {
    scenario many
}

@test "a frame in many small buffers, in pieces, in buffers that are too small" {
    scenario merged
}

@test "open checksums and TCP segments, for who takes them and for who does not" {
    scenario offloads
}

@test "who has no buffers loses frames, nobody waits, no wake-up is lost" {
    scenario no_buffers
}

@test "rings that break the rules (G22-G26) stop their own port" {
    scenario hostile
}

@test "half a message, none, garbage, unread replies: nobody else is held up" {
    scenario mute
}

@test "a front-end that floods is killed, five times" {
    scenario killed
}

@test "guest memory is truncated in the middle: that port is closed" {
    scenario truncated
}

@test "guest memory that a file system could hold up is refused" {
    scenario files
}

@test "made-up and stolen addresses take nothing from anybody" {
    scenario forged
}

@test "frames to all are limited for each port" {
    scenario flood
}

@test "a hundred ports come and go" {
    scenario restarted
}

@test "it sleeps when there is nothing to do; --poll looks all the time, on --cpus" {
    scenario sleeps
}

@test "uplink tap: ARP, ping and UDP, and it goes away" {
    [ -w /dev/net/tun ] || skip "no access to /dev/net/tun"
    command -v ip > /dev/null || skip "iproute2 is not installed"
    scenario uplink
}

@test "what cannot work is refused in one sentence" {
    scenario refused
}

@test "it needs each row of its system call table, and nothing else" {
    command -v strace > /dev/null || skip "strace is not installed"
    strace -o /dev/null true 2> /dev/null || skip "strace may not trace here"
    [ -w /dev/net/tun ] || skip "no access to /dev/net/tun"
    "$BIN/minivmm-switch" --print-syscalls > "$D/table"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nexec strace -D -o "%s/strace.$$" -f -e raw=all "%s" "$@"\n' "$D" "$BIN/minivmm-switch" > "$D/traced"
    chmod +x "$D/traced"
    timeout 100 "$TOP/tests/native/switch-front-end" "$D/traced" "$D/sock" two truncated uplink
    sleep 1 # strace writes on when its program has ended
    "$TOP/tests/native/unused-rules" "$D/table" "$D"/strace.*
}
