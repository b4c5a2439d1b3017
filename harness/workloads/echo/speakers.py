"""How one request is made in each protocol, over connections that are kept within a call or made anew."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Protocol, TypeVar

from harness.workloads.echo import grpc_wire as grpc
from harness.workloads.echo.http2_client import Call, Http2Client
from harness.workloads.echo.protocol import (
    GRPC_STREAM,
    GRPC_UNARY,
    MAX_BODY,
    MAX_RESULT_BODY,
    CallResult,
    CallSpec,
    Pairs,
    Problem,
    first,
)
from harness.workloads.echo.websocket import WebSocketClient, accept_key
from harness.workloads.http1_client import Broken, ClientConnection, Reply

_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
P = TypeVar("P", bound=asyncio.BaseProtocol)


class Target:
    """Where a call goes: what to say (`authority`, `path`) and where to connect (`ip`, `port`)."""

    def __init__(self, *, authority: str, path: str, host: str, port: int) -> None:
        self.authority = authority
        self.path = path
        self.host = host
        self.port = port
        self.ip = ""


class Failed(Exception):
    """One request came to no full response."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem: Problem = problem
        self.detail = detail


class Speaker(Protocol):
    connections: int
    """Connections made so far."""

    async def call(self, result: CallResult) -> None:
        """Make request number `result.index` and fill `result`. Raises `Failed`; may be cancelled."""

    def close(self) -> None: ...


def speaker(spec: CallSpec, target: Target) -> Speaker:
    match spec.protocol:
        case "http1":
            return Http1Speaker(spec, target)
        case "http2":
            return Http2Speaker(spec, target)
        case "grpc" | "grpc-stream":
            return GrpcSpeaker(spec, target)
        case "websocket":
            return WebSocketSpeaker(spec, target)
        case "tcp" | "tcp-server-first":
            return TcpSpeaker(spec, target)


class _Base:
    def __init__(self, spec: CallSpec, target: Target) -> None:
        self.spec = spec
        self.target = target
        self.connections = 0

    def path(self, index: int) -> str:
        marker = self.spec.marker
        return self.target.path.replace(marker, str(index)) if marker else self.target.path

    def headers(self, index: int) -> Pairs:
        marker = self.spec.marker
        if not marker:
            return self.spec.headers
        return [(name, value.replace(marker, str(index))) for name, value in self.spec.headers]

    async def connect(self, factory: type[P], result: CallResult) -> P:
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(factory, self.target.ip, self.target.port)
        except OSError as exc:
            raise Failed("connect", exc.strerror or str(exc) or type(exc).__name__) from exc
        self.connections += 1
        result.connection = self.connections
        return protocol


def fill(result: CallResult, reply: Reply) -> None:
    result.status = reply.status
    result.headers = reply.headers
    result.trailers = reply.trailers
    result.body_length = len(reply.body)
    result.body = reply.body[:MAX_RESULT_BODY]


def failure(exc: Broken, result: CallResult) -> Failed:
    if exc.reply is not None:
        fill(result, exc.reply)
        result.partial_status = exc.reply.status
    return Failed(exc.kind, exc.detail)


class Http1Speaker(_Base):
    """A connection for each request in flight."""

    def __init__(self, spec: CallSpec, target: Target) -> None:
        super().__init__(spec, target)
        self._idle: list[tuple[int, ClientConnection]] = []
        self._same = None if spec.marker else self._encode(0)

    async def call(self, result: CallResult) -> None:
        data = self._same or self._encode(result.index)
        number, connection = 0, None
        while self._idle and connection is None:
            number, connection = self._idle.pop()
            if connection.closed:
                connection = None
        if connection is None:
            connection = await self.connect(ClientConnection, result)
            number = result.connection
        result.connection = number
        result.local_port = connection.local_port
        try:
            fill(result, await connection.request(data, head_only=self.spec.method == "HEAD"))
        except Broken as exc:
            connection.abort()
            raise failure(exc, result) from exc
        if self.spec.new_connection:
            connection.close()
        elif not connection.closed:
            self._idle.append((number, connection))

    def close(self) -> None:
        for _, connection in self._idle:
            connection.close()

    def _encode(self, index: int) -> bytes:
        return encode_request(
            self.spec.method, self.path(index), self.target.authority, self.headers(index), self.spec.body
        )


