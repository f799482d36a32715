"""A vhost-user front-end without a VM, for tests of device programs: the standard library and nothing else.

FrontEnd(path) connects; start() negotiates and starts queues in memory of our own, packed ones (PackedQueue) where RING_PACKED is among
the features that are wanted; Queue.offer() puts a request in one, Queue.used() takes what came back.  Tests may also write the rings
themselves: ram, and each queue's desc, avail and used_at are offsets into it.
"""

import array
import mmap
import os
import select
import socket
import struct
import sys
import time

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
GET_CONFIG, SET_STATUS, GET_STATUS, RESET_DEVICE = 24, 39, 40, 34
GET_INFLIGHT_FD, SET_INFLIGHT_FD = 31, 32
SEND_RARP, NET_SET_MTU, SET_BACKEND_REQ_FD, SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE = 19, 20, 21, 42, 43
VERSION, REPLY, NEED_REPLY = 1, 4, 8

PROTOCOL_FEATURES, VERSION_1, INDIRECT, EVENT_IDX = 1 << 30, 1 << 32, 1 << 28, 1 << 29
RING_PACKED, IN_ORDER, RING_RESET = 1 << 34, 1 << 35, 1 << 40
MQ, REPLY_ACK, CONFIG, RESET, STATUS = 1 << 0, 1 << 3, 1 << 9, 1 << 13, 1 << 16
RARP, NET_MTU, BACKEND_REQ, DEVICE_STATE, INFLIGHT = 1 << 2, 1 << 4, 1 << 5, 1 << 19, 1 << 12
USER = 0x7000_0000  # where the front-end says its memory lies
NEXT, WRITABLE, INDIRECT_DESC = 1, 2, 4
AVAILABLE, USED = 1 << 7, 1 << 15  # of a packed descriptor
NEEDS_RESET = 64
DEADLINE = 10


class Queue:
    """One split queue; its rings and buffers lie in `area` bytes at `at`."""

    RINGS = 0x10000

    def __init__(self, front_end, index, at, area, size):
        self.fe, self.index, self.size = front_end, index, size
        self.desc, self.avail, self.used_at = at, at + 0x4000, at + 0x6000
        self.data, self.area = at + self.RINGS, area - self.RINGS
        self.kick, self.call, self.err = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        self.avail_idx = self.used_idx = 0
        self.slot = self.area // size & ~63
        self.free = list(range(size))
        self.heads = {}

    def start(self, enable=True, base=None):
        fe = self.fe
        fe.order(SET_VRING_NUM, struct.pack("<II", self.index, self.size))
        fe.order(SET_VRING_BASE, struct.pack("<II", self.index, self.avail_idx if base is None else base))
        fe.order(SET_VRING_ADDR, struct.pack("<IIQQQQ", self.index, 0, USER + self.desc, USER + self.used_at, USER + self.avail, 0))
        fe.order(SET_VRING_CALL, struct.pack("<Q", self.index), [self.call])
        fe.order(SET_VRING_ERR, struct.pack("<Q", self.index), [self.err])
        fe.order(SET_VRING_KICK, struct.pack("<Q", self.index), [self.kick])
        if enable:
            self.enable(1)

    def jump(self, n):
        """As if n requests of one descriptor had gone through, for a queue that is stopped."""
        self.avail_idx = self.used_idx = n
        self.fe.write_index(self.avail + 2, n)
        self.fe.write_index(self.used_at + 2, n)

    def base_again(self):
        """Where a back-end that has the record is told to go on after another one was killed."""
        return self.fe.read_index(self.used_at + 2)

    def enable(self, on):
        self.fe.order(SET_VRING_ENABLE, struct.pack("<II", self.index, on))

    def stop(self):
        """The index of the next request that the device would have taken."""
        index, base = struct.unpack("<II", self.fe.ask(GET_VRING_BASE, struct.pack("<II", self.index, 0)))
        assert index == self.index
        return base

    def descriptor(self, i, gpa, length, flags=0, following=0):
        struct.pack_into("<QIHH", self.fe.ram, self.desc + 16 * i, gpa, length, flags, following)

    def publish(self, head, step=1):
        struct.pack_into("<H", self.fe.ram, self.avail + 4 + 2 * (self.avail_idx % self.size), head)
        self.avail_idx = (self.avail_idx + step) & 0xFFFF
        self.fe.write_index(self.avail + 2, self.avail_idx)

    def ring(self):
        os.eventfd_write(self.kick, 1)

    def offer(self, out=(), into=(), kick=True):
        """A request: pieces of data to read, sizes of buffers to write.  Its head."""
        pieces = [(data, len(data), 0) for data in out] + [(None, size, WRITABLE) for size in into]
        ids = [self.free.pop(0) for _ in pieces]
        for k, (data, length, flag) in enumerate(pieces):
            at = self.data + ids[k] * self.slot
            assert length <= self.slot, (length, self.slot)
            if data:
                self.fe.ram[at : at + length] = data
            last = k + 1 == len(pieces)
            self.descriptor(ids[k], at, length, flag | (0 if last else NEXT), 0 if last else ids[k + 1])
        self.heads[ids[0]] = (ids, [(self.data + i * self.slot, p[1]) for i, p in zip(ids, pieces) if p[2]])
        self.publish(ids[0])
        if kick:
            self.ring()
        return ids[0]

    def used(self, deadline=DEADLINE):
        """The next (head, length, bytes written) that comes back, or None if nothing does in time."""
        self.fe.write_index(self.avail + 4 + 2 * self.size, self.used_idx)  # used_event: interrupt for the next one
        if not self.wait(deadline):
            return None
        head, length = struct.unpack_from("<II", self.fe.ram, self.used_at + 4 + 8 * (self.used_idx % self.size))
        self.used_idx = (self.used_idx + 1) & 0xFFFF
        ids, buffers = self.heads.pop(head)
        return head, length, self.take(ids, buffers, length)

    def wait(self, deadline):
        """Until something came back: False if nothing does in time, or the device gives the queue up."""
        end = time.monotonic() + deadline
        while not self.came_back():
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.call, self.err], [], [], left)[0]:
                return False
            try:
                os.eventfd_read(self.call)
            except BlockingIOError:
                return False  # the error one
        return True

    def take(self, ids, buffers, length):
        """Frees descriptors; the first `length` bytes of their buffers."""
        self.free += ids
        data = b""
        for at, size in buffers:
            data += self.fe.ram[at : at + min(size, length - len(data))]
        return data

    def came_back(self):
        """True if something did that used() has not taken."""
        return self.fe.read_index(self.used_at + 2) != self.used_idx

    def failed(self):
        """True if the device gave the queue up."""
        return bool(select.select([self.err], [], [], 5)[0])

    def close(self):
        for fd in (self.kick, self.call, self.err):
            os.close(fd)


