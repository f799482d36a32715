"""What the parts of the bench share: servers started, their processor time and memory, the load generator, rows of the table.

A part is an executable here: PART RELEASE MUSL WORK TREE prints rows, "what TAB ours TAB peer TAB goal TAB met TAB unit"; peer, goal and
met may be "-".  RELEASE and MUSL are folders of programs, WORK takes sockets and logs, TREE is the rig's Debian.
"""

import contextlib
import glob
import os
import re
import signal
import statistics
import subprocess
import sys
import time

RELEASE, MUSL, WORK, TREE = sys.argv[1:5]
HERE = os.path.dirname(os.path.realpath(__file__))
LOAD, UDP = WORK + "/load", WORK + "/udp"
SECONDS = "0.5"


def compile_load():
    for program in (LOAD, UDP):
        subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", f"-I{HERE}/../../..", "-o", program, f"{HERE}/../{os.path.basename(program)}.c"], check=True)


def in_tree(program, *args):
    lib = TREE + "/usr/lib/x86_64-linux-gnu"
    return [TREE + "/lib64/ld-linux-x86-64.so.2", "--argv0", program, "--library-path", lib + ":" + lib + "/pulseaudio",
            f"{TREE}/usr/bin/{program}", *args]


def family(pid):
    """A process and its descendants: our programs serve in a process of their own name spaces."""
    yield pid
    for task in glob.glob(f"/proc/{pid}/task/*/children"):
        with open(task) as f:
            for child in f.read().split():
                yield from family(int(child))


def cpu_seconds(servers):
    """By the processes' CPU clocks, which count ended threads too; see clock_getcpuclockid(3)."""
    return sum(time.clock_gettime(~p << 3 | 2) for s in servers for p in family(s.pid))


def pss_kb(server):
    """Of the server's processes, without the memory of guests."""
    total = 0
    for pid in family(server.pid):
        guest = False
        with open(f"/proc/{pid}/smaps") as f:
            for line in f:
                if re.match(r"[0-9a-f]+-", line):
                    guest = "memfd:" in line
                elif line.startswith("Pss:") and not guest:
                    total += int(line.split()[1])
    return total


@contextlib.contextmanager
def serving(*commands):
    """Servers, each as (socket, command)."""
    servers = []
    with open(WORK + "/parts.log", "a") as log:
        try:
            for sock, command in commands:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(sock)
                servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
                end = time.monotonic() + 20
                while not os.path.exists(sock):
                    if servers[-1].poll() is not None or time.monotonic() > end:
                        raise SystemExit(f"{command[0]} does not listen; see {log.name}")
                    time.sleep(0.02)
                time.sleep(0.05)  # bound, and then listening
            yield servers
        finally:
            for s in servers:
                s.send_signal(signal.SIGTERM)
            for s in servers:
                s.wait(20)


def load(servers, *words, program=None):
    """(requests or frames a second, microseconds of the servers' processor time for each, lost) of one run."""
    before = cpu_seconds(servers)
    out = subprocess.run([program or LOAD, *map(str, words), SECONDS], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
    cpu = cpu_seconds(servers) - before
    done, lost, seconds = re.match(r"done=(\d+) lost=(\d+) seconds=([\d.]+)", out).groups()
    return int(done) / float(seconds), cpu * 1e6 / max(int(done), 1), int(lost)


def median(runs):
    return tuple(statistics.median(v) for v in zip(*runs))


def row(what, ours, peer=None, goal="-", met=None, unit=""):
    print(what, ours, "-" if peer is None else peer, goal, "-" if met is None else "yes" if met else "NO", unit, sep="\t", flush=True)
