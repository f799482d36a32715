#!/usr/bin/env python3
"""romdisk.py --file PATH (--socket-path PATH | --fd N) - a file as a read-only virtio disk, over vhost-user.

The device of device.md once more, without the SDK: the standard library and nothing else.  Split rings; one
front-end after the other.  What a front-end or its guest gets wrong ends the connection, with a sentence.

It does not confine itself, and it needs a processor that keeps stores in order (x86): Python has no fences.
"""

import argparse
import mmap
import os
import selectors
import signal
import socket
import struct
import sys

# vhost-user.rst
REPLY, NEED_REPLY = 4, 8
NO_FD = 0x100
PROTOCOL_FEATURES = 1 << 30
MQ, REPLY_ACK, CONFIG, RESET, MEM_SLOTS, STATUS = 1 << 0, 1 << 3, 1 << 9, 1 << 13, 1 << 15, 1 << 16
# virtio 1.2
VERSION_1, BLK_SEG_MAX, BLK_RO = 1 << 32, 1 << 2, 1 << 5
NEXT, WRITE = 1, 2
IN, OUT, OK, IOERR, UNSUPP = 0, 1, 0, 1, 2
SEGMENTS, QUEUE_SIZE_MAX, SLOTS_MAX = 130, 256, 32


class Broken(Exception):
    """The front-end or the driver broke the rules."""


class Memory:
    """The guest's: regions of (guest address, the front-end's address, view)."""

    def __init__(self):
        self.regions = []

    def add(self, gpa, size, user, offset, fd):
        if len(self.regions) == SLOTS_MAX or offset + size > os.fstat(fd).st_size:
            raise Broken("a memory region beyond its file, or one too many")
        # From the file's start: an offset need not be a multiple of the page size.  Unmapped with its last view.
        view = memoryview(mmap.mmap(fd, offset + size))
        self.regions.append((gpa, user, view[offset:]))

    def remove(self, gpa, size, user):
        self.regions = [r for r in self.regions if (r[0], len(r[2]), r[1]) != (gpa, size, user)]

    def pieces(self, at, length, name=0):
        """Views of [at, at + length); `name` 0: guest addresses, 1: the front-end's."""
        found = []
        while length:
            for region in self.regions:
                off = at - region[name]
                if 0 <= off < len(region[2]):
                    found.append(region[2][off : off + length])
                    break
            else:
                raise Broken(f"{at:#x} is no guest memory")
            at += len(found[-1])
            length -= len(found[-1])
        return found

    def ring(self, at, length):
        found = self.pieces(at, length, 1)
        if len(found) != 1 or at % 2:
            raise Broken("a ring in pieces, or at an odd address")
        return found[0]


class Disk:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        self.sectors = os.fstat(self.fd).st_size // 512
        self.config = struct.pack("<QII", self.sectors, 0, SEGMENTS - 2).ljust(60, b"\0")

    def request(self, out, into):
        """One request, as views to read and views to write.  How many bytes were written."""
        header = b"".join(out)[:16]
        if len(header) < 16 or not into:
            raise Broken("a request without header or status")
        kind, _, sector = struct.unpack("<IIQ", header)
        status, into[-1] = into[-1][-1:], into[-1][:-1]
        length = sum(len(piece) for piece in into)
        done = kind == IN and sector < self.sectors and os.preadv(self.fd, into, sector * 512) == length
        status[0] = OK if done else IOERR if kind in (IN, OUT) else UNSUPP
        return length + 1 if done else 1


