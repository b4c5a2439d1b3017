"""The echo over raw TCP: one JSON line for every line received; and the port that takes whatever comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from harness.workloads.clock import Clock
from harness.workloads.echo.behaviour import InvalidInstruction, Plan, line_instructions, plan
from harness.workloads.echo.journal import Entry, Journal
from harness.workloads.echo.protocol import MAX_BODY
from harness.workloads.http1 import address, reset

_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ")
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LONGEST_OPENING = max(len(_HTTP2_PREFACE), *(len(method) for method in _METHODS))


class LineServer(asyncio.Protocol):
    """One connection. Lines are answered one after the other. What is left without a newline when the caller
    half-closes is a line too."""

    def __init__(self, journal: Journal, clock: Clock, *, speaks_first: bool = False) -> None:
        self._journal = journal
        self._clock = clock
        self._speaks_first = speaks_first
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._buffer = bytearray()
        self._searched = 0
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._peer: tuple[str, int] = ("", 0)
        self._port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = address(transport, "peername")
        self._port = address(transport, "sockname")[1]
        if self._speaks_first:
            self._transport.write(self._journal.greeting(self._peer, self._port) + b"\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        # Reading never pauses: a paused socket would hide that the caller has gone.
        self._buffer += data
        if len(self._buffer) > 2 * MAX_BODY:
            reset(self._transport)
            return
        self._advance()

    def eof_received(self) -> bool:
        self._ended = True
        self._advance()
        return True  # half-closed: what was asked is still answered

    def _advance(self) -> None:
        while self._task is None and not self._transport.is_closing():
            end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                if self._searched > MAX_BODY:
                    reset(self._transport)
                elif self._ended:
                    line = bytes(self._buffer)
                    self._buffer.clear()
                    self._searched = 0
                    if line:
                        self._line(line)
                        continue
                    self._transport.close()
                return
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._searched = 0
            self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            told, body = line_instructions(line)
        except InvalidInstruction as exc:
            self._transport.write(f"error: {exc}\n".encode())
            return
        entry = self._journal.receive(
            protocol="TCP", headers=[], peer=self._peer, port=self._port, body=body, token=told.token
        )
        todo = plan(told, entry.attempt)
        if todo.delay_ms > 0:
            self._task = asyncio.ensure_future(self._late(entry, todo))
        else:
            self._answer(entry, todo)

    async def _late(self, entry: Entry, todo: Plan) -> None:
        try:
            await self._clock.until(time.monotonic_ns() + int(todo.delay_ms * 1e6))
        except asyncio.CancelledError:
            self._journal.finish(entry, "cancelled")
            raise
        self._task = None
        self._answer(entry, todo)
        if not self._transport.is_closing():
            self._advance()

    def _answer(self, entry: Entry, todo: Plan) -> None:
        transport = self._transport
        self._journal.finish(entry, todo.outcome)
        answer = (entry.body if todo.size is None else b"x" * todo.size) + b"\n"
        if todo.status is not None:
            answer = b"error: told to fail\n"
        if todo.fate == "answer":
            transport.write(answer)
            return
        if todo.fate.endswith("mid"):
            transport.write(answer[: len(answer) // 2])
        if todo.fate == "reset":
            reset(transport)
        elif todo.fate == "reset-mid":
            asyncio.get_running_loop().call_later(0.02, reset, transport)
        else:
            transport.close()


class Sniffer(asyncio.Protocol):
    """Hands a connection to the protocol its first bytes belong to."""

    def __init__(
        self,
        http1: Callable[[], asyncio.Protocol],
        http2: Callable[[], asyncio.Protocol],
        lines: Callable[[], asyncio.Protocol],
    ) -> None:
        self._http1 = http1
        self._http2 = http2
        self._lines = lines
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        opening = self._buffer[:_LONGEST_OPENING]
        if any(opening.startswith(method) for method in _METHODS):
            self._become(self._http1())
        elif opening == _HTTP2_PREFACE:
            self._become(self._http2())
        elif len(opening) == _LONGEST_OPENING or not self._could_become(opening):
            self._become(self._lines())

    def eof_received(self) -> bool:
        protocol = self._lines()
        self._become(protocol)
        return bool(protocol.eof_received())

    def _become(self, protocol: asyncio.Protocol) -> None:
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._buffer:
            protocol.data_received(self._buffer)

    @staticmethod
    def _could_become(opening: bytes) -> bool:
        return _HTTP2_PREFACE.startswith(opening) or any(method.startswith(opening) for method in _METHODS)
