"""The echo over HTTP/2 with prior knowledge, and gRPC on top of it. The protocol is `h2`'s.

Headers are kept as they came (`h2` would join cookies), and validated by `h2`. What cannot be sent yet waits for the
window in a buffer that is bounded by the largest filler.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes

from harness.workloads.clock import Clock
from harness.workloads.echo import grpc_wire as grpc
from harness.workloads.echo.behaviour import NOTHING, Instructions, InvalidInstruction, Plan, instructions, plan
from harness.workloads.echo.journal import Entry, Journal
from harness.workloads.echo.protocol import GRPC_STREAM, GRPC_UNARY, MAX_BODY, Pairs
from harness.workloads.http1 import address, drain_connections

WINDOW = 1 << 20
"""Bytes of one request body in flight."""
LINGER = 1.0
"""Seconds a connection that we end waits for the other side to end it too."""


class Outgoing:
    """What a stream still has to send."""

    __slots__ = ("data", "end", "trailers")

    def __init__(self) -> None:
        self.data = bytearray()
        self.end = False
        self.trailers: Pairs | None = None


class Stream:
    """One request in progress."""

    __slots__ = (
        "arrived",
        "body",
        "deframer",
        "entry",
        "headers",
        "path",
        "size",
        "started",
        "task",
        "told",
        "waiting",
    )

    def __init__(self, headers: Pairs) -> None:
        self.headers = headers
        self.path = next((value for name, value in headers if name == ":path"), "")
        self.body: list[bytes] = []
        self.size = 0
        self.told: Instructions = NOTHING
        self.deframer: grpc.Deframer | None = None
        self.entry: Entry | None = None
        self.task: asyncio.Task[None] | None = None
        self.started = False
        self.waiting: list[bytes] = []
        self.arrived = time.monotonic_ns()

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


class Http2Listener:
    """Makes the server side of each connection, and ends them in order."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self.connections: set[Http2Server] = set()
        self.draining = False

    def __call__(self) -> Http2Server:
        return Http2Server(self._journal, self._clock, self.connections)

    async def drain(self, lame_duck: float, deadline: float) -> None:
        """As `http1.Server.drain`."""
        await drain_connections(self.connections, lame_duck, deadline)