class Queue:
    def __init__(self):
        self.size = self.next = self.used_idx = 0
        self.place = None  # of descriptors, used ring, available ring: addresses of the front-end's
        self.kick = self.call = -1
        self.enabled = False

    def chain(self, memory, desc, at):
        out, into = [], []
        for _ in range(self.size):
            if at >= self.size:
                break
            addr, length, flags, following = struct.unpack_from("<QIHH", desc, 16 * at)
            (into if flags & WRITE else out).extend(memory.pieces(addr, length))
            if len(out) + len(into) > SEGMENTS:
                break
            if not flags & NEXT:
                return out, into
            at = following
        raise Broken("a chain of descriptors that leads nowhere")

    def turn(self, memory, disk):
        """Serves what is there.  Indexes go as "@H", one store or load each; "<H" would go byte by byte."""
        if not (self.enabled and self.size and self.place and self.kick >= 0):
            return
        desc = memory.ring(self.place[0], 16 * self.size)
        used = memory.ring(self.place[1], 6 + 8 * self.size)
        avail = memory.ring(self.place[2], 6 + 2 * self.size)
        waiting = (struct.unpack_from("@H", avail, 2)[0] - self.next) & 0xFFFF
        if waiting > self.size:
            raise Broken("the driver offers more than the queue holds")
        (index,) = struct.unpack_from("@H", used, 2)
        for _ in range(waiting):
            (head,) = struct.unpack_from("<H", avail, 4 + 2 * (self.next % self.size))
            written = disk.request(*self.chain(memory, desc, head))
            struct.pack_into("<II", used, 4 + 8 * (index % self.size), head, written)
            self.next, index = (self.next + 1) & 0xFFFF, (index + 1) & 0xFFFF
        if waiting:
            struct.pack_into("@H", used, 2, index)
            if self.call >= 0:
                os.eventfd_write(self.call, 1)  # whether or not the driver waits for it: allowed, and free of races


