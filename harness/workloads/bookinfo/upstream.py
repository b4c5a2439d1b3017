"""Calls to another service over kept-alive connections, as real apps make them.

Connections are bounded and so are those who wait for one. A connection that the server closed while it was idle is
not used again, and when the two cross on the wire the request, a GET, is sent once more on a new one.
"""

from __future__ import annotations

import asyncio
from collections import deque

from harness.workloads.http1 import Pairs
from harness.workloads.http1_client import Broken, ClientConnection, Reply

MAX_CONNECTIONS = 128
"""To one upstream; more than that are never needed at the rates a small machine carries."""
MAX_WAITING = 256
"""Requests that may wait for a connection; one more fails at once."""


class Unavailable(Exception):
    """No response came: the upstream refused, was too slow, broke off, or is not there."""


class Upstream:
    """One service, by its host name and port."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._authority = host if port == 80 else f"{host}:{port}"
        self._idle: list[ClientConnection] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def get(self, path: str, headers: Pairs, within: float) -> Reply:
        """GET `path` with `headers`. Raises `Unavailable` when no response came in `within` seconds."""
        lines = [f"GET {path} HTTP/1.1\r\nHost: {self._authority}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in headers]
        lines.append("\r\n")
        data = "".join(lines).encode("latin-1", errors="replace")
        try:
            async with asyncio.timeout(within):
                return await self._send(data)
        except TimeoutError:
            raise Unavailable(f"{self._authority}{path}: no response within {within:g} s") from None
        except (OSError, Broken) as exc:
            raise Unavailable(f"{self._authority}{path}: {exc}") from exc

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _send(self, data: bytes) -> Reply:
        await self._acquire()
        connection: ClientConnection | None = None
        try:
            while self._idle:
                # The youngest first: the oldest then idle out, and a healthy connection is the likeliest.
                connection = self._idle.pop()
                if not connection.closed:
                    break
                connection = None
            if connection is not None:
                try:
                    return await connection.request(data)
                except Broken as exc:
                    if exc.started:
                        raise
                    # Closed by the server as we sent on it.
            connection = await self._connect()
            return await connection.request(data)
        finally:
            if connection is not None and not connection.closed:
                self._idle.append(connection)
            self._release()

    async def _connect(self) -> ClientConnection:
        _, connection = await asyncio.get_running_loop().create_connection(ClientConnection, self.host, self.port)
        return connection

    async def _acquire(self) -> None:
        if self._open < MAX_CONNECTIONS:
            self._open += 1
            return
        if len(self._waiting) >= MAX_WAITING:
            raise OSError(f"{self._open} requests under way and {len(self._waiting)} waiting")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._open -= 1
