"""WebSocket, both sides. The handshake is plain HTTP/1.1 and made elsewhere, so that its headers stay exact; the
frames are `wsproto`'s."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import deque
from typing import cast

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from harness.workloads.echo.journal import Journal
from harness.workloads.echo.protocol import MAX_BODY, TOKEN_HEADER
from harness.workloads.http1 import Request

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOO_BIG = 1009
MAX_UNREAD = 1_024
"""Messages a client side holds that nobody has asked for yet."""


def accept_key(key: str) -> str:
    """`Sec-WebSocket-Accept` for `key` (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + _GUID).digest()).decode()


class _Frames(asyncio.Protocol):
    """Frames in, whole messages out, whichever the side."""

    def __init__(self, side: ConnectionType) -> None:
        self._connection = Connection(side)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parts: list[bytes] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                self._event(event)
        except (RemoteProtocolError, LocalProtocolError) as exc:
            self.broken(str(exc))
            self._transport.close()

    def _event(self, event: Event) -> None:
        if isinstance(event, TextMessage | BytesMessage):
            part = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
            self._size += len(part)
            if self._size > MAX_BODY:
                self.send(CloseConnection(code=_TOO_BIG))
                self._transport.close()
                return
            self._parts.append(part)
            if event.message_finished:
                message, self._parts, self._size = b"".join(self._parts), [], 0
                self.message(message)
        elif isinstance(event, Ping):
            self.send(event.response())
        elif isinstance(event, CloseConnection):
            if self._connection.state.name == "REMOTE_CLOSING":
                self.send(event.response())
            self._transport.close()

    def send(self, event: Event) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._connection.send(event))

    def message(self, data: bytes) -> None:
        raise NotImplementedError

    def broken(self, why: str) -> None:
        """What came was not WebSocket."""


class WebSocketServer(_Frames):
    """Replies to every message with the echo of it, in the frame of the handshake's request."""

    def __init__(self, journal: Journal, request: Request) -> None:
        super().__init__(ConnectionType.SERVER)
        self._journal = journal
        self._request = request

    def message(self, data: bytes) -> None:
        request = self._request
        entry = self._journal.receive(
            protocol="WebSocket",
            method=request.method,
            path=request.target,
            headers=request.headers,
            peer=request.peer,
            port=request.local[1],
            body=data,
            token=request.header(TOKEN_HEADER) or "",
        )
        self.send(TextMessage(data=entry.body.decode()))
        self._journal.finish(entry, "answered")


class WebSocketClient(_Frames):
    """Sends messages and waits for the answers."""

    def __init__(self) -> None:
        super().__init__(ConnectionType.CLIENT)
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.problem = ""
        self.lost = False

    async def ask(self, data: bytes) -> bytes:
        """Send one message, and wait for one. Raises `ConnectionError` when the connection ends first."""
        if self.lost:
            raise ConnectionAbortedError("closed")
        try:
            self.send(TextMessage(data=data.decode()))
        except UnicodeDecodeError:
            self.send(BytesMessage(data=data))
        while not self._messages:
            if self.lost:
                raise ConnectionAbortedError(self.problem or "closed before the answer")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._messages.popleft()

    def close(self) -> None:
        if not self.lost and self._connection.state.name == "OPEN":
            self.send(CloseConnection(code=1000))
        self._transport.close()

    def message(self, data: bytes) -> None:
        if len(self._messages) >= MAX_UNREAD:
            self.broken("too many unasked messages")
            self._transport.close()
            return
        self._messages.append(data)
        self._wake()

    def broken(self, why: str) -> None:
        self.problem = why

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if exc is not None:
            self.problem = str(exc)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
