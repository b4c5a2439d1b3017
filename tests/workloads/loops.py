"""Event loops of their own, so that synchronous tests talk to asyncio servers over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from harness.workloads.echo.protocol import Instance
from harness.workloads.echo.server import Ports, Running

T = TypeVar("T")
ANY = Ports(http=0, http2=0, grpc=0, tcp=0, tcp_server=0, auto=0, health=0, control=0)


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def close(self) -> None:
        async def cancel() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self.run(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


@contextmanager
def event_loop() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


class Pod:
    """What the control client needs of a PodInfo."""

    namespace = "test"
    name = "echo"


class EchoProgram:
    """An echo program on free ports of loopback; also the `world` through which its control API is reached."""

    def __init__(self, loop: Loop, instance: Instance) -> None:
        self.loop = loop
        self.pod: Any = Pod()

        async def begin() -> Running:
            running = Running(instance)
            await running.listen(ANY, "127.0.0.1")
            return running

        self.running = loop.run(begin())
        self.ports = self.running.ports

    def connect(self, address: tuple[str, int], *, source: Any, timeout: float = 5.0) -> socket.socket:
        return socket.create_connection((address[0], self.ports.control), timeout)

    def url(self, path: str = "/", port: int | None = None) -> str:
        return f"http://127.0.0.1:{port or self.ports.http}{path}"


def until(seen: Callable[[], T], seconds: float = 10.0) -> T:
    """Wait until `seen()` is true."""
    deadline = time.monotonic() + seconds
    while not (result := seen()):
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {result!r}"
        time.sleep(0.01)
    return result
