"""A container's log: a file that the program writes itself, kept from growing without end.

The program holds the file open, so it cannot be renamed away, and truncating it would lose lines written meanwhile.
The oldest blocks are given back instead (a hole), which costs the program nothing and loses nothing but them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from harness.substrate.local import syscalls

KEEP_BYTES: Final = 16 << 20
_SLACK_BYTES: Final = 4 << 20
_BLOCK: Final = 4096


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def trim(path: Path, keep: int = KEEP_BYTES, slack: int = _SLACK_BYTES) -> None:
    """Give back what is older than the last `keep` bytes, once there are `slack` bytes of it."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        if status.st_blocks * 512 > keep + slack and status.st_size > keep:
            fd = os.open(path, os.O_WRONLY)
            try:
                syscalls.punch_hole(fd, 0, (status.st_size - keep) // _BLOCK * _BLOCK)
            finally:
                os.close(fd)


def read(path: Path, last: int | None = None) -> str:
    """What is left of the log, whole lines only; at most the `last` bytes of it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            try:
                start = os.lseek(file.fileno(), 0, os.SEEK_DATA)
            except OSError:
                return ""  # nothing but a hole, or nothing at all
            if last is not None:
                start = max(start, size - last)
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return ""
    if start > 0:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def tail(path: Path, lines: int) -> list[str]:
    return read(path, last=64 << 10).splitlines()[-lines:]
