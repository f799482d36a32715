# The other socket role: a device that connects to a front-end which listens.  No root, no KVM.
load helpers

setup() {
    common minivmm-blk
    truncate -s 1M "$D/img"
}

listener() { # SECONDS before it listens: accepts one back-end, asks for its features, leaves
    PYTHONPATH=$TOP/tests/native timeout 30 python3 -c '
import socket, sys, time
from vhost_user import GET_FEATURES, FrontEnd
time.sleep(float(sys.argv[2]))
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
s.settimeout(20)
fe = FrontEnd.__new__(FrontEnd)
fe.sock, fe.queues = s.accept()[0], {}
assert fe.u64(GET_FEATURES) >> 32 & 1
fe.close()' "$D/sock" "$1"
}

@test "--connect: a device connects to a front-end that begins to listen later, and ends with it" {
    listener 0.5 3>&- &
    run -0 timeout 20 "$BIN/minivmm-blk" --image "$D/img" --connect "$D/sock"
    wait $!
    [ -S "$D/sock" ] # its file is not the device's to remove
}

@test "--connect: a place where nobody can listen is refused at once, and so is a second place" {
    run -1 timeout 5 "$BIN/minivmm-blk" --image "$D/img" --connect "$D/$(printf 'x%.0s' {1..120})"
    [[ $output == *"at most 107 bytes"* ]]
    run -1 timeout 5 "$BIN/minivmm-blk" --image "$D/img" --connect "$D/img/sock"
    [[ $output == *"Not a directory"* ]]
    run -2 "$BIN/minivmm-blk" --image "$D/img" --connect "$D/sock" --fd 3
    [[ $output == *"exclude each other"* ]]
}
