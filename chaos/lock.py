"""The safety lever: one game day in one world, and a way to stop it from outside.

The lock is a file lock, so it falls when its holder dies, however it dies. The file names the holder, for messages and
for `stop_holder`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

LOCK = "lock"


class Engaged(Exception):
    """Another game day holds the world."""


@contextlib.contextmanager
def engaged(folder: Path) -> Iterator[None]:
    """Hold the world while entered. Raises `Engaged`, which names the holder, when somebody else does."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Somebody asking whether it is held holds it for an instant; a game day holds it for longer than this.
        patience = time.monotonic() + 0.25
        while not (taken := _take(fd)) and time.monotonic() < patience:
            time.sleep(0.05)
        if not taken:
            raise Engaged(
                f"a game day is running in this world already (pid {holder(folder) or 'unknown'}); "
                "wait for it, or end and undo it with: meshproof heal"
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {psutil.Process().create_time()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def held(folder: Path) -> bool:
    """Whether a game day holds the world now."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take(fd)
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(folder: Path) -> int:
    """Pid of the process that last took the lock, if it still lives; 0 otherwise."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        pid, started = (folder / LOCK).read_text().split()
        process = psutil.Process(int(pid))
        if abs(process.create_time() - float(started)) < 0.1:
            return process.pid
    return 0


def stop_holder(folder: Path, deadline: float = 30.0) -> int:
    """Ask the game day that holds the world to heal and end, and wait for that. Its pid; 0 when there was none.

    It is sent SIGTERM once, and SIGKILL if it has not let go at the deadline: what it leaves is in the journal.
    """
    if not held(folder):
        return 0
    pid = holder(folder)
    if not pid:
        raise Engaged("the world is held by a process that cannot be named; is it of another container or user?")
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + deadline
    killed = False
    while held(folder):
        if time.monotonic() > end:
            if killed:
                raise Engaged(f"game day {pid} holds the world still, after SIGKILL")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed, end = True, time.monotonic() + 5.0
        time.sleep(0.05)
    return pid
