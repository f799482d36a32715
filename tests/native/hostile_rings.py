"""Rings that break the rules, rows G22 to G26: each must stop its queue, set NEEDS_RESET, and leave the device fit for the next driver.

run(connect, index, writable): `connect` gives a started FrontEnd, of whose queues `index` is attacked; `writable` says which kind of
buffer that queue takes.
"""

import struct

from vhost_user import INDIRECT_DESC, NEEDS_RESET, NEXT, WRITABLE, GET_STATUS


def table(q, at, entries):
    for i, (gpa, length, flags, following) in enumerate(entries):
        struct.pack_into("<QIHH", q.fe.ram, at + 16 * i, gpa, length, flags, following)


def rows(q, ok, bad):
    """Name -> what writes it; `ok` is the flag of a right buffer, `bad` of a wrong one."""
    data, size, ram = q.data, q.size, len(q.fe.ram)
    one = lambda *d: lambda: q.descriptor(0, *d)

    def chain(*descriptors):
        def write():
            for i, d in enumerate(descriptors):
                q.descriptor(i, *d)
        return write

    def indirect(length, *entries):
        def write():
            table(q, data + 4096, entries)
            q.descriptor(0, data + 4096, length, INDIRECT_DESC)
        return write

    return {
        "loop": chain((data, 16, ok | NEXT, 1), (data, 16, ok | NEXT, 0)),
        "next beyond the queue": one(data, 16, ok | NEXT, size),
        "length 0": one(data, 0, ok),
        "length 2^32 - 1": one(data, 0xFFFFFFFF, ok),
        "address that wraps": one(2**64 - 16, 32, ok),
        "beyond memory": one(ram, 16, ok),
        "the end of memory and more": one(ram - 16, 32, ok),
        "a device's registers": one(0xFEE00000, 16, ok),
        "indirect in indirect": indirect(16, (data, 16, INDIRECT_DESC, 0)),
        "indirect of 15 bytes": indirect(15, (data, 16, ok, 0)),
        "indirect with NEXT": one(data, 16, INDIRECT_DESC | NEXT, 1),
        "indirect outside memory": one(ram + 4096, 16, INDIRECT_DESC),
        "indirect loop": indirect(32, (data, 16, ok | NEXT, 1), (data, 16, ok | NEXT, 0)),
        "indirect next beyond": indirect(16, (data, 16, ok | NEXT, 7)),
        "readable after writable": chain((data, 16, WRITABLE | NEXT, 1), (data, 16, 0)),
        "the wrong kind of buffer": one(data, 16, bad),
    }


def expect_failure(fe, q):
    assert q.failed(), "the queue goes on"
    assert fe.u64(GET_STATUS) & NEEDS_RESET
    assert fe.read_index(q.used_at + 2) == q.used_idx, "something came back"


def run(connect, index, writable):
    ok, bad = (WRITABLE, 0) if writable else (0, WRITABLE)
    fe = connect()
    names = list(rows(fe.queues[index], ok, bad))
    fe.close()
    for name in names:
        fe = connect()
        q = fe.queues[index]
        rows(q, ok, bad)[name]()
        q.publish(0)
        q.ring()
        try:
            expect_failure(fe, q)
        except AssertionError as why:
            raise AssertionError(f"{name}: {why}") from None
        fe.close()
    for name, head, step in (("head beyond the queue", 4096, 1), ("index jumps", 0, 4000), ("index goes back", 0, -1)):
        fe = connect()
        q = fe.queues[index]
        q.descriptor(0, q.data, 16, ok)
        q.publish(head, step)
        q.ring()
        try:
            expect_failure(fe, q)
        except AssertionError as why:
            raise AssertionError(f"{name}: {why}") from None
        fe.close()
    return len(names) + 3
