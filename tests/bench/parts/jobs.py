"""What the parts with Linux guests share: the same job by several ways, by turns, in one rig with one processor, or as many as asked for.

The clock is those processors': the CPU time of the outer QEMU's threads that emulate them.  So a figure is all that guest, monitor, back-end and
host did for a job, as an emulator's time; it is for ratios.  Other work on the machine does not count, though it cools the caches.
"""

import glob
import os
import re
import select
import shutil
import statistics
import subprocess
import time

from servers import HERE, RELEASE, WORK, family, row

TOP = os.path.realpath(HERE + "/../../..")
ROUNDS = 3  # and one before them, in which the emulator translates
LIMIT = 240  # seconds
RIG_FAILED = 125


def programs():
    folder = WORK + "/jobs"
    os.makedirs(folder, exist_ok=True)
    for program in ("minivmm", "minivmm-blk", "minivmm-net", "minivmm-nvme", "minivmm-switch"):
        shutil.copy(f"{RELEASE}/{program}", folder)
        subprocess.run(["strip", f"{folder}/{program}"], check=True)
    subprocess.run(["musl-gcc", "-static", "-O2", "-D_GNU_SOURCE", "-o", folder + "/traffic", HERE + "/../traffic.c"], check=True)
    for helper in ("hello.elf", "l1/probe"):  # which run has made
        shutil.copy(f"{WORK}/{helper}", folder)
    return folder


def processors(rig, count):
    """The files with the CPU time of the emulated processors."""
    found = []
    for pid in family(rig.pid):
        for comm in glob.glob(f"/proc/{pid}/task/*/comm"):
            with open(comm) as f:
                if re.match(r"CPU \d+/", f.read()):
                    found.append(os.path.dirname(comm) + "/schedstat")
    if len(found) != count:
        raise SystemExit(f"the outer QEMU has {len(found)} processors")
    return found


def cpu_us(clocks):
    total = 0
    for clock in clocks:
        with open(clock) as f:
            total += int(f.read().split()[0])
    return total / 1000


def lines(rig, what, end):
    buffer = b""
    while select.select([rig.stdout], [], [], max(0, end - time.monotonic()))[0]:
        got = os.read(rig.stdout.fileno(), 4096)
        if not got:
            return
        *whole, buffer = (buffer + got).split(b"\n")
        yield from (w.decode() for w in whole)
    rig.terminate()
    raise SystemExit(f"the rig was not done in {LIMIT} s; see {WORK}/{what}.log and {what}-rig")


def once(what, options, words, cpus):
    """(status of the rig, {job: [{name: value}]}): cpu_us, entries and what the job says."""
    command = [TOP + "/tests/rig/rig", "run", "-c", str(cpus), "-t", str(LIMIT - 30), "--ro", programs(), "-k", f"{WORK}/{what}-rig", *options, "--",
               TOP + "/tests/bench/jobs-l1", what, WORK + "/jobs", str(ROUNDS + 1), *map(str, words)]
    jobs, clocks = {}, []
    with (open(f"{WORK}/{what}.log", "w", buffering=1) as log,
          subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=TOP) as rig):
        for line in lines(rig, what, time.monotonic() + LIMIT):
            clocks = clocks or processors(rig, cpus)
            now = cpu_us(clocks)
            print(f"{time.monotonic():.2f} {now / 1e6:.2f} {line}", file=log)
            word, job, *_ = line.split(" ")
            if word == "B":
                begin = now
            else:
                jobs.setdefault(job, []).append({"cpu_us": now - begin} | {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line)})
    return rig.returncode, jobs


def measure(what, *words, options=(), cpus=1):
    """{job: {name: median}}, the marks' own part taken off."""
    status, jobs = once(what, options, words, cpus)
    if status == RIG_FAILED:  # which stands still now and then, whatever it runs
        status, jobs = once(what, options, words, cpus)
    if status:
        raise SystemExit(f"jobs-l1 {what} ended with status {status}")
    medians = {job: {name: statistics.median(r[name] for r in runs[1:]) for name in runs[0]} for job, runs in jobs.items()}
    marks = medians.pop("none")
    for job in medians.values():
        for name in set(marks) & set(job):
            job[name] -= marks[name]
    return medians
