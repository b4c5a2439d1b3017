"""The evidence file: classic pcap with nanosecond times, bounded in size, readable by tcpdump and Wireshark."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_MAGIC = 0xA1B23C4D
_ETHERNET = 1
_FILE = struct.Struct("=IHHiIII")
_PACKET = struct.Struct("=IIII")


class PcapWriter:
    """Writes until `limit` bytes are used, then counts what it leaves out."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = path.open("wb", buffering=1 << 16)
        self._room = limit
        self.omitted = 0
        self._file.write(_FILE.pack(_MAGIC, 2, 4, 0, 0, 65535, _ETHERNET))

    def write(self, seconds: int, nanoseconds: int, frame: bytes, length: int) -> None:
        if self._room < len(frame) + _PACKET.size:
            self.omitted += 1
            return
        self._room -= len(frame) + _PACKET.size
        self._file.write(_PACKET.pack(seconds, nanoseconds, len(frame), length))
        self._file.write(frame)

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


def read_pcap(path: Path) -> Iterator[tuple[float, bytes]]:
    """(time, Ethernet frame) of each packet of a file that `PcapWriter` wrote."""
    with path.open("rb") as file:
        magic = _FILE.unpack(file.read(_FILE.size))[0]
        if magic != _MAGIC:
            raise ValueError(f"{path}: not a pcap file with nanosecond times (magic {magic:#x})")
        while len(header := file.read(_PACKET.size)) == _PACKET.size:
            seconds, nanoseconds, captured, _ = _PACKET.unpack(header)
            yield seconds + nanoseconds / 1e9, file.read(captured)
