"""HTTP/1.1 over asyncio, as the workloads need it: byte-exact and cheap.

Parsing is llhttp's (`httptools`). Around it stand a server protocol here, and a client connection in `http1_client`,
that keep what the usual frameworks hide: the request target as written, header case and order, the moment of
arrival, and control over how a connection ends. A request costs some tens of microseconds, which matters because the
apps under a latency measurement share the machine with what is measured.

Every buffer is bounded: header bytes, body bytes, and pipelined requests (reading stops while one is answered).
"""

from __future__ import annotations

import asyncio
import http
import socket
import struct
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Literal, Protocol, cast

import httptools

MAX_HEADER_BYTES = 64 << 10
MAX_BODY_BYTES = 8 << 20

Pairs = list[tuple[str, str]]
Fate = Literal["answer", "close", "close-mid", "reset", "reset-mid"]
"""What becomes of the connection: answer normally; end it with a FIN or an RST instead of the response, or in the
middle of its body."""

REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_RST = struct.pack("ii", 1, 0)
NO_BODY = frozenset({204, 304})


class Request:
    """A complete request. `target` is what stood on the request line."""

    __slots__ = (
        "arrival_ns",
        "body",
        "headers",
        "keep_alive",
        "local",
        "method",
        "peer",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.version = "1.1"
        self.headers: Pairs = []
        self.body = b""
        self.keep_alive = True
        self.upgrade = False
        """It asks for an upgrade (or a tunnel): what follows it is not HTTP/1."""
        self.peer: tuple[str, int] = ("", 0)
        self.local: tuple[str, int] = ("", 0)
        self.arrival_ns = 0

    def header(self, name: str) -> str | None:
        """The first value of header `name` (given in lower case)."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


class Response:
    """What to answer. `Content-Length` is added; nothing else is, unless the connection must close."""

    __slots__ = ("body", "fate", "headers", "status", "takeover")

    def __init__(
        self,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        fate: Fate = "answer",
        takeover: Callable[[], asyncio.Protocol] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.fate: Fate = fate
        self.takeover = takeover
        """After a 101: makes the protocol that owns the connection from then on."""

    def head(self, *, close: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        if self.status >= 200 and self.status not in NO_BODY:
            lines.append(f"Content-Length: {len(self.body)}\r\n")
        if close:
            lines.append("Connection: close\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1", errors="replace")


Handler = Callable[[Request], "Response | Awaitable[Response]"]
"""Answers a request; a handler that need not wait answers at once and costs no task. It is cancelled when the caller
goes away."""


class Server:
    """What the connections of one app share: its handler, and whether it is draining."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.draining = False
        self.connections: set[ServerConnection] = set()
        self.opened = 0
        self.peak = 0

    def __call__(self) -> ServerConnection:
        return ServerConnection(self)

    async def drain(self, lame_duck: float, deadline: float) -> None:
        """Answer with `Connection: close` for `lame_duck` seconds, then close what is idle and let the rest finish,
        until `deadline` seconds."""
        self.draining = True
        await drain_connections(self.connections, lame_duck, deadline)


class Closable(Protocol):
    def close_if_idle(self) -> None:
        """Close, unless a request is in progress."""


async def drain_connections(connections: Collection[Closable], lame_duck: float, deadline: float) -> None:
    """After `lame_duck` seconds close each connection as it becomes idle; give up after `deadline` seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while connections and loop.time() - began < deadline:
        if loop.time() - began >= lame_duck:
            for connection in list(connections):
                connection.close_if_idle()
        await asyncio.sleep(0.02)


class ServerConnection(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._headers_done = False
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._peer: tuple[str, int] = ("", 0)
        self._local: tuple[str, int] = ("", 0)
        self._refused = 0
        self._rest = b""
        self._writable = asyncio.Event()
        self._writable.set()

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = address(transport, "peername")
        self._local = address(transport, "sockname")
        server = self._server
        server.connections.add(self)
        server.opened += 1
        server.peak = max(server.peak, len(server.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        # The caller is gone: everything we answer takes a connection that is open both ways. Closing cancels.
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # The request itself was delivered; a handler that takes the upgrade takes the connection over.
            rest = data[exc.args[0] :]
            protocol = self._transport.get_protocol()
            if protocol is not self and isinstance(protocol, asyncio.Protocol):
                if rest:
                    protocol.data_received(rest)
            else:
                self._rest = rest
                self._transport.pause_reading()
        except httptools.HttpParserError:
            self._refuse(self._refused or 400)

    def close_if_idle(self) -> None:
        if self._task is None and not self._queue and not self._header_bytes:
            self._transport.close()

    # --- llhttp

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self._headers_done:  # after it come trailers
            self._request.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._headers_done = True
        if self._request.header("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refused = 413
            raise ValueError("body too large")
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._request
        request.arrival_ns = time.monotonic_ns()
        request.method = self._parser.get_method().decode("latin-1")
        request.version = self._parser.get_http_version()
        request.upgrade = self._parser.should_upgrade()
        request.keep_alive = not request.upgrade and self._parser.should_keep_alive()
        request.peer = self._peer
        request.local = self._local
        if self._body:
            request.body = b"".join(self._body)
            self._body = []
        self._request = Request()
        self._header_bytes = self._body_bytes = 0
        self._headers_done = False
        if self._task is not None or self._queue:
            self._queue.append(request)
            self._transport.pause_reading()
        else:
            self._serve(request)

    # --- answering

    def _serve(self, request: Request) -> None:
        if self._transport.is_closing():
            return
        result = self._server.handler(request)
        if isinstance(result, Response):
            self._write(request, result)
        else:
            self._task = asyncio.ensure_future(self._answer(request, result))

    async def _answer(self, request: Request, result: Awaitable[Response]) -> None:
        try:
            try:
                response = await result
            except Exception:
                traceback.print_exc()
                response = Response(500)
            self._write(request, response)
            await self._writable.wait()
        finally:
            self._task = None
        if response.takeover is not None:
            return
        if self._queue:
            self._serve(self._queue.popleft())
        if not self._queue and not self._transport.is_closing():
            self._transport.resume_reading()

    def _write(self, request: Request, response: Response) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        fate = response.fate
        if fate == "reset":
            reset(transport)
            return
        if fate == "close":
            transport.close()
            return
        close = self._server.draining or not request.keep_alive
        head = response.head(close=close and response.takeover is None)
        body = b"" if request.method == "HEAD" or response.status in NO_BODY else response.body
        if fate == "answer":
            transport.write(head + body)
            if response.takeover is not None:
                protocol = response.takeover()
                self._server.connections.discard(self)
                transport.set_protocol(protocol)
                protocol.connection_made(transport)
                if self._rest:
                    protocol.data_received(self._rest)
                transport.resume_reading()
            elif close:
                transport.close()
            return
        transport.write(head + body[: len(body) // 2])
        if fate == "reset-mid":
            # An RST overtakes what is still queued at the receiver; let the first half arrive.
            asyncio.get_running_loop().call_later(0.02, reset, transport)
        else:
            transport.close()

    def _refuse(self, status: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(Response(status).head(close=True))
            self._transport.close()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refused = 431
            raise ValueError("headers too large")


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection with an RST."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    cast(asyncio.Transport, transport).abort()


def address(transport: asyncio.BaseTransport, which: str) -> tuple[str, int]:
    """`peername` or `sockname` as host and port; empty when the peer has already gone."""
    value = transport.get_extra_info(which)
    return (str(value[0]), int(value[1])) if value else ("", 0)
