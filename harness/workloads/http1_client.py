"""HTTP/1.1, the caller's side: byte-exact and cheap. It never retries and never adds a byte."""

from __future__ import annotations

import asyncio
from typing import Literal, cast

import httptools

from harness.workloads.http1 import MAX_BODY_BYTES, MAX_HEADER_BYTES, NO_BODY, Pairs, address


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