class Connection:
    """One front-end.  on_N() takes message N's payload and descriptors (it owns self.fds), and returns the reply's payload or None."""

    def __init__(self, sock, disk):
        self.sock, self.disk = sock, disk
        self.memory, self.queue = Memory(), Queue()
        self.fds, self.protocol, self.status = [], 0, 0
        self.events = selectors.DefaultSelector()
        self.events.register(sock, selectors.EVENT_READ)
        sock.settimeout(10)  # for the rest of a message, and for replies

    def serve(self):
        try:
            while True:
                for key, _ in self.events.select():
                    if key.fileobj is self.sock:
                        self.message()
                    elif key.fd == self.queue.kick:
                        os.eventfd_read(key.fd)
                        self.queue.turn(self.memory, self.disk)
        except EOFError:
            pass
        except (Broken, struct.error, OSError, ValueError) as e:
            print(f"romdisk.py: front-end dropped: {e}", file=sys.stderr)
        finally:
            self.set_kick(-1)
            self.set_call(-1)
            self.events.close()
            self.sock.close()

    def receive(self, size):
        data = b""
        while len(data) < size:
            piece, fds, flags, _ = socket.recv_fds(self.sock, size - len(data), SLOTS_MAX)
            self.fds += fds
            if flags & socket.MSG_CTRUNC:
                raise Broken("more descriptors than any message carries")
            if not piece:
                raise EOFError
            data += piece
        return data

    def message(self):
        try:
            number, flags, size = struct.unpack("<III", self.receive(12))
            if size > 4096 or flags & 3 != 1:
                raise Broken(f"message {number} of {size} bytes")
            handler = getattr(self, f"on_{number}", None)
            payload = self.receive(size)
            if not handler:
                raise Broken(f"message {number} belongs to nothing that was offered")
            reply = handler(payload)
            if reply is None and flags & NEED_REPLY and self.protocol & REPLY_ACK:
                reply = struct.pack("<Q", 0)
            if reply is not None:
                self.answer(number, reply)
        finally:
            while self.fds:
                os.close(self.fds.pop())

    def answer(self, number, reply):
        self.sock.sendall(struct.pack("<III", number, 1 | REPLY, len(reply)) + reply)

    def vring(self, payload):
        index, number = struct.unpack("<II", payload)
        if index != 0:
            raise Broken(f"there is no queue {index}")
        return number

    def vring_fd(self, payload):
        (value,) = struct.unpack("<Q", payload)
        if value & ~NO_FD or (value & NO_FD == 0) != (len(self.fds) == 1):
            raise Broken("a descriptor for no queue, or none")
        return self.fds.pop() if self.fds else -1

    def set_kick(self, fd):
        if self.queue.kick >= 0:
            self.events.unregister(self.queue.kick)
            os.close(self.queue.kick)
        self.queue.kick = fd
        if fd >= 0:
            self.events.register(fd, selectors.EVENT_READ)

    def set_call(self, fd):
        if self.queue.call >= 0:
            os.close(self.queue.call)
        self.queue.call = fd

    def on_1(self, _):  # GET_FEATURES
        return struct.pack("<Q", VERSION_1 | PROTOCOL_FEATURES | BLK_RO | BLK_SEG_MAX)

    def on_2(self, payload):  # SET_FEATURES
        if not struct.unpack("<Q", payload)[0] & PROTOCOL_FEATURES:
            self.queue.enabled = True

    def on_3(self, _):  # SET_OWNER
        pass

    def on_5(self, payload):  # SET_MEM_TABLE
        count, _ = struct.unpack_from("<II", payload)
        if count != len(self.fds) or len(payload) != 8 + 32 * count:
            raise Broken("a memory table with other descriptors than regions")
        self.memory = Memory()
        for i in range(count):
            self.memory.add(*struct.unpack_from("<QQQQ", payload, 8 + 32 * i), self.fds[i])

    def on_8(self, payload):  # SET_VRING_NUM
        size = self.vring(payload)
        if not 0 < size <= QUEUE_SIZE_MAX or size & (size - 1):
            raise Broken(f"a queue of {size}")
        self.queue.size = size

    def on_9(self, payload):  # SET_VRING_ADDR: descriptors, used ring, available ring
        index, _, *self.queue.place, _ = struct.unpack("<IIQQQQ", payload)
        self.vring(struct.pack("<II", index, 0))

    def on_10(self, payload):  # SET_VRING_BASE
        self.queue.next = self.vring(payload) & 0xFFFF

    def on_11(self, payload):  # GET_VRING_BASE: stops the queue
        self.vring(payload)
        self.set_kick(-1)
        return struct.pack("<II", 0, self.queue.next)

    def on_12(self, payload):  # SET_VRING_KICK
        self.set_kick(self.vring_fd(payload))
        self.queue.turn(self.memory, self.disk)

    def on_13(self, payload):  # SET_VRING_CALL
        self.set_call(self.vring_fd(payload))

    def on_14(self, payload):  # SET_VRING_ERR: a broken queue ends the connection, which says more
        fd = self.vring_fd(payload)
        if fd >= 0:
            os.close(fd)

    def on_15(self, _):  # GET_PROTOCOL_FEATURES
        return struct.pack("<Q", MQ | REPLY_ACK | CONFIG | RESET | MEM_SLOTS | STATUS)

    def on_16(self, payload):  # SET_PROTOCOL_FEATURES
        (self.protocol,) = struct.unpack("<Q", payload)

    def on_17(self, _):  # GET_QUEUE_NUM
        return struct.pack("<Q", 1)

    def on_18(self, payload):  # SET_VRING_ENABLE
        self.queue.enabled = self.vring(payload) == 1
        self.queue.turn(self.memory, self.disk)

    def on_24(self, payload):  # GET_CONFIG: what lies beyond the end reads as zeros
        offset, size, flags = struct.unpack_from("<III", payload)
        if offset + size > 256:
            raise Broken("configuration space beyond its end")
        return struct.pack("<III", offset, size, flags) + self.disk.config.ljust(256, b"\0")[offset : offset + size]

    def on_34(self, _):  # RESET_DEVICE
        self.set_kick(-1)
        self.queue.enabled = False
        self.status = 0

    def on_36(self, _):  # GET_MAX_MEM_SLOTS
        return struct.pack("<Q", SLOTS_MAX)

    def on_37(self, payload):  # ADD_MEM_REG
        if len(self.fds) != 1:
            raise Broken("a memory region without its descriptor")
        self.memory.add(*struct.unpack_from("<QQQQ", payload, 8), self.fds[0])

    def on_38(self, payload):  # REM_MEM_REG
        self.memory.remove(*struct.unpack_from("<QQQ", payload, 8))

    def on_39(self, payload):  # SET_STATUS
        (status,) = struct.unpack("<Q", payload)
        if status == 0:
            self.on_34(b"")
        self.status = status & 0xFF

    def on_40(self, _):  # GET_STATUS
        return struct.pack("<Q", self.status)


def main():
    parser = argparse.ArgumentParser(description="A file as a read-only virtio disk, over vhost-user.")
    parser.add_argument("--file", default="disk.raw", help="the disk (disk.raw)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket-path", help="listen here")
    where.add_argument("--fd", type=int, help="serve on this connected socket")
    args = parser.parse_args()
    disk = Disk(args.file)
    if args.fd is not None:
        Connection(socket.socket(fileno=args.fd), disk).serve()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(args.socket_path)
    try:
        listener.listen()
        while True:
            Connection(listener.accept()[0], disk).serve()
    finally:
        os.unlink(args.socket_path)


if __name__ == "__main__":
    main()
