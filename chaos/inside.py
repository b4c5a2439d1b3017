"""Sockets that live in a pod's network namespace and belong to a uid of our choice.

A sidecar's interception asks a socket for its owner: packets of uid 1337 pass, all others go through the proxy.
To measure the edge itself, and not some proxy's idea of it, a probe's socket must be owned as the proxy's are.
`World.socket` makes sockets of this process's own uid; hence this module.
"""

from __future__ import annotations

import ctypes
import os
import socket as sockets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def in_namespace(netns: Path | str, make: Callable[[], T], *, uid: int | None = None) -> T:
    """What `make` returns when called on a thread of its own in that network namespace, what it opens being owned by
    `uid`. Raises what `make` raises; `OSError` when the namespace cannot be entered (its pod may be gone)."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, _CLONE_NEWNET) < 0:
                    number = ctypes.get_errno()
                    raise OSError(number, f"cannot enter {netns}: {os.strerror(number)}")
            finally:
                os.close(fd)
            if uid is not None:
                # The file-system uid is a property of the thread and all that a new file takes from it; the C library
                # does not spread it to other threads, as it does with setuid. It reports no error: ask again to see.
                _libc.setfsuid(uid)
                if _libc.setfsuid(-1) != uid:
                    raise PermissionError(f"cannot make sockets of uid {uid}; run as root")
            results.append(make())
        except BaseException as exc:
            errors.append(exc)

    # The thread ends with its borrowed namespace and uid; nothing has to be put back.
    thread = threading.Thread(target=work, name="in-namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def stream_socket(netns: Path | str, *, uid: int | None = None) -> sockets.socket:
    """An unconnected TCP socket of that namespace."""
    return in_namespace(netns, lambda: sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM), uid=uid)