def encode_request(method: str, path: str, authority: str, headers: Pairs, body: bytes) -> bytes:
    """An HTTP/1.1 request, byte for byte as told; `Host` first and `Content-Length` last where they are not."""
    lines = [f"{method} {path} HTTP/1.1\r\n"]
    named = {name.lower() for name, _ in headers}
    if "host" not in named:
        lines.append(f"Host: {authority}\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in headers]
    if (body or method in _BODY_METHODS) and not named & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1", errors="replace") + body


class _Http2Base(_Base):
    """Streams share connections."""

    def __init__(self, spec: CallSpec, target: Target) -> None:
        super().__init__(spec, target)
        self._open: list[tuple[int, Http2Client]] = []
        self._connecting = asyncio.Lock()

    async def client(self, result: CallResult) -> Http2Client:
        if self.spec.new_connection:
            client = await self.connect(Http2Client, result)
        else:
            async with self._connecting:
                self._open = [(number, one) for number, one in self._open if not one.closed]
                for number, client in self._open:
                    if not client.full:
                        result.connection = number
                        break
                else:
                    client = await self.connect(Http2Client, result)
                    self._open.append((result.connection, client))
        result.local_port = client.local_port
        return client

    def close(self) -> None:
        for _, client in self._open:
            client.close()

    def pseudo(self, method: str, path: str, headers: Pairs) -> Pairs:
        """`headers` behind the pseudo-headers; a `Host` that was told becomes the authority, and pseudo-headers that
        were told replace ours."""
        authority = first(headers, "host") or self.target.authority
        told = {name for name, _ in headers if name.startswith(":")}
        ours = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
        return [
            *(pair for pair in ours if pair[0] not in told),
            *((name.lower(), value) for name, value in headers if name.lower() != "host"),
        ]


class Http2Speaker(_Http2Base):
    async def call(self, result: CallResult) -> None:
        client = await self.client(result)
        try:
            headers = self.pseudo(self.spec.method, self.path(result.index), self.headers(result.index))
            body = self.spec.body
            if body and first(headers, "content-length") is None:
                headers.append(("content-length", str(len(body))))
            stream_id, call = client.open(headers, end=not body)
            if body:
                client.send(stream_id, body, end=True)
            fill(result, await client.finished(stream_id, call))
        except Broken as exc:
            raise failure(exc, result) from exc
        finally:
            if self.spec.new_connection:
                client.close()


class GrpcSpeaker(_Http2Base):
    """Unary, or a stream on which every message is answered before the next is sent."""

    async def call(self, result: CallResult) -> None:
        client = await self.client(result)
        streaming = self.spec.protocol == "grpc-stream"
        path = self.path(result.index)
        if path == "/":
            path = GRPC_STREAM if streaming else GRPC_UNARY
        headers = self.pseudo("POST", path, self.headers(result.index))
        for name, value in (("te", "trailers"), ("content-type", grpc.CONTENT_TYPE)):
            if first(headers, name) is None:
                headers.append((name, value))
        answers: list[bytes] = []
        try:
            stream_id, call = client.open(headers, end=False)
            deframer = grpc.Deframer(2 * MAX_BODY)
            if streaming:
                for _ in range(self.spec.messages):
                    client.send(stream_id, grpc.frame(self.spec.body), end=False)
                    if not await self._answered(client, stream_id, call, deframer, answers):
                        break
                client.send(stream_id, b"", end=True)
            else:
                client.send(stream_id, grpc.frame(self.spec.body), end=True)
            reply = await client.finished(stream_id, call)
            answers += deframer.feed(bytes(call.data))
        except Broken as exc:
            raise failure(exc, result) from exc
        except grpc.BadMessage as exc:
            raise Failed("protocol", str(exc)) from exc
        finally:
            if self.spec.new_connection:
                client.close()
        fill(result, reply)
        status = first(reply.trailers, "grpc-status") or first(reply.headers, "grpc-status")
        result.grpc_status = int(status) if status is not None and status.isdecimal() else None
        if answers:
            body = b"\n".join(answers)
            result.body_length = len(body)
            result.body = body[:MAX_RESULT_BODY]

    @staticmethod
    async def _answered(
        client: Http2Client, stream_id: int, call: Call, deframer: grpc.Deframer, answers: list[bytes]
    ) -> bool:
        """Wait for the next message; False when the stream ended without one."""
        try:
            while True:
                data = bytes(call.data)
                call.data.clear()
                got = deframer.feed(data)
                answers += got
                if got:
                    return True
                if call.ended or call.problem is not None:
                    return False
                call.progress.clear()
                await call.progress.wait()
        except asyncio.CancelledError:
            client.cancel(stream_id)
            raise


class WebSocketSpeaker(_Base):
    """A connection for each call: handshake, messages, close. `status` is 101, `body` the answers, one a line."""

    async def call(self, result: CallResult) -> None:
        connection = await self.connect(ClientConnection, result)
        result.local_port = connection.local_port
        key = base64.b64encode(os.urandom(16)).decode()
        headers = [
            *self.headers(result.index),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Version", "13"),
        ]
        data = encode_request("GET", self.path(result.index), self.target.authority, headers, b"")
        try:
            try:
                reply = await connection.request(data, upgrade=True)
            except Broken as exc:
                raise failure(exc, result) from exc
            fill(result, reply)
            if reply.status == 101:
                if reply.header("sec-websocket-accept") != accept_key(key):
                    raise Failed("protocol", "Sec-WebSocket-Accept does not match the key")
                await self._converse(connection, result)
        finally:
            connection.close()

    async def _converse(self, connection: ClientConnection, result: CallResult) -> None:
        transport = connection.transport
        socket = WebSocketClient()
        transport.set_protocol(socket)
        socket.connection_made(transport)
        if connection.rest:
            socket.data_received(connection.rest)
        transport.resume_reading()
        answers = []
        try:
            for _ in range(self.spec.messages):
                answers.append(await socket.ask(self.spec.body))
        except ConnectionError as exc:
            raise Failed("closed", str(exc)) from exc
        finally:
            socket.close()
        body = b"\n".join(answers)
        result.body_length = len(body)
        result.body = body[:MAX_RESULT_BODY]

    def close(self) -> None:
        """Nothing is kept."""


class TcpSpeaker(_Base):
    """Sends the body as a line and waits for a line. When the server speaks first, waits for that before."""

    def __init__(self, spec: CallSpec, target: Target) -> None:
        super().__init__(spec, target)
        self._idle: list[tuple[int, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, result: CallResult) -> None:
        greeting = b""
        if self._idle and not self._idle[-1][1].at_eof():
            number, reader, writer = self._idle.pop()
        else:
            number, reader, writer = await self._open(result)
            if self.spec.protocol == "tcp-server-first":
                greeting = await self._line(reader, writer)
                result.greeting_ms = (asyncio.get_running_loop().time() * 1e9 - result.started_ns) / 1e6
        result.connection = number
        result.local_port = int(writer.get_extra_info("sockname")[1])
        answers = [greeting] if greeting else []
        for _ in range(self.spec.messages):
            writer.write(self.spec.body + b"\n")
            answers.append(await self._line(reader, writer))
        body = b"\n".join(answers)
        result.body_length = len(body)
        result.body = body[:MAX_RESULT_BODY]
        if self.spec.new_connection:
            writer.close()
        else:
            self._idle.append((number, reader, writer))

    def close(self) -> None:
        for _, _, writer in self._idle:
            writer.close()

    async def _open(self, result: CallResult) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            reader, writer = await asyncio.open_connection(self.target.ip, self.target.port, limit=2 * MAX_BODY)
        except OSError as exc:
            raise Failed("connect", exc.strerror or str(exc) or type(exc).__name__) from exc
        self.connections += 1
        return self.connections, reader, writer

    @staticmethod
    async def _line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as exc:
            writer.close()
            raise Failed("closed", f"after {len(exc.partial)} bytes of a line") from exc
        except (ConnectionError, BrokenPipeError) as exc:
            writer.close()
            raise Failed("reset", "") from exc
        except asyncio.LimitOverrunError as exc:
            writer.close()
            raise Failed("protocol", "a line too long") from exc
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        return line.rstrip(b"\r\n")