class PackedQueue(Queue):
    """The same with a packed ring.  The areas of the available and the used ring are the two event suppressions'."""

    def __init__(self, *args):
        super().__init__(*args)
        self.at, self.wrap, self.used_place, self.used_wrap = 0, 1, 0, 1
        self.first = None  # the flags of the first descriptor, which make all of them available
        self.count = 0

    # Where to go on, once everything has come back.
    @property
    def avail_idx(self):
        return (self.at | self.wrap << 15) * 0x10001

    @avail_idx.setter
    def avail_idx(self, value):
        pass

    def jump(self, n):
        self.at = self.used_place = n

    def base_again(self):
        return 0x80008000  # the record knows better

    def descriptor(self, i, gpa, length, flags=0, number=0):
        """The i-th from the next one on; it need not be followed by others, but those before it must be there."""
        place = (self.at + i) % self.size
        wrap = self.wrap ^ (self.at + i >= self.size)
        flags ^= AVAILABLE if wrap else USED
        at = self.desc + 16 * place
        struct.pack_into("<QIH", self.fe.ram, at, gpa, length, number)
        if i == 0:
            self.first = flags
        else:
            self.fe.write_index(at + 14, flags)
        self.count = i + 1

    def publish(self, head=None, step=None):
        self.fe.write_index(self.desc + 16 * self.at + 14, self.first)
        self.at += self.count
        if self.at >= self.size:
            self.at -= self.size
            self.wrap ^= 1

    def offer(self, out=(), into=(), kick=True):
        pieces = [(data, len(data), 0) for data in out] + [(None, size, WRITABLE) for size in into]
        ids = [self.free.pop(0) for _ in pieces]
        buffers = []
        for k, (data, length, flag) in enumerate(pieces):
            at = self.data + ids[k] * self.slot
            assert length <= self.slot, (length, self.slot)
            if data:
                self.fe.ram[at : at + length] = data
            elif flag:
                buffers.append((at, length))
            self.descriptor(k, at, length, flag | (0 if k + 1 == len(pieces) else NEXT), ids[0])
        self.heads[ids[0]] = (ids, buffers)
        self.publish()
        if kick:
            self.ring()
        return ids[0]

    def came_back(self):
        flags = self.fe.read_index(self.desc + 16 * self.used_place + 14)
        return bool(flags & AVAILABLE) == bool(flags & USED) == bool(self.used_wrap)

    def used(self, deadline=DEADLINE):
        event = self.used_place | self.used_wrap << 15 | 2 << 16 if self.fe.features & EVENT_IDX else 0
        self.fe.ram[self.avail : self.avail + 4] = event.to_bytes(4, "little")
        if not self.wait(deadline):
            return None
        length, head, flags = struct.unpack_from("<IHH", self.fe.ram, self.desc + 16 * self.used_place + 8)
        assert bool(flags & WRITABLE) == bool(length), (flags, length)
        ids, buffers = self.heads.pop(head)
        self.used_place += len(ids)
        if self.used_place >= self.size:
            self.used_place -= self.size
            self.used_wrap ^= 1
        return head, length, self.take(ids, buffers, length)


