#!/usr/bin/env python3
"""A vfio-user server: an example of a PCI function, and one that misbehaves where it is told to.  The standard library and nothing else.

    vfio_user_server.py [--twin] [--no-file] [--fault NAME] [--at COMMAND] [--nth N] [--once] PATH | --fd N

The function, 1234:5655: BAR 0, 16 KiB of registers (REGISTERS) with eventfds for two of them, an MSI-X table at 0x2000 and its PBA at
0x3000; BAR 1, 64 I/O ports, of which the first holds what was written to it, inverted; BAR 2, 64 KiB of memory of its own, the first and
the last 16 KiB of which may be mapped.  INTx and four MSI-X vectors; a DMA engine that copies guest memory through what was mapped
(DMA_COPY) or by messages (DMA_MESSAGES).

--fault: one of FAULTS, at the N-th (from 0) message with the command (--at, a number or a name such as REGION_READ).
"""

import argparse
import array
import errno
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import sys
import time

COMMANDS = {
    "VERSION": 1, "DMA_MAP": 2, "DMA_UNMAP": 3, "DEVICE_GET_INFO": 4, "DEVICE_GET_REGION_INFO": 5, "DEVICE_GET_REGION_IO_FDS": 6,
    "DEVICE_GET_IRQ_INFO": 7, "DEVICE_SET_IRQS": 8, "REGION_READ": 9, "REGION_WRITE": 10, "DMA_READ": 11, "DMA_WRITE": 12,
    "DEVICE_RESET": 13, "REGION_WRITE_MULTI": 15,
}
globals().update(COMMANDS)
HEADER = struct.Struct("<HHIII")
REPLY, NO_REPLY, ERROR = 1, 0x10, 0x20
READ, WRITE, MMAP, CAPS = 1, 2, 4, 8
BAR0, BAR1, BAR2, CONFIG = 0, 1, 2, 7
INTX, MSIX = 0, 2
VECTORS = 4
SIZES = {BAR0: 0x4000, BAR1: 64, BAR2: 0x10000, CONFIG: 256}
AREAS = [(0, 0x4000), (0xC000, 0x4000)]  # of BAR 2
TABLE, PBA = 0x2000, 0x3000
AT = 0x1000  # of BAR 2 in its file
MAGIC = 0x56465344
XFER = 1 << 20

# Registers of BAR 0, four bytes but where it says eight.
REGISTERS = {
    "ID": 0x00, "SCRATCH": 0x04, "DMA_FROM": 0x08, "DMA_TO": 0x10, "DMA_LEN": 0x18, "DMA_DO": 0x1C, "DMA_STATUS": 0x20, "VECTOR": 0x24,
    "RAISE": 0x28, "INTX": 0x2C, "RINGS_7": 0x30, "RINGS_ANY": 0x34, "WRITES": 0x38, "MEM_AT": 0x3C, "MEM": 0x40, "RESETS": 0x44,
    "REFUSED": 0x48, "DIE": 0x4C, "TRAPS": 0x50, "POSTED": 0x54, "DOORBELL_7": 0x100, "DOORBELL_ANY": 0x104,
}
R = REGISTERS
DMA_COPY, DMA_MESSAGES, DMA_STRAY = 1, 2, 3  # to DMA_DO: through the mapping, by messages, by messages to where nothing is mapped
DMA_DONE, DMA_FAILED = 1, 2
NO_VECTOR = 0xFFFFFFFF  # VECTOR: INTx
LEAVE = 0x100  # DIE: ends the connection alone, and keeps all state for the next

FAULTS = (
    "size+", "size-", "id", "flags", "command", "silence", "close", "fds", "late", "short", "lie", "error", "drip", "unasked", "twice",
    "json-huge", "json-deep", "json-utf8", "json-type", "major", "unsealed", "overlap", "outside", "chain", "areas", "irqs", "huge", "odd",
    "dma-flood", "answers",
)


class Gone(Exception):
    pass


def send(sock, data, fds=()):
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sent = sock.sendmsg([data], ancillary)
        if sent < len(data):
            sock.sendall(data[sent:])
    except OSError:
        raise Gone from None


