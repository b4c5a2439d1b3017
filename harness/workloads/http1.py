"""HTTP/1.1 over asyncio, as the workloads need it: byte-exact and cheap.

Parsing is llhttp's (`httptools`). Around it stand a server protocol and a client connection that keep what the usual
frameworks hide: the request target as written, header case and order, the moment of arrival, and control over how
a connection ends. A request costs some tens of microseconds, which matters because the apps under a latency
measurement share the machine with what is measured.

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


class Broken(Exception):
    """A connection ended, or what came was not HTTP, before the response was whole.

    `started`: some byte of the response had come. `kind`: `closed`, `reset` or `protocol`.
    """

    def __init__(self, kind: Literal["closed", "reset", "protocol"], detail: str, reply: Reply | None) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind: Literal["closed", "reset", "protocol"] = kind
        self.detail = detail
        self.reply = reply
        self.started = reply is not None


class Reply:
    """A response as it came."""

    __slots__ = ("body", "headers", "keep_alive", "status", "trailers", "version")

    def __init__(self) -> None:
        self.status = 0
        self.version = ""
        self.headers: Pairs = []
        self.trailers: Pairs = []
        self.body = b""
        self.keep_alive = True

    def header(self, name: str) -> str | None:
        """The first value of header `name` (given in lower case)."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


class ClientConnection(asyncio.Protocol):
    """A connection to a server, for one request at a time. Never retries and never adds a byte."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._reply: Reply | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._header_bytes = 0
        self._headers_done = False
        self._until_eof = False
        self._head_only = False
        self._upgrade = False
        self.closed = False
        self.rest = b""
        """What came after a 101."""
        self.used = 0
        self.local_port = 0

    async def request(self, data: bytes, *, head_only: bool = False, upgrade: bool = False) -> Reply:
        """Send `data` (head and body) and wait for the response; `head_only` for HEAD. Raises `Broken`.

        With `upgrade`, after a 101 reading is paused and `rest` holds what came behind it: the caller gives
        `transport` another protocol.

        Cancelling closes the connection: what is left of the response cannot be told from the next one.
        """
        if self.closed:
            raise Broken("closed", "before the request was sent", None)
        if self._waiter is not None:
            raise RuntimeError("one request at a time")
        self.used += 1
        self._head_only = head_only
        self._upgrade = upgrade
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    @property
    def transport(self) -> asyncio.Transport:
        return self._transport

    def abort(self) -> None:
        """Close now, dropping what was not sent."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.local_port = address(transport, "sockname")[1]

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:
            # Nothing was asked: a server that speaks here is ending the connection.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self.rest = data[exc.args[0] :]
            if not self._upgrade:
                self._fail("protocol", "an upgrade that was not asked for")
                self.abort()
        except httptools.HttpParserError as exc:
            self._fail("protocol", str(exc))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._until_eof and exc is None:
            self._complete()
        elif isinstance(exc, ConnectionResetError | BrokenPipeError):
            self._fail("reset", "")
        else:
            self._fail("closed", str(exc) if exc else "")

    # --- llhttp

    def on_message_begin(self) -> None:
        self._reply = Reply()
        self._body = []
        self._body_bytes = self._header_bytes = 0
        self._headers_done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        reply = self._reply
        self._header_bytes += len(name) + len(value) + 4
        if reply is None or self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("response headers too large")
        pairs = reply.trailers if self._headers_done else reply.headers
        pairs.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is None:
            return
        self._headers_done = True
        reply.status = self._parser.get_status_code()
        reply.version = self._parser.get_http_version()
        reply.keep_alive = self._parser.should_keep_alive()
        if reply.status < 200:
            return
        if self._head_only:
            # llhttp cannot know that no body follows; take a fresh one for what comes next.
            self._complete()
            self._parser = httptools.HttpResponseParser(self)
            return
        framed = reply.status in NO_BODY or any(
            name.lower() in ("content-length", "transfer-encoding") for name, _ in reply.headers
        )
        if not framed:
            self._until_eof = True
            reply.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > 2 * MAX_BODY_BYTES:
            raise ValueError("response body too large")
        self._body.append(body)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None:
            return
        if reply.status == 101 and self._upgrade:
            reply.keep_alive = True
            self._transport.pause_reading()
            self._complete()
        elif reply.status >= 200:
            self._complete()

    # --- ending

    def _complete(self) -> None:
        reply, self._reply = self._reply, None
        self._until_eof = False
        if reply is None:
            return
        reply.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if not reply.keep_alive:
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)

    def _fail(self, kind: Literal["closed", "reset", "protocol"], detail: str) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.body = b"".join(self._body)
            self._body = []
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Broken(kind, detail, reply))


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
