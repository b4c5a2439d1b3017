"""What every workload process does around its server: quiet garbage collection, and an orderly end on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Sequence
from typing import Protocol

from harness.workloads.http1 import Server

BACKLOG = 1024


def lame_duck_seconds() -> float:
    """How long a server that was told to stop still answers, so that those who have not heard yet are not refused
    (`LAME_DUCK_SECONDS`)."""
    return float(os.environ.get("LAME_DUCK_SECONDS", "0.5"))


def drain_deadline() -> float:
    """Seconds after which a request in progress is given up when stopping (`DRAIN_SECONDS`)."""
    return float(os.environ.get("DRAIN_SECONDS", "10"))


def told_to_stop() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def settle_memory() -> None:
    """Take what was allocated while starting out of the garbage collector's sight: a full collection in the middle
    of a request would be measured as latency."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def serve_until_stopped(server: Server, host: str, port: int) -> None:
    """Listen until told to stop; then answer with `Connection: close` for the lame-duck time, stop accepting, and let
    the requests in progress finish."""
    stop = told_to_stop()
    listener = await asyncio.get_running_loop().create_server(server, host, port, backlog=BACKLOG)
    settle_memory()
    await stop.wait()
    await wind_down([listener], [server])


class Drains(Protocol):
    draining: bool

    async def drain(self, lame_duck: float, deadline: float) -> None:
        """Let the requests in progress finish."""


async def wind_down(listeners: Sequence[asyncio.Server], servers: Sequence[Drains]) -> None:
    for server in servers:
        server.draining = True
    await asyncio.sleep(lame_duck_seconds())
    for listener in listeners:
        listener.close()
    await asyncio.gather(*(server.drain(0.0, drain_deadline()) for server in servers))
