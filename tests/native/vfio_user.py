"""A vfio-user client without a VM, for tests of device programs: the standard library and nothing else.

Client(path) connects and agrees on a version; the rest of it are the protocol's commands.  FrontEnd is vhost_user.FrontEnd for a
device that is served over vfio-user instead: a driver of virtio over PCI, with memory, queues, eventfds and all, so that what is
written for the one works for the other.
"""

import array
import errno
import json
import mmap
import os
import select
import socket
import struct

import vhost_user

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS, REGION_READ, REGION_WRITE = range(1, 11)
DMA_READ, DMA_WRITE = 11, 12
RESET, WRITE_MULTI, FEATURE, MIG_READ, MIG_WRITE = 13, 15, 16, 17, 18
MIGRATION, MIG_STATE, LOG_START, LOG_STOP, LOG_REPORT = 1, 2, 6, 7, 8
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
STATE_ERROR, STOP, RUNNING, STOP_COPY, RESUMING = range(5)
REPLY, NO_REPLY, ERROR = 1, 0x10, 0x20
CONFIG_REGION = 7
INTX, MSI, MSIX = 0, 1, 2
DATA_NONE, DATA_BOOL, DATA_EVENTFD, ACT_MASK, ACT_UNMASK, ACT_TRIGGER = 1, 2, 4, 8, 16, 32
DEADLINE = vhost_user.DEADLINE


class Refused(Exception):
    def __init__(self, command, number):
        super().__init__(f"command {command}: {os.strerror(number)}")
        self.errno = number


