# The terminal of serial.to = "stdio" is as before whatever way a sealed monitor ends, short of SIGKILL.

load helpers

setup() {
    common minivmm
    needs_kvm
    [ "$(uname -m)" = x86_64 ] || skip "the guest is for x86_64"
    cd "$D"
    tiny_kernel
    printf '[vm]\ncpus = 2\nmemory = "64M"\n[boot]\nkernel = "kernel"\n' > vm.toml
}

# How it ends when SIGNAL comes to the thread number WHICH (0: the loop's) or, with "keys", Ctrl-A x is typed.
ends() { # WHICH SIGNAL EXPECTED-STATUS
    timeout 30 python3 - "$BIN/minivmm" "$@" << 'END'
import ctypes, os, pty, subprocess, sys, termios, time
program, which, what, expected = sys.argv[1:]
master, slave = pty.openpty()
before = termios.tcgetattr(slave)
p = subprocess.Popen([program, "-c", "vm.toml", "-q"], stdin=slave, stdout=slave, stderr=subprocess.PIPE)
for _ in range(200):
    tasks = sorted(int(t) for t in os.listdir(f"/proc/{p.pid}/task"))
    sealed = all("Seccomp:\t2" in open(f"/proc/{p.pid}/task/{t}/status").read() for t in tasks[:3])
    raw = not termios.tcgetattr(slave)[3] & termios.ICANON
    if raw and sealed and len(tasks) >= 3:
        break
    time.sleep(0.05)
else:
    p.kill()
    sys.exit(f"never ran: {p.stderr.read()}")
if what == "keys":
    os.write(master, b"\x01x")
else:
    ctypes.CDLL(None).syscall(234, p.pid, tasks[int(which)], int(what))  # tgkill
try:
    status = p.wait(10)
except subprocess.TimeoutExpired:
    p.kill()
    sys.exit("it does not end")
print(status, p.stderr.read().decode())
after = termios.tcgetattr(slave)
assert after == before, (before, after)
assert status == int(expected), status
END
}

@test "Ctrl-A x" {
    ends 0 keys 0
}

@test "SIGINT" {
    ends 0 2 0
}

@test "a fault in the loop's thread" {
    ends 0 11 -11
}

@test "a fault in a CPU's thread" {
    ends 1 11 -11
    ends 2 7 -7
}
