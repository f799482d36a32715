"""Rings of both layouts that break the rules, rows G22 to G26: each must stop its queue, set NEEDS_RESET, and leave the device fit for the
next driver; and those that are only strange, G27 and G28.

run(connect, index, writable): `connect` gives a started FrontEnd, of whose queues `index` is attacked; `writable` says which kind of
buffer that queue takes.
"""

import os
import struct
import time

from vhost_user import (AVAILABLE, EVENT_IDX, GET_STATUS, INDIRECT_DESC, NEED_REPLY, NEEDS_RESET, NEXT, RING_PACKED, SET_VRING_ADDR, USED, USER,
                        WRITABLE, FrontEnd)


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


def packed_rows(q, ok, bad):
    """The same for a packed ring, where nothing points to a next descriptor."""
    data, ram = q.data, len(q.fe.ram)
    out = {name: write for name, write in rows(q, ok, bad).items()
           if name not in ("loop", "next beyond the queue", "indirect in indirect", "indirect loop", "indirect next beyond")}

    def chain(*descriptors):
        def write():
            for i, d in enumerate(descriptors):
                q.descriptor(i, *d)
            q.count = 1
        return write

    def indirect_in_chain():
        table(q, data + 4096, [(data, 16, ok, 0)])
        q.descriptor(0, data, 16, ok | NEXT)
        q.descriptor(1, data + 4096, 16, INDIRECT_DESC)

    def used_area():  # the device's own event suppression is a buffer: the driver's loss
        q.descriptor(0, q.used_at, 4, bad)

    out |= {
        "all of the ring": chain(*[(data, 16, ok | NEXT)] * q.size),
        "a chain that is not available": chain((data, 16, ok | NEXT), (data, 16, ok ^ AVAILABLE ^ USED)),
        "a chain into what was never written": chain((data, 16, ok | NEXT)),
        "indirect after direct": indirect_in_chain,
        "indirect table longer than any": lambda: q.descriptor(0, data, 16 * 2048, INDIRECT_DESC),
        "its own event suppression": used_area,
        "the ring itself, and more": lambda: q.descriptor(0, ram - 8, 16, ok),
    }
    return out


def expect_failure(fe, q):
    assert q.failed(), "the queue goes on"
    assert fe.u64(GET_STATUS) & NEEDS_RESET
    assert not q.came_back(), "something came back"


def each(connect, index, ok, bad, table_of):
    fe = connect()
    names = list(table_of(fe.queues[index], ok, bad))
    fe.close()
    for name in names:
        fe = connect()
        q = fe.queues[index]
        table_of(q, ok, bad)[name]()
        q.publish(0)
        q.ring()
        try:
            expect_failure(fe, q)
        except AssertionError as why:
            raise AssertionError(f"{name}: {why}") from None
        fe.close()
    return len(names)


def run_packed(connect, index, writable):
    FrontEnd.always = RING_PACKED
    try:
        return each(connect, index, *((WRITABLE, 0) if writable else (0, WRITABLE)), packed_rows)
    finally:
        FrontEnd.always = 0


def used_over(connect, index, ok):
    """G27: the used ring lies over another part of this queue, or over another queue.  It is the driver's memory to spoil, and the device,
    if it takes that, serves on or gives the queue up: it answers, and is fit for the next driver."""
    other = lambda q: next((o for o in q.fe.queues.values() if o is not q), q)
    places = (lambda q: q.desc, lambda q: q.desc + 64, lambda q: q.avail & ~3, lambda q: q.data, lambda q: other(q).desc,
              lambda q: other(q).used_at)
    for place in places:
        fe = connect()
        q = fe.queues[index]
        q.stop()
        q.jump(0)
        used, q.used_at = q.used_at, place(q)
        addr = struct.pack("<IIQQQQ", index, 0, USER + q.desc, USER + q.used_at, USER + q.avail, 0)
        taken = struct.unpack("<Q", fe.ask(SET_VRING_ADDR, addr, flags=NEED_REPLY))[0] == 0
        q.used_at = used if not taken else q.used_at
        if taken:
            q.start()
            for i in range(4):
                q.descriptor(i, q.data, 64, ok)
                q.publish(i)
            q.ring()
        for _ in range(3):
            fe.u64(GET_STATUS)  # it is there
        fe.close()
    return len(places)


def events(connect, index, piece):
    """G28: the index at which the driver wants to be told is anywhere.  What it offers is served all the same; once it asks for the next
    one it is told of it; and a device without work sleeps.  `piece`: the bytes of a request, or the size of a buffer to fill."""
    FrontEnd.always = EVENT_IDX
    try:
        fe = connect()
    finally:
        FrontEnd.always = 0
    assert fe.features & EVENT_IDX
    q = fe.queues[index]
    offer = dict(into=[piece]) if isinstance(piece, int) else dict(out=[piece])
    want = lambda at: q.fe.write_index(q.avail + 4 + 2 * q.size, at & 0xFFFF)
    rows = (0x8000, 0x7FFF, 1, 3, -1, -2, 0xFFF0)
    for far in rows:
        want(q.used_idx + far)
        q.offer(**offer)
        end = time.monotonic() + 5
        while not q.came_back():
            assert time.monotonic() < end, f"an event index {far} off: not served"
            time.sleep(0.001)
        try:
            os.eventfd_read(q.call)
        except BlockingIOError:
            pass
        assert q.used(0), "what came back is there"  # and the next one is wanted again
        q.offer(**offer)
        assert q.used(5), f"after an event index {far} off: a lost wake-up"
    fe.close()
    return len(rows)


def run(connect, index, writable, piece=None):
    """piece: as events() has it, of a queue whose requests come back by themselves."""
    ok, bad = (WRITABLE, 0) if writable else (0, WRITABLE)
    count = each(connect, index, ok, bad, rows)
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
    count += used_over(connect, index, ok) + (events(connect, index, piece) if piece else 0)
    return count + 3 + run_packed(connect, index, writable)
