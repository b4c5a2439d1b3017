"""Where a companion server runs: a network namespace seen as three calls.

A `World` is a `Place` (its node namespace); `Here` is this process's own namespace. Companions need no more than
this, so they start the same way on loopback in a test and inside a closed world.
"""

from __future__ import annotations

import socket as sockets
import subprocess
from collections.abc import Sequence
from typing import Any, Protocol


class Place(Protocol):
    """The part of `harness.substrate.api.World` that a companion server needs."""

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[bytes]: ...

    def connect(self, address: tuple[str, int], *, timeout: float = 5.0) -> sockets.socket: ...

    def socket(self) -> sockets.socket: ...


class Here:
    """This process's own network namespace."""

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(list(argv), **kwargs)

    def connect(self, address: tuple[str, int], *, timeout: float = 5.0) -> sockets.socket:
        return sockets.create_connection(address, timeout=timeout)

    def socket(self) -> sockets.socket:
        return sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM)


def free_port(place: Place, host: str = "127.0.0.1") -> int:
    """A TCP port of `host` that nobody listens on now. Whoever uses it must cope with losing the race for it."""
    with place.socket() as probe:
        probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
