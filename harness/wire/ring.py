"""A packet socket with a memory-mapped ring (TPACKET_V3): the kernel writes packets, we walk them, nothing is copied
by a system call, and the kernel counts what it had to drop.

Layouts and constants are those of `linux/if_packet.h`; the filter is classic BPF (`linux/filter.h`).
"""

from __future__ import annotations

import ctypes
import mmap
import select
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_PACKET_OUTGOING = 4
_ARPHRD_LOOPBACK = 772
_STATUS_USER = 1

_BLOCK_SIZE = 1 << 20  # holds any packet, a 64 KiB segmentation-offloaded one too
_FRAME_SIZE = 2048  # nominal in version 3, where packets have their own size
_RETIRE_MS = 50  # a block is handed over after this, full or not

_BLOCK_HEADER = struct.Struct("=IIIIII")  # version, offset to private, status, packets, offset to first, length
_PACKET_HEADER = struct.Struct("=IIIIIIHH")  # next, sec, nsec, snaplen, len, status, mac, net
_LINK = struct.Struct("=HHiHBB")  # sockaddr_ll: family, protocol (big endian), ifindex, hatype, pkttype, halen
_LINK_OFFSET = 48  # TPACKET_ALIGN(sizeof(struct tpacket3_hdr))

SNAPLEN = 65535


class Frame(NamedTuple):
    seconds: int
    nanoseconds: int
    interface: int
    outgoing: bool
    ethertype: int
    data: bytes
    """From the Ethernet header on."""
    network: int
    """Offset of the IP header in `data`."""
    length: int


_Step = tuple[int, str, str, int]  # operation, label if true, label if false, operand


def _filter() -> bytes:
    """IPv4 and IPv6 only, and no TCP segment that is a bare acknowledgement: half of all packets, and they say nothing.

    Not narrowed to TCP: a datagram between pods is a flow that nobody encrypted, and must be seen."""
    load_half, load_byte, load_byte_indexed, load_header_length = 0x28, 0x30, 0x50, 0xB1
    equal, any_bit, accept = 0x15, 0x45, 0x06
    and_, shift_right, add_x, subtract_x, to_x = 0x54, 0x74, 0x0C, 0x1C, 0x07
    program: list[str | _Step] = [
        (load_half, "", "", 12),  # ethertype
        (equal, "ipv4", "", 0x0800),
        (equal, "keep", "drop", 0x86DD),
        "ipv4",
        (load_byte, "", "", 23),  # protocol
        (equal, "", "keep", 6),
        (load_half, "", "", 20),  # fragment offset and more-fragments
        (any_bit, "keep", "", 0x3FFF),
        (load_header_length, "", "", 14),  # X = IP header length
        (load_byte_indexed, "", "", 27),  # TCP flags
        (any_bit, "keep", "", 0x07),  # FIN, SYN, RST
        (load_byte_indexed, "", "", 26),
        (and_, "", "", 0xF0),
        (shift_right, "", "", 2),  # A = TCP header length
        (add_x, "", "", 0),
        (to_x, "", "", 0),
        (load_half, "", "", 16),  # IP total length
        (subtract_x, "", "", 0),
        (equal, "drop", "keep", 0),  # payload length
        "keep",
        (accept, "", "", SNAPLEN),
        "drop",
        (accept, "", "", 0),
    ]
    labels: dict[str, int] = {}
    steps: list[_Step] = []
    for line in program:
        if isinstance(line, str):
            labels[line] = len(steps)
        else:
            steps.append(line)
    code = b""
    for at, (operation, true, false, operand) in enumerate(steps):
        jumps = [labels[label] - at - 1 if label else 0 for label in (true, false)]
        code += struct.pack("=HBBI", operation, *jumps, operand)
    return code


class Ring:
    """Captures everything that crosses the interfaces of the network namespace it is made in.

    `megabytes` of ring is what can pile up while nobody reads."""

    def __init__(self, megabytes: int = 32) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, struct.pack("=i", _TPACKET_V3))
            code = _filter()
            buffer = ctypes.create_string_buffer(code, len(code))
            program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            frames = megabytes * _BLOCK_SIZE // _FRAME_SIZE
            request = struct.pack("=7I", _BLOCK_SIZE, megabytes, _FRAME_SIZE, frames, _RETIRE_MS, 0, 0)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._map = mmap.mmap(self._socket.fileno(), megabytes * _BLOCK_SIZE)
        except BaseException:
            self._socket.close()
            raise
        self._blocks = megabytes
        self._next = 0
        self._dropped = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def wait(self, seconds: float) -> None:
        select.select([self._socket], [], [], seconds)

    def frames(self) -> Iterator[Frame]:
        """Every frame handed over so far; returns when there is none."""
        while True:
            base = self._next * _BLOCK_SIZE
            _, _, status, count, first, _ = _BLOCK_HEADER.unpack_from(self._map, base)
            if not status & _STATUS_USER:
                return
            at = base + first
            for _ in range(count):
                following, sec, nsec, captured, length, _, mac, net = _PACKET_HEADER.unpack_from(self._map, at)
                _, protocol, interface, hardware, kind, _ = _LINK.unpack_from(self._map, at + _LINK_OFFSET)
                if hardware != _ARPHRD_LOOPBACK:
                    data = self._map[at + mac : at + mac + captured]
                    yield Frame(
                        sec, nsec, interface, kind == _PACKET_OUTGOING, socket.ntohs(protocol), data, net - mac, length
                    )
                at += following
            struct.pack_into("=I", self._map, base + 8, 0)  # give the block back to the kernel
            self._next = (self._next + 1) % self._blocks

    def dropped(self) -> int:
        """Packets the kernel had no room for, since the capture began."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
        self._dropped += struct.unpack("=III", statistics)[1]  # reading resets the kernel's count
        return self._dropped

    def close(self) -> None:
        self._map.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