def receive(sock, size, fds):
    data = b""
    while len(data) < size:
        try:
            piece, ancillary, _, _ = sock.recvmsg(size - len(data), socket.CMSG_SPACE(4 * 32))
        except OSError:
            raise Gone from None
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.extend(array.array("i", payload[: len(payload) // 4 * 4]))
        if not piece:
            raise Gone
        data += piece
    return data


class Function:
    """The PCI function; it lives as long as the program, whoever is connected."""

    def __init__(self, sealed=True, with_file=True):
        self.config = bytearray(256)
        struct.pack_into("<HHHHIBBBB", self.config, 0, 0x1234, 0x5655, 0, 0x10, 0xFF000001, 0, 0, 0, 0)
        struct.pack_into("<III", self.config, 0x10, 0, 1, 0xC)  # memory, I/O, memory of 64 bits and prefetchable
        struct.pack_into("<HH", self.config, 0x2C, 0x1234, 0x0001)
        self.config[0x34], self.config[0x3D] = 0x40, 1
        struct.pack_into("<BBHII", self.config, 0x40, 0x11, 0, VECTORS - 1, TABLE | BAR0, PBA | BAR0)
        self.fd = -1
        if with_file:
            self.fd = os.memfd_create("bar2", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, AT + SIZES[BAR2])
            if sealed:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.memory = mmap.mmap(self.fd, SIZES[BAR2], offset=AT) if with_file else bytearray(SIZES[BAR2])
        self.doorbells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.resets = 0
        self.power_on()

    def power_on(self):
        self.registers = bytearray(SIZES[BAR0])
        self.asserted = self.masked = False  # INTx
        self.set("ID", MAGIC)
        self.set("VECTOR", NO_VECTOR)
        self.set("RESETS", self.resets)
        self.port = 0xFF

    def get(self, name, kind="<I"):
        return struct.unpack_from(kind, self.registers, R[name])[0]

    def set(self, name, value):
        struct.pack_into("<I", self.registers, R[name], value)

    def rings(self):
        for name, fd in zip(("RINGS_7", "RINGS_ANY"), self.doorbells):
            try:
                self.set(name, self.get(name) + os.eventfd_read(fd))
            except BlockingIOError:
                pass


class Connection:
    def __init__(self, sock, function, options):
        self.sock, self.f, self.options = sock, function, options
        self.twin = None
        self.maps = []  # (iova, size, mmap or None)
        self.irqs = {}  # (index, vector) -> eventfd
        self.queued = []  # commands that came while a reply was waited for
        self.next_id, self.seen = 1, 0

    # ---- messages ----

    def command(self, sock, wanted=None):
        """The next command, or the reply to the one with the id `wanted`."""
        if wanted is None and self.queued:
            return self.queued.pop(0)
        while True:
            fds = []
            number, command, size, flags, error = HEADER.unpack(receive(sock, 16, fds))
            body = receive(sock, size - 16, fds)
            message = (number, command, flags, error, body, fds)
            if wanted is None or (flags & 15 == REPLY and number == wanted):
                return message
            self.queued.append(message)

    def reply(self, message, body=b"", fds=(), error=0):
        number, command, flags = message[:3]
        if flags & NO_REPLY and self.options.fault != "answers":
            return
        size, head, after = 16 + (0 if error else len(body)), (REPLY | (ERROR if error else 0)), 1
        fault = self.fault(command)
        if fault in ("size+", "size-"):
            size += 4 if fault == "size+" else -4
        elif fault == "id":
            number ^= 0x5A5A
        elif fault == "flags":
            head |= 0x100
        elif fault == "command":
            command += 1
        elif fault == "fds":
            fds = list(fds) + [0] * 3
        elif fault == "silence":
            return
        elif fault == "late":
            time.sleep(3)
        elif fault == "close":
            raise Gone
        elif fault == "short":
            send(self.sock, HEADER.pack(number, command, size, head, error)[:9])
            raise Gone
        elif fault == "error":
            error, head, size = errno.EIO, REPLY | ERROR, 16
        elif fault == "lie":
            body = body[:12] + struct.pack("<I", 4096) + body[16:]
        elif fault == "twice":
            after = 2
        elif fault == "unasked":
            send(self.sock, HEADER.pack(number + 1, command, 16, REPLY, 0))
        data = HEADER.pack(number, command, size, head, error) + (b"" if error else body)
        if fault == "drip":
            for i in range(len(data)):
                send(self.sock, data[i : i + 1])
                time.sleep(0.3)
            return
        for _ in range(after):
            send(self.sock, data, fds)

    def fault(self, command):
        """Whether it is time for the one that was asked for."""
        o = self.options
        if not o.fault or o.at != command:
            return None
        self.seen += 1
        return o.fault if self.seen == o.nth + 1 else None

    def ask(self, command, body):
        """A command to the client: the reply's body, or None where it refuses."""
        self.next_id = self.next_id % 0xFFFF + 1
        sock = self.twin or self.sock
        send(sock, HEADER.pack(self.next_id, command, 16 + len(body), 0, 0) + body)
        _, replied, flags, _, body, _ = self.command(sock, self.next_id)
        if replied != command:
            raise Gone
        return None if flags & ERROR else body

    # ---- the client's memory ----

    def dma_read(self, iova, size):
        body = self.ask(DMA_READ, struct.pack("<QQ", iova, size))
        return None if body is None else body[16:]

    def dma_write(self, iova, data):
        return self.ask(DMA_WRITE, struct.pack("<QQ", iova, len(data)) + data) is not None

    def mapped(self, iova, size):
        for start, length, memory in self.maps:
            if memory and start <= iova and iova + size <= start + length:
                return memoryview(memory)[iova - start : iova - start + size]
        return None

    def dma(self, how):
        f = self.f
        source, target, size = f.get("DMA_FROM", "<Q"), f.get("DMA_TO", "<Q"), f.get("DMA_LEN")
        good = True
        if how == DMA_COPY:
            a, b = self.mapped(source, size), self.mapped(target, size)
            good = a is not None and b is not None
            if good:
                b[:] = bytes(a)
        elif how == DMA_MESSAGES:
            for at in range(0, size, XFER):
                n = min(XFER, size - at)
                data = self.dma_read(source + at, n)
                good = good and data is not None and self.dma_write(target + at, data)
        elif how == DMA_STRAY:  # every one of them has to be refused
            end = max((start + length for start, length, _ in self.maps), default=0)
            strays = [(end, 4), (end - 2, 4), (2**64 - 4, 8), (2**64 - 4, 4), (0, 2**40), (source, 0)]
            refused = sum(self.ask(DMA_READ, struct.pack("<QQ", *s)) is None for s in strays)
            refused += sum(not self.dma_write(s[0], b"\xff" * 8) for s in strays[:4])
            f.set("REFUSED", refused)
            good = refused == 10
        f.set("DMA_STATUS", DMA_DONE if good else DMA_FAILED)
        self.interrupt(f.get("VECTOR"))

    def interrupt(self, vector):
        if vector == NO_VECTOR:
            self.intx(True)
        else:
            self.signal(MSIX, vector)

    def intx(self, asserted):
        """A level: it is told again whenever the client unmasks it while it lasts."""
        self.f.asserted = asserted
        self.f.set("INTX", asserted)
        if asserted and not self.f.masked:
            self.f.masked = True
            self.signal(INTX, 0)

    def signal(self, index, vector):
        fd = self.irqs.get((index, vector))
        if fd is not None:
            os.eventfd_write(fd, 1)

    # ---- accesses ----

    def read(self, region, offset, count):
        f = self.f
        if region == CONFIG:
            return bytes(f.config[offset : offset + count])
        if region == BAR1:
            return (bytes([f.port ^ 0xFF]) + bytes(63))[offset : offset + count]
        if region == BAR2:
            f.set("TRAPS", f.get("TRAPS") + 1)
            return bytes(f.memory[offset : offset + count])
        f.rings()
        if offset == R["MEM"]:
            return bytes(f.memory[f.get("MEM_AT") : f.get("MEM_AT") + count])
        return bytes(f.registers[offset : offset + count])

    def write(self, region, offset, data):
        f = self.f
        if region == CONFIG:
            if offset == 4:  # the command register; the rest is kept by who asks
                f.config[4:6] = data[:2].ljust(2, b"\0")
        elif region == BAR1:
            if offset == 0:
                f.port = data[0]
        elif region == BAR2:
            f.set("TRAPS", f.get("TRAPS") + 1)
            f.memory[offset : offset + len(data)] = data
        else:
            self.write_register(offset, data)

    def write_register(self, offset, data):
        f = self.f
        value = int.from_bytes(data, "little")
        f.set("WRITES", f.get("WRITES") + 1)
        if offset == R["DMA_DO"]:
            self.dma(value)
        elif offset == R["RAISE"]:
            self.interrupt(value)
        elif offset == R["INTX"]:
            self.intx(value != 0)
        elif offset == R["MEM"]:
            f.memory[f.get("MEM_AT") : f.get("MEM_AT") + len(data)] = data
        elif offset == R["DIE"]:
            if value == LEAVE:
                raise Gone
            os._exit(value)
        elif offset in (R["DOORBELL_7"], R["DOORBELL_ANY"]):
            name = "RINGS_7" if offset == R["DOORBELL_7"] else "RINGS_ANY"
            if name == "RINGS_ANY" or value == 7:
                f.set(name, f.get(name) + 0x10000)  # a message where an eventfd would do
        elif offset not in (R["ID"], R["DMA_STATUS"], R["RINGS_7"], R["RINGS_ANY"], R["WRITES"], R["RESETS"], R["REFUSED"],
                            R["TRAPS"], R["POSTED"]):
            f.registers[offset : offset + len(data)] = data

    # ---- commands ----

    def version(self, m):
        proposed = json.loads(m[4][4:].rstrip(b"\0") or b"{}").get("capabilities", {})
        caps, fds, theirs = {"max_msg_fds": 8, "max_data_xfer_size": XFER, "write_multiple": True}, [], None
        if self.options.twin and proposed.get("twin_socket", {}).get("supported"):
            self.twin, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            fds, caps["twin_socket"] = [theirs.fileno()], {"supported": True, "fd_index": 0}
        text = json.dumps({"capabilities": caps}).encode()
        text = {
            "json-huge": b'{"x":"' + b"y" * 70000 + b'"}',
            "json-deep": b'{"x":' + b"[" * 1000 + b"]" * 1000 + b"}",
            "json-utf8": b'{"capabilities":{"\xc0\x80":1}}',
            "json-type": b'{"capabilities":{"max_msg_fds":"eight"}}',
        }.get(self.options.fault, text)
        major = 7 if self.options.fault == "major" else 0
        self.reply(m, struct.pack("<HH", major, 1) + text + b"\0", fds)
        if theirs:
            theirs.close()

    def region_info(self, m):
        index = struct.unpack_from("<I", m[4], 8)[0]
        size, fault, caps, fds = SIZES.get(index, 0), self.options.fault, b"", []
        flags = READ | WRITE if size else 0
        if index == BAR2 and self.f.fd >= 0:
            areas, following = list(AREAS), 0
            if fault == "overlap":
                areas.append((0x3000, 0x2000))
            elif fault == "outside":
                areas.append((0xF000, 0x2000))
            elif fault == "areas":
                areas = [(i * 16, 16) for i in range(200)]
            elif fault == "chain":
                following = 32
            flags, fds = flags | MMAP | CAPS, [self.f.fd]
            caps = struct.pack("<HHIII", 1, 1, following, len(areas), 0) + b"".join(struct.pack("<QQ", *a) for a in areas)
        if fault == "huge" and index == BAR0:
            size = 2**63
        if fault == "odd" and index == BAR0:
            size = 0x3FFF
        body = struct.pack("<IIIIQQ", 32 + len(caps), flags, index, 32 if caps else 0, size, AT if index == BAR2 else 0)
        self.reply(m, body + caps, fds)

    def io_fds(self, m):
        index = struct.unpack_from("<I", m[4], 8)[0]
        body, fds = b"", []
        if index == BAR0:
            fds = self.f.doorbells
            body = struct.pack("<QQIIIIQ", R["DOORBELL_7"], 4, 0, 0, 1, 0, 7) + struct.pack("<QQIIIIQ", R["DOORBELL_ANY"], 4, 1, 0, 0, 0, 0)
        self.reply(m, struct.pack("<IIII", 16 + len(body), 0, index, len(body) // 40) + body, fds)

    def irq_info(self, m):
        index = struct.unpack_from("<I", m[4], 8)[0]
        flags, count = {INTX: (7, 1), MSIX: (9, VECTORS)}.get(index, (0, 0))
        if self.options.fault == "irqs" and index == MSIX:
            count = 2**31
        self.reply(m, struct.pack("<IIII", 16, flags, index, count))

    def set_irqs(self, m):
        _, flags, index, start, count = struct.unpack_from("<IIIII", m[4])
        if flags & 0x20 and count == 0:
            for key in [k for k in self.irqs if k[0] == index]:
                os.close(self.irqs.pop(key))
        elif flags & 0x24 == 0x24:
            for i in range(count):
                old = self.irqs.pop((index, start + i), None)
                if old is not None:
                    os.close(old)
                if m[5]:
                    self.irqs[index, start + i] = m[5].pop(0)
        elif flags & 0x21 == 0x21:
            for i in range(count):
                self.signal(index, start + i)
        elif flags & 0x14 == 0x14:  # where the end of INTx would be told: the client has to say it
            return self.reply(m, error=errno.ENOTTY)
        elif flags & 0x10 and index == INTX:
            self.f.masked = False
            self.intx(self.f.asserted)
        self.reply(m)

    def dma_map(self, m):
        _, _, offset, iova, size = struct.unpack("<IIQQQ", m[4])
        memory = mmap.mmap(m[5][0], size, offset=offset) if m[5] else None
        self.maps.append((iova, size, memory))
        self.reply(m)
        if self.options.fault == "dma-flood":
            for i in range(20000):
                send(self.sock, HEADER.pack(i & 0xFFFF, DMA_READ, 32, NO_REPLY, 0) + struct.pack("<QQ", 0, 4096))

    def dma_unmap(self, m):
        _, _, iova, size = struct.unpack("<IIQQ", m[4])
        self.maps = [x for x in self.maps if x[:2] != (iova, size)]
        self.reply(m, m[4])

    def access(self, m):
        offset, region, count = struct.unpack_from("<QII", m[4])
        if offset + count > SIZES.get(region, 0) or count > XFER:
            return self.reply(m, error=errno.EINVAL)
        if m[1] == REGION_READ:
            self.reply(m, m[4][:16] + self.read(region, offset, count))
        else:
            if m[2] & NO_REPLY and region in (BAR0, BAR2):
                self.f.set("POSTED", self.f.get("POSTED") + 1)
            elif m[2] & NO_REPLY:
                print(f"a posted write to region {region}, which is not memory", file=sys.stderr)
            self.write(region, offset, m[4][16:])
            self.reply(m, m[4][:16])

    def write_multi(self, m):
        (count,) = struct.unpack_from("<Q", m[4])
        for i in range(count):
            offset, region, size = struct.unpack_from("<QII", m[4], 8 + 24 * i)
            self.write(region, offset, m[4][24 + 24 * i : 24 + 24 * i + size])
        self.reply(m, struct.pack("<Q", count))

    def reset(self, m):
        for fd in self.irqs.values():
            os.close(fd)
        self.irqs = {}
        self.f.resets += 1
        self.f.power_on()
        self.f.config[4:6] = b"\0\0"
        self.reply(m)

    def serve(self):
        todo = {
            VERSION: self.version, DMA_MAP: self.dma_map, DMA_UNMAP: self.dma_unmap, DEVICE_GET_REGION_INFO: self.region_info,
            DEVICE_GET_REGION_IO_FDS: self.io_fds, DEVICE_GET_IRQ_INFO: self.irq_info, DEVICE_SET_IRQS: self.set_irqs,
            REGION_READ: self.access, REGION_WRITE: self.access, DEVICE_RESET: self.reset, REGION_WRITE_MULTI: self.write_multi,
            DEVICE_GET_INFO: lambda m: self.reply(m, struct.pack("<IIII", 16, 3, 9, 5)),
        }
        try:
            while True:
                m = self.command(self.sock)
                todo.get(m[1], lambda m: self.reply(m, error=errno.ENOTSUP))(m)
                for fd in m[5]:
                    os.close(fd)
        except Gone:
            pass
        for fd in self.irqs.values():
            os.close(fd)
        self.sock.close()
        if self.twin:
            self.twin.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("path", nargs="?")
    p.add_argument("--fd", type=int)
    p.add_argument("--twin", action="store_true")
    p.add_argument("--no-file", action="store_true", help="BAR 2 cannot be mapped")
    p.add_argument("--fault", choices=FAULTS)
    p.add_argument("--at", type=lambda s: COMMANDS.get(s) or int(s), default=0)
    p.add_argument("--nth", type=int, default=0)
    p.add_argument("--once", action="store_true", help="ends with its first client")
    o = p.parse_args()
    function = Function(sealed=o.fault != "unsealed", with_file=not o.no_file)
    if o.fd is not None:
        sock = socket.socket(fileno=o.fd)
        Connection(sock, function, o).serve()
        return
    if os.path.exists(o.path):
        os.unlink(o.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(o.path)
    listener.listen()
    while True:
        Connection(listener.accept()[0], function, o).serve()
        if o.once:
            return


if __name__ == "__main__":
    main()