class Client:
    def __init__(self, path, capabilities=None, version=(0, 1)):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        vhost_user.connect(self.sock, path)
        self.next_id = 1
        capabilities = {"max_msg_fds": 32, "write_multiple": True} if capabilities is None else capabilities
        text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        reply, came = self.ask(VERSION, struct.pack("<HH", *version) + text, want_fds=True)
        self.twin = socket.socket(fileno=came[0]) if came else None  # where the server's own commands come
        self.version = struct.unpack_from("<HH", reply)
        assert reply[-1] == 0, reply
        self.capabilities = json.loads(reply[4:-1])["capabilities"]

    def send(self, command, payload=b"", fds=(), flags=0, number=None):
        if number is None:
            number = self.next_id = (self.next_id + 1) & 0xFFFF
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([struct.pack("<HHIII", number, command, 16 + len(payload), flags, 0) + payload], ancillary)
        return number

    def receive(self):
        """The next message: id, command, flags, errno, payload, descriptors."""
        head, ancillary, _, _ = self.sock.recvmsg(16, socket.CMSG_SPACE(4 * 64), socket.MSG_WAITALL)
        if not head:
            raise EOFError("the server closed the connection")
        fds = [fd for _, _, data in ancillary for fd in struct.unpack(f"{len(data) // 4}i", data)]
        number, command, size, flags, error = struct.unpack("<HHIII", head)
        payload = b""
        while len(payload) < size - 16:
            piece = self.sock.recv(size - 16 - len(payload))
            assert piece
            payload += piece
        return number, command, flags, error, payload, fds

    def ask(self, command, payload=b"", fds=(), want_fds=False):
        number = self.send(command, payload, fds)
        got, echoed, flags, error, payload, came = self.receive()
        assert (got, echoed) == (number, command) and flags & 0xF == REPLY, (got, number, echoed, command, flags)
        if flags & ERROR:
            assert not payload
            raise Refused(command, error)
        if want_fds:
            return payload, came
        assert not came
        return payload

    def info(self):
        argsz, flags, regions, irqs = struct.unpack("<IIII", self.ask(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0)))
        assert argsz == 16
        return flags, regions, irqs

    def region_info(self, index, argsz=4096):
        """flags, size, areas that may be mapped, descriptors, argsz."""
        reply, fds = self.ask(REGION_INFO, struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0), want_fds=True)
        needed, flags, echoed, cap, size, _ = struct.unpack_from("<IIIIQQ", reply)
        assert echoed == index
        areas = []
        if cap and len(reply) > 32:
            kind, version, _, count = struct.unpack_from("<HHII", reply, cap)
            assert (kind, version) == (1, 1)
            areas = [struct.unpack_from("<QQ", reply, cap + 16 + 16 * i) for i in range(count)]
        return flags, size, areas, fds, needed

    def io_fds(self, index, argsz=4096):
        """[(offset, size, fd)], argsz."""
        reply, fds = self.ask(IO_FDS, struct.pack("<IIII", argsz, 0, index, 0), want_fds=True)
        needed, flags, echoed, count = struct.unpack_from("<IIII", reply)
        assert (flags, echoed) == (0, index)
        subs = [struct.unpack_from("<QQIIIIQ", reply, 16 + 40 * i) for i in range((len(reply) - 16) // 40)]
        assert all(s[3] == 0 and s[4] == 0 for s in subs)
        return [(s[0], s[1], fds[s[2]]) for s in subs], needed

    def irq_info(self, index):
        _, flags, _, count = struct.unpack("<IIII", self.ask(IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0)))
        return flags, count

    def set_irqs(self, index, flags, start=0, count=0, fds=(), data=b""):
        assert self.ask(SET_IRQS, struct.pack("<IIIII", 20 + len(data), flags, index, start, count) + data, fds) == b""

    def read(self, region, offset, size):
        reply = self.ask(REGION_READ, struct.pack("<QII", offset, region, size))
        assert struct.unpack_from("<QII", reply) == (offset, region, size)
        return reply[16:]

    def write(self, region, offset, data):
        reply = self.ask(REGION_WRITE, struct.pack("<QII", offset, region, len(data)) + data)
        assert struct.unpack("<QII", reply) == (offset, region, len(data))

    def get(self, region, offset, size):
        return int.from_bytes(self.read(region, offset, size), "little")

    def put(self, region, offset, size, value):
        self.write(region, offset, value.to_bytes(size, "little"))

    def map(self, iova, size, fd=None, offset=0, flags=3):
        assert self.ask(DMA_MAP, struct.pack("<IIQQQ", 32, flags, offset, iova, size), [] if fd is None else [fd]) == b""

    def unmap(self, iova, size, flags=0):
        what = struct.pack("<IIQQ", 24, flags, iova, size)
        assert self.ask(DMA_UNMAP, what) == what

    def serve(self, memory, base):
        """Answers one command of the server's on the twin socket: from `memory`, which begins at `base`."""
        self.twin.settimeout(DEADLINE)
        head = self.twin.recv(32, socket.MSG_WAITALL)
        number, command, size, flags, _, iova, count = struct.unpack("<HHIIIQQ", head)
        assert flags == 0 and command in (DMA_READ, DMA_WRITE)
        at = iova - base
        good = 0 <= at and at + count <= len(memory)
        if command == DMA_WRITE:
            data = self.twin.recv(size - 32, socket.MSG_WAITALL)
            assert len(data) == count
            if good:
                memory[at : at + count] = data
        body = struct.pack("<QQ", iova, count) + (bytes(memory[at : at + count]) if command == DMA_READ else b"") if good else b""
        self.twin.sendall(struct.pack("<HHIII", number, command, 16 + len(body), REPLY | (0 if good else ERROR), 0 if good else errno.EFAULT) + body)
        return command, iova, count

    def reset(self):
        assert self.ask(RESET) == b""

    # ---- for a guest that moves

    def feature(self, flags, data=b""):
        reply = self.ask(FEATURE, struct.pack("<II", 8 + 4096, flags) + data)
        assert struct.unpack_from("<I", reply, 4) == (flags,)
        return reply[8:]

    def state(self):
        state, fd = struct.unpack("<Ii", self.feature(MIG_STATE | GET))
        assert fd == -1
        return state

    def go(self, state):
        data = struct.pack("<Ii", state, -1)
        assert self.feature(MIG_STATE | SET, data) == data

    def save(self, piece=1000):
        """The function's state; it is stopped then."""
        self.go(STOP_COPY)
        data = b""
        while True:
            reply = self.ask(MIG_READ, struct.pack("<II", 8 + piece, piece))
            argsz, size = struct.unpack_from("<II", reply)
            assert argsz == len(reply) == 8 + size and size <= piece
            data += reply[8:]
            if size < piece:
                return data

    def load(self, data, piece=3000):
        self.go(RESUMING)
        for at in range(0, len(data), piece):
            part = data[at : at + piece]
            assert self.ask(MIG_WRITE, struct.pack("<II", 8, len(part)) + part) == b""
        self.go(STOP)

    def log_start(self, page=4096):
        reply = self.feature(LOG_START | SET, struct.pack("<QII", page, 0, 0))
        assert struct.unpack("<QII", reply) == (4096, 0, 0)

    def log_stop(self):
        assert self.feature(LOG_STOP | SET) == b""

    def written(self, iova, size, page=4096):
        """The numbers of the pages from iova on that were written since the last time."""
        reply = self.feature(LOG_REPORT | GET, struct.pack("<QQQ", iova, size, page))
        assert struct.unpack_from("<QQQ", reply) == (iova, size, page)
        bits = int.from_bytes(reply[24:], "little")
        return {n for n in range(size // page) if bits >> n & 1}

    def capabilities_of_pci(self):
        """(id, offset) of the list in configuration space."""
        at, found = self.get(CONFIG_REGION, 0x34, 1), []
        while at:
            found.append((self.get(CONFIG_REGION, at, 1), at))
            at = self.get(CONFIG_REGION, at + 1, 1)
            assert len(found) < 64
        return found


class Bar:
    """The structures of a virtio function in its BAR, found by its capabilities."""

    COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4

    def __init__(self, client):
        self.client, self.place, self.length = client, {}, {}
        for cap, at in client.capabilities_of_pci():
            if cap == 9:
                kind, self.bar = client.get(CONFIG_REGION, at + 3, 1), client.get(CONFIG_REGION, at + 4, 1)
                self.place[kind] = client.get(CONFIG_REGION, at + 8, 4)
                self.length[kind] = client.get(CONFIG_REGION, at + 12, 4)
                if kind == self.NOTIFY:
                    self.step = client.get(CONFIG_REGION, at + 16, 4)

    def get(self, kind, offset, size):
        return self.client.get(0, self.place[kind] + offset, size)

    def put(self, kind, offset, size, value):
        self.client.put(0, self.place[kind] + offset, size, value)


class PciQueue:
    """Mixed into the queues of vhost_user.py: the same rings, set up by registers."""

    def start(self, enable=True):
        fe, bar = self.fe, self.fe.bar
        bar.put(bar.COMMON, 0x16, 2, self.index)
        assert bar.get(bar.COMMON, 0x18, 2) >= self.size
        bar.put(bar.COMMON, 0x18, 2, self.size)
        for register, at in (0x20, self.desc), (0x28, self.avail), (0x30, self.used_at):
            bar.put(bar.COMMON, register, 8, at)
        if fe.msix:
            bar.put(bar.COMMON, 0x1A, 2, self.index + 1)
            assert bar.get(bar.COMMON, 0x1A, 2) == self.index + 1
            fe.client.set_irqs(MSIX, DATA_EVENTFD | ACT_TRIGGER, self.index + 1, 1, [self.call])
        self.notify = bar.place[bar.NOTIFY] + bar.step * bar.get(bar.COMMON, 0x1E, 2)
        bar.put(bar.COMMON, 0x1C, 2, 1)

    def enable(self, on):
        """All queues at a time, once."""
        assert on, "virtio over PCI has no such thing"
        self.fe.set_status(15)

    def ring(self):
        fd = self.fe.doorbells.get(self.notify)
        if fd is None:
            self.fe.client.put(0, self.notify, 2, self.index)
        else:
            os.eventfd_write(fd, 1)

    def stop(self):
        """RING_RESET; the device does not say where it was."""
        bar = self.fe.bar
        bar.put(bar.COMMON, 0x16, 2, self.index)
        bar.put(bar.COMMON, 0x3A, 2, 1)
        assert bar.get(bar.COMMON, 0x1C, 2) == 0
        return self.avail_idx

    def failed(self):
        for _ in range(50):
            if self.fe.status() & vhost_user.NEEDS_RESET:
                return True
            select.select([], [], [], 0.1)
        return False


class SplitQueue(PciQueue, vhost_user.Queue):
    pass


class PackedQueue(PciQueue, vhost_user.PackedQueue):
    pass


class FrontEnd(vhost_user.FrontEnd):
    def __init__(self, path, area=1 << 20, msix=True, doorbells=True):
        self.client = Client(path)
        self.sock = self.client.sock
        self.area, self.queues, self.msix = area, {}, msix
        self.bar = Bar(self.client)
        self.doorbells = {}
        if doorbells:
            self.doorbells = {offset: fd for offset, _, fd in self.client.io_fds(0)[0]}

    def status(self):
        return self.bar.get(self.bar.COMMON, 0x14, 1)

    def set_status(self, bits):
        self.bar.put(self.bar.COMMON, 0x14, 1, bits)

    def negotiate(self, wanted):
        bar, self.offered = self.bar, 0
        self.set_status(0)
        assert self.status() == 0
        self.set_status(1)
        self.set_status(3)
        for half in 0, 1:
            bar.put(bar.COMMON, 0, 4, half)
            self.offered |= bar.get(bar.COMMON, 4, 4) << 32 * half
        self.features = self.offered & (wanted | self.always | vhost_user.VERSION_1 | vhost_user.RING_RESET)
        for half in 0, 1:
            bar.put(bar.COMMON, 8, 4, half)
            bar.put(bar.COMMON, 12, 4, self.features >> 32 * half & 0xFFFFFFFF)
        self.set_status(11)
        assert self.status() == 11, self.status()

    # What is asked of a vhost-user back-end by messages is in registers here.
    def u64(self, request):
        assert request == vhost_user.GET_STATUS, request
        return self.status()

    def ask(self, request, payload=b"", fds=(), flags=0):
        """A queue's addresses are taken as they are; that it cannot be so is seen when it is enabled."""
        assert request == vhost_user.SET_VRING_ADDR, request
        return bytes(8)

    def start(self, wanted, queues, size=256, config=60, enable=True, **_):
        if self.msix:
            self.config_call = os.eventfd(0, os.EFD_NONBLOCK)
            self.client.set_irqs(MSIX, DATA_EVENTFD | ACT_TRIGGER, 0, 1, [self.config_call])
        self.negotiate(wanted)
        self.config = self.read_config(config) if config else b""
        ram = self.area * (max(queues) + 1)
        self.memfd = os.memfd_create("ram")
        os.ftruncate(self.memfd, ram)
        self.ram = mmap.mmap(self.memfd, ram)
        self.client.map(0, ram, self.memfd)
        if self.msix:
            self.bar.put(self.bar.COMMON, 0x10, 2, 0)
        kind = PackedQueue if self.features & vhost_user.RING_PACKED else SplitQueue
        for i in queues:
            self.queues[i] = kind(self, i, i * self.area, self.area, size)
            self.queues[i].start()
        if enable:
            self.set_status(15)

    def move(self, path):
        """To another server, with all that is under way; what the client of a machine does beside copying its memory."""
        state = self.client.save()
        old, self.client = self.client, Client(path)
        self.sock = self.client.sock
        self.client.map(0, len(self.ram), self.memfd)
        self.client.load(state)
        if self.msix:
            self.client.set_irqs(MSIX, DATA_EVENTFD | ACT_TRIGGER, 0, 1, [self.config_call])
            for q in self.queues.values():
                self.client.set_irqs(MSIX, DATA_EVENTFD | ACT_TRIGGER, q.index + 1, 1, [q.call])
        self.bar = Bar(self.client)
        for fd in self.doorbells.values():
            os.close(fd)
        if self.doorbells:
            self.doorbells = {offset: fd for offset, _, fd in self.client.io_fds(0)[0]}
        old.sock.close()
        self.client.go(RUNNING)

    def read_config(self, size):
        length = min(size, self.bar.length.get(Bar.DEVICE, 0))
        data = self.client.read(0, self.bar.place[Bar.DEVICE], length) if length else b""
        return data + bytes(size - length)

    def reset(self):
        self.set_status(0)
        assert self.status() == 0

    def close(self):
        for fd in self.doorbells.values():
            os.close(fd)
        super().close()
