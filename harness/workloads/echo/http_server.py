"""The echo over HTTP/1.1, and the door to WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from harness.workloads.clock import Clock
from harness.workloads.echo.behaviour import InvalidInstruction, Plan, instructions, plan
from harness.workloads.echo.journal import Entry, Journal
from harness.workloads.echo.protocol import WEBSOCKET_PATH
from harness.workloads.echo.websocket import WebSocketServer, accept_key
from harness.workloads.http1 import Request, Response

JSON = ("Content-Type", "application/json")
FILLER = ("Content-Type", "text/plain")


class HttpEcho:
    """A `Handler`: replies with what it received."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        try:
            told = instructions(request.headers, request.target)
        except InvalidInstruction as exc:
            return Response(400, [FILLER], f"{exc}\n".encode())
        if request.upgrade and _wants_websocket(request):
            return self._websocket(request, told.delay_ms, told.status)
        entry = self._journal.receive(
            protocol=f"HTTP/{request.version}",
            method=request.method,
            path=request.target,
            headers=request.headers,
            peer=request.peer,
            port=request.local[1],
            body=request.body,
            token=told.token,
            arrival_ns=request.arrival_ns,
        )
        todo = plan(told, entry.attempt)
        if todo.delay_ms > 0:
            return self._late(request, entry, todo)
        return self._answer(entry, todo)

    async def _late(self, request: Request, entry: Entry, todo: Plan) -> Response:
        try:
            await self._clock.until(request.arrival_ns + int(todo.delay_ms * 1e6))
        except asyncio.CancelledError:
            self._journal.finish(entry, "cancelled")
            raise
        return self._answer(entry, todo)

    def _answer(self, entry: Entry, todo: Plan) -> Response:
        self._journal.finish(entry, todo.outcome)
        status = 200 if todo.status is None else 503 if todo.status < 0 else todo.status
        if todo.size is None:
            return Response(status, [JSON, *todo.headers], entry.body, todo.fate)
        return Response(status, [FILLER, *todo.headers], b"x" * todo.size, todo.fate)

    def _websocket(self, request: Request, delay_ms: float, status: int | None) -> Response | Awaitable[Response]:
        if status is not None:
            return Response(status)
        key = request.header("sec-websocket-key") or ""
        response = Response(
            101,
            [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))],
            takeover=lambda: WebSocketServer(self._journal, request),
        )
        if delay_ms <= 0:
            return response

        async def late() -> Response:
            await self._clock.sleep_ms(delay_ms)
            return response

        return late()


def _wants_websocket(request: Request) -> bool:
    return (
        request.target.partition("?")[0] == WEBSOCKET_PATH
        and (request.header("upgrade") or "").lower() == "websocket"
        and bool(request.header("sec-websocket-key"))
    )
