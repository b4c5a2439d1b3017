"""HTTP/2 with prior knowledge, the caller's side. The protocol is `h2`'s; headers go out in the order they were told.

One connection carries many streams. A request is never sent twice.
"""

from __future__ import annotations

import asyncio
from typing import cast

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from harness.workloads.echo.http2_server import as_bytes
from harness.workloads.echo.protocol import MAX_BODY, Pairs
from harness.workloads.http1 import address
from harness.workloads.http1_client import Broken, Reply

WINDOW = 1 << 20


class Call:
    """One stream. `reply` fills as it comes; `progress` is set at each step."""

    def __init__(self) -> None:
        self.reply = Reply()
        self.reply.version = "2"
        self.data = bytearray()
        self.size = 0
        self.ended = False
        self.problem: Broken | None = None
        self.progress = asyncio.Event()
        self.outgoing = bytearray()
        self.outgoing_end = False


class Http2Client(asyncio.Protocol):
    def __init__(self) -> None:
        self._h2 = H2Connection(
            H2Configuration(client_side=True, header_encoding=None, normalize_inbound_headers=False)
        )
        # h2 refuses every frame after a GOAWAY, but streams it accepts are still answered (RFC 9113, 6.8).
        machine = self._h2.state_machine
        after_goaway = (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY)
        machine._transitions = {**machine._transitions, after_goaway: (None, ConnectionState.CLIENT_OPEN)}
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._calls: dict[int, Call] = {}
        self.closed = False
        self.local_port = 0

    @property
    def full(self) -> bool:
        return len(self._calls) >= self._h2.remote_settings.max_concurrent_streams

    def open(self, headers: Pairs, *, end: bool) -> tuple[int, Call]:
        """Begin a request. Raises `Broken`."""
        if self.closed:
            raise Broken("closed", "before the request was sent", None)
        call = Call()
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, as_bytes(headers), end_stream=end)
        except ProtocolError as exc:
            raise Broken("protocol", str(exc), None) from exc
        self._calls[stream_id] = call
        self._write()
        return stream_id, call

    def send(self, stream_id: int, data: bytes, *, end: bool) -> None:
        call = self._calls.get(stream_id)
        if call is not None:
            call.outgoing += data
            call.outgoing_end = end
            self._flush(stream_id)
            self._write()

    async def finished(self, stream_id: int, call: Call) -> Reply:
        """Wait for the end of the response. Raises `Broken`. Cancelling resets the stream."""
        try:
            while not call.ended:
                if call.problem is not None:
                    raise call.problem
                call.progress.clear()
                await call.progress.wait()
        except asyncio.CancelledError:
            self.cancel(stream_id)
            raise
        finally:
            self._calls.pop(stream_id, None)
        call.reply.body = bytes(call.data)
        return call.reply

    def cancel(self, stream_id: int) -> None:
        if self._calls.pop(stream_id, None) is not None and not self.closed:
            try:
                self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            except ProtocolError:
                return
            self._write()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None and not self._transport.is_closing():
            try:
                self._h2.close_connection()
            except ProtocolError:
                self._transport.abort()
                return
            self._write()
            self._transport.close()

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.local_port = address(transport, "sockname")[1]
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.ENABLE_PUSH: 0})
        self._h2.increment_flow_control_window(WINDOW * 4)
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        reset = isinstance(exc, ConnectionResetError | BrokenPipeError)
        for call in self._calls.values():
            self._broken(call, "reset" if reset else "closed", "")

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._event(event)
        except ProtocolError as exc:
            for call in self._calls.values():
                if call.problem is None and not call.ended:
                    call.problem = Broken("protocol", str(exc) or type(exc).__name__, self._partial(call))
                    call.progress.set()
            self.closed = True
            self._write()
            self._transport.close()
            return
        self._write()

    # --- h2

    def _event(self, event: Event) -> None:
        call = self._calls.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            if call is not None:
                call.data += event.data or b""
                if len(call.data) > 2 * MAX_BODY:
                    self.cancel(event.stream_id or 0)
                    call.problem = Broken("protocol", "response body too large", None)
                call.progress.set()
        elif isinstance(event, ResponseReceived) and call is not None:
            pairs = _pairs(event.headers)
            call.reply.status = int(next((value for name, value in pairs if name == ":status"), "0"))
            call.reply.headers = [pair for pair in pairs if not pair[0].startswith(":")]
            call.progress.set()
        elif isinstance(event, TrailersReceived) and call is not None:
            call.reply.trailers = _pairs(event.headers)
        elif isinstance(event, StreamEnded) and call is not None:
            call.ended = True
            call.progress.set()
        elif isinstance(event, StreamReset) and call is not None:
            code = event.error_code
            self._broken(call, "reset", code.name if isinstance(code, ErrorCodes) else str(code))
        elif isinstance(event, ConnectionTerminated):
            # GOAWAY: what it names as unprocessed will get no answer; the rest may still.
            self.closed = True
            for stream_id, other in self._calls.items():
                if stream_id > (event.last_stream_id or 0):
                    self._broken(other, "closed", "GOAWAY")
            if not self._calls:
                self._transport.close()
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            for stream_id in list(self._calls):
                self._flush(stream_id)

    def _flush(self, stream_id: int) -> None:
        call = self._calls[stream_id]
        try:
            while call.outgoing:
                size = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
                if size <= 0:
                    return
                last = len(call.outgoing) <= size and call.outgoing_end
                self._h2.send_data(stream_id, bytes(call.outgoing[:size]), end_stream=last)
                del call.outgoing[:size]
                if last:
                    call.outgoing_end = False
            if call.outgoing_end:
                call.outgoing_end = False
                self._h2.end_stream(stream_id)
        except ProtocolError:
            call.outgoing.clear()

    def _broken(self, call: Call, kind: str, detail: str) -> None:
        if call.problem is None and not call.ended:
            call.problem = Broken("reset" if kind == "reset" else "closed", detail, self._partial(call))
            call.progress.set()

    @staticmethod
    def _partial(call: Call) -> Reply | None:
        if not call.reply.status:
            return None
        call.reply.body = bytes(call.data)
        return call.reply

    def _write(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)


def _pairs(headers: object) -> Pairs:
    if not isinstance(headers, list | tuple):
        return []
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]