def connect(sock, path):
    """Between bind(2), which makes the file, and listen(2) nobody listens yet."""
    end = time.monotonic() + 2
    while True:
        try:
            return sock.connect(path)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


class FrontEnd:
    always = 0  # features that every front-end wants

    def __init__(self, path, area=1 << 20):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        connect(self.sock, path)
        self.area = area
        self.queues = {}

    def send(self, request, payload=b"", fds=(), flags=0):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([struct.pack("<III", request, VERSION | flags, len(payload)) + payload], ancillary)

    def receive(self, size):
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError("the back-end closed the connection")
            data += piece
        return data

    def ask(self, request, payload=b"", fds=(), flags=0):
        self.send(request, payload, fds, flags)
        got, flags, size = struct.unpack("<III", self.receive(12))
        assert got == request and flags & REPLY, (got, flags)
        return self.receive(size)

    def order(self, request, payload=b"", fds=()):
        """A request with an acknowledgement."""
        (result,) = struct.unpack("<Q", self.ask(request, payload, fds, NEED_REPLY))
        assert result == 0, f"request {request} was refused"

    def u64(self, request):
        return struct.unpack("<Q", self.ask(request))[0]

    def start(self, wanted, queues, size=256, config=60, enable=True, protocol=MQ | REPLY_ACK | CONFIG | RESET | STATUS,
              before=None):
        """Takes the features that are wanted and offered, reads `config` bytes of configuration space, starts queues by index.

        before(self): what is to be said when the features are settled and nothing else."""
        self.offered = self.u64(GET_FEATURES)
        self.protocol = protocol
        assert self.u64(GET_PROTOCOL_FEATURES) & protocol == protocol
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol))
        self.send(SET_OWNER)
        self.features = self.offered & (wanted | FrontEnd.always | PROTOCOL_FEATURES | VERSION_1)
        kind = PackedQueue if self.features & RING_PACKED else Queue
        self.order(SET_FEATURES, struct.pack("<Q", self.features))
        if before:
            before(self)
        self.config = self.read_config(config) if config else b""
        ram = self.area * (max(queues) + 1)
        self.memfd = os.memfd_create("ram")
        os.ftruncate(self.memfd, ram)
        self.ram = mmap.mmap(self.memfd, ram)
        self.order(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, ram, USER, 0), [self.memfd])
        for i in queues:
            self.queues[i] = kind(self, i, i * self.area, self.area, size)
            self.queues[i].start(enable)

    def record(self, size=256):
        """Asks for a record of requests in flight and gives it back: for `before`."""
        count = self.u64(GET_QUEUE_NUM)
        self.send(GET_INFLIGHT_FD, struct.pack("<QQHH4x", 0, 0, count, size))
        head, fds, _, _ = socket.recv_fds(self.sock, 12, 1)
        length, offset, _, _ = struct.unpack("<QQHH4x", self.receive(struct.unpack("<III", head)[2]))
        self.inflight = (struct.pack("<QQHH4x", length, offset, count, size), fds[0])
        self.order(SET_INFLIGHT_FD, self.inflight[0], [fds[0]])

    def again(self, path, recorded=True):
        """As after the end of the back-end: what the driver knows nothing of is said to the next one."""
        self.sock.close()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        connect(self.sock, path)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
        self.send(SET_OWNER)
        self.order(SET_FEATURES, struct.pack("<Q", self.features))
        if recorded:
            self.order(SET_INFLIGHT_FD, self.inflight[0], [self.inflight[1]])
        self.order(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, len(self.ram), USER, 0), [self.memfd])
        for q in self.queues.values():
            q.start(base=q.base_again())

    def read_config(self, size):
        return self.ask(GET_CONFIG, struct.pack("<III", 0, size, 0) + bytes(size))[12:]

    # In one piece: struct.pack_into() makes zeros of the place first, and a device that polls would see them.
    def write_index(self, at, value):
        self.ram[at : at + 2] = value.to_bytes(2, sys.byteorder)

    def read_index(self, at):
        return struct.unpack_from("@H", self.ram, at)[0]

    def reset(self):
        """As a driver's reset; the queues can be started again."""
        for q in self.queues.values():
            q.stop()
        if self.protocol & STATUS:
            self.order(SET_STATUS, struct.pack("<Q", 0))
        else:
            self.order(RESET_DEVICE)
            self.order(SET_FEATURES, struct.pack("<Q", self.features))

    def close(self):
        self.sock.close()
        for q in self.queues.values():
            q.close()
        if self.queues:
            self.ram.close()
            os.close(self.memfd)