class Http2Server(asyncio.Protocol):
    """One connection."""

    def __init__(self, journal: Journal, clock: Clock, connections: set[Http2Server]) -> None:
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self._h2 = H2Connection(
            H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False)
        )
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._streams: dict[int, Stream] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._peer: tuple[str, int] = ("", 0)
        self._port = 0
        self._ending = False

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._peer = address(transport, "peername")
        self._port = address(transport, "sockname")[1]
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self._h2.increment_flow_control_window(WINDOW * 4)
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for stream in list(self._streams.values()):
            self._cancel(stream)
        self._streams.clear()
        self._outgoing.clear()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
            for event in events:
                self._event(event)
        except ProtocolError:
            self._write()
            self._transport.close()
            return
        self._write()

    def close_if_idle(self) -> None:
        """Say GOAWAY and close, unless a request is in progress."""
        if not (self._streams or self._outgoing or self._ending or self._transport.is_closing()):
            self._h2.close_connection()
            self._write()
            self._finish()

    # --- receiving

    def _event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, DataReceived):
            self._data(event)
        elif isinstance(event, StreamEnded):
            stream = self._streams.get(event.stream_id or 0)
            if stream is not None:
                self._ended(event.stream_id or 0, stream)
        elif isinstance(event, StreamReset):
            self._outgoing.pop(event.stream_id or 0, None)
            stream = self._streams.pop(event.stream_id or 0, None)
            if stream is not None:
                self._cancel(stream)
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            for stream_id in list(self._outgoing):
                self._flush(stream_id)
        elif isinstance(event, ConnectionTerminated):
            self._transport.close()

    def _begin(self, event: RequestReceived) -> None:
        stream_id = event.stream_id or 0
        headers = [(_text(name), _text(value)) for name, value in event.headers or ()]
        stream = Stream(headers)
        self._streams[stream_id] = stream
        is_grpc = stream.get("content-type").startswith(grpc.CONTENT_TYPE)
        if is_grpc:
            stream.deframer = grpc.Deframer(MAX_BODY)
        try:
            stream.told = instructions(headers, stream.path)
        except InvalidInstruction as exc:
            if is_grpc:
                self._grpc_end(stream_id, stream, grpc.INVALID_ARGUMENT, str(exc))
            else:
                self._respond(stream_id, 400, [("content-type", "text/plain")], f"{exc}\n".encode())
            return
        if is_grpc and stream.path not in (GRPC_UNARY, GRPC_STREAM):
            self._grpc_end(stream_id, stream, grpc.UNIMPLEMENTED, f"no method {stream.path}")

    def _data(self, event: DataReceived) -> None:
        stream_id = event.stream_id or 0
        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
        stream = self._streams.get(stream_id)
        data = event.data or b""
        if stream is None or not data:
            return
        if stream.deframer is not None:
            try:
                payloads = stream.deframer.feed(data)
            except grpc.BadMessage as exc:
                self._grpc_end(stream_id, stream, grpc.RESOURCE_EXHAUSTED, str(exc))
                return
            if stream.path == GRPC_STREAM:
                for payload in payloads:
                    self._message(stream_id, stream, payload)
            else:
                stream.body += payloads
            return
        stream.size += len(data)
        if stream.size > MAX_BODY:
            self._respond(stream_id, 413, [], b"")
            return
        stream.body.append(data)

    def _ended(self, stream_id: int, stream: Stream) -> None:
        if stream.deframer is not None:
            if stream.path == GRPC_STREAM:
                if stream.task is None:
                    self._grpc_end(stream_id, stream, grpc.OK)
                else:
                    stream.body.append(b"")  # the task in progress ends the stream
                return
            self._message(stream_id, stream, stream.body[0] if stream.body else b"")
            return
        entry = self._note(stream, "HTTP/2", b"".join(stream.body))
        self._go(stream_id, stream, entry)

    def _message(self, stream_id: int, stream: Stream, payload: bytes) -> None:
        if stream.task is not None:
            stream.waiting.append(payload)
            return
        self._go(stream_id, stream, self._note(stream, "gRPC", payload))

    def _note(self, stream: Stream, protocol: str, body: bytes) -> Entry:
        stream.entry = self._journal.receive(
            protocol=protocol,
            method=stream.get(":method"),
            path=stream.path,
            headers=stream.headers,
            peer=self._peer,
            port=self._port,
            body=body,
            token=stream.told.token,
            arrival_ns=0 if protocol == "gRPC" else stream.arrived,
        )
        return stream.entry

    # --- answering

    def _go(self, stream_id: int, stream: Stream, entry: Entry) -> None:
        todo = plan(stream.told, entry.attempt)
        if todo.delay_ms > 0:
            stream.task = asyncio.ensure_future(self._late(stream_id, stream, entry, todo))
        else:
            self._answer(stream_id, stream, entry, todo)

    async def _late(self, stream_id: int, stream: Stream, entry: Entry, todo: Plan) -> None:
        try:
            await self._clock.sleep_ms(todo.delay_ms)
        except asyncio.CancelledError:
            self._journal.finish(entry, "cancelled")
            raise
        stream.task = None
        self._answer(stream_id, stream, entry, todo)
        while stream.waiting and stream.task is None and stream_id in self._streams:
            self._message(stream_id, stream, stream.waiting.pop(0))
        if stream.path == GRPC_STREAM and stream.body and stream.task is None and stream_id in self._streams:
            self._grpc_end(stream_id, stream, grpc.OK)
        self._write()

    def _answer(self, stream_id: int, stream: Stream, entry: Entry, todo: Plan) -> None:
        self._journal.finish(entry, todo.outcome)
        if todo.fate in ("reset", "close"):
            self._end_early(stream_id, todo)
            return
        body = entry.body if todo.size is None else b"x" * todo.size
        added = [(name.lower(), value) for name, value in todo.headers]
        if stream.deframer is None:
            status = 200 if todo.status is None else 503 if todo.status < 0 else todo.status
            kind = "application/json" if todo.size is None else "text/plain"
            if todo.fate == "answer":
                self._respond(stream_id, status, [("content-type", kind), *added], body)
                return
            self._headers(stream_id, [(":status", str(status)), ("content-type", kind), *added])
            self._queue(stream_id, body[: len(body) // 2])
            self._end_early(stream_id, todo)
            return
        if todo.status is not None:
            status = grpc.UNAVAILABLE if todo.status < 0 else todo.status
            self._grpc_end(stream_id, stream, status, "told to fail", added)
            return
        if not stream.started:
            self._headers(stream_id, [(":status", "200"), ("content-type", grpc.CONTENT_TYPE), *added])
            stream.started = True
        framed = grpc.frame(body)
        if todo.fate != "answer":
            self._queue(stream_id, framed[: len(framed) // 2])
            self._end_early(stream_id, todo)
            return
        self._queue(stream_id, framed)
        if stream.path == GRPC_UNARY:
            self._grpc_end(stream_id, stream, grpc.OK)

    def _respond(self, stream_id: int, status: int, headers: Pairs, body: bytes) -> None:
        self._streams.pop(stream_id, None)
        self._headers(stream_id, [(":status", str(status)), *headers, ("content-length", str(len(body)))])
        self._queue(stream_id, body, end=True)

    def _grpc_end(
        self, stream_id: int, stream: Stream, status: int, message: str = "", headers: Pairs | None = None
    ) -> None:
        self._streams.pop(stream_id, None)
        trailers = [("grpc-status", str(status))]
        if message:
            trailers.append(("grpc-message", "".join(c if " " <= c <= "~" and c != "%" else "?" for c in message)))
        if stream.started:
            self._queue(stream_id, b"", end=True, trailers=trailers)
        else:
            self._headers(
                stream_id, [(":status", "200"), ("content-type", grpc.CONTENT_TYPE), *(headers or []), *trailers], True
            )

    def _end_early(self, stream_id: int, todo: Plan) -> None:
        self._streams.pop(stream_id, None)
        self._outgoing.pop(stream_id, None)
        if todo.fate.startswith("reset"):
            try:
                self._h2.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
            except (StreamClosedError, ProtocolError):
                return
        else:
            self._write()
            self._finish()

    def _finish(self) -> None:
        """Close with a FIN. Closing outright would be a reset: the caller's acknowledgements are still coming in."""
        if not self._ending and not self._transport.is_closing():
            self._ending = True
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER, self._transport.close)

    # --- sending

    def _headers(self, stream_id: int, headers: Pairs, end: bool = False) -> None:
        try:
            self._h2.send_headers(stream_id, as_bytes(headers), end_stream=end)
        except (StreamClosedError, ProtocolError):
            self._outgoing.pop(stream_id, None)

    def _queue(self, stream_id: int, data: bytes, end: bool = False, trailers: Pairs | None = None) -> None:
        out = self._outgoing.setdefault(stream_id, Outgoing())
        out.data += data
        out.end = out.end or end
        out.trailers = trailers if trailers is not None else out.trailers
        self._flush(stream_id)

    def _flush(self, stream_id: int) -> None:
        out = self._outgoing.get(stream_id)
        if out is None:
            return
        try:
            while out.data:
                size = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
                if size <= 0:
                    return
                last = len(out.data) <= size and out.end and out.trailers is None
                self._h2.send_data(stream_id, bytes(out.data[:size]), end_stream=last)
                del out.data[:size]
                if last:
                    del self._outgoing[stream_id]
                    return
            if out.end:
                if out.trailers is not None:
                    self._h2.send_headers(stream_id, as_bytes(out.trailers), end_stream=True)
                else:
                    self._h2.end_stream(stream_id)
                del self._outgoing[stream_id]
        except (StreamClosedError, ProtocolError):
            self._outgoing.pop(stream_id, None)

    def _write(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._ending and not self._transport.is_closing():
            self._transport.write(data)

    def _cancel(self, stream: Stream) -> None:
        if stream.task is not None:
            stream.task.cancel()
        elif stream.entry is not None:
            self._journal.finish(stream.entry, "cancelled")


def as_bytes(headers: Pairs) -> list[tuple[bytes, bytes]]:
    """Strings here are bytes in disguise (latin-1), in HTTP/2 as in HTTP/1; `h2` would encode them as UTF-8."""
    return [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers]


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else bytes(value).decode("latin-1")
