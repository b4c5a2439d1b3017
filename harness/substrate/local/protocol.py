"""What a client and a world's supervisor say to each other over the Unix socket: one request, one reply, hang up.

A message is four bytes of length (big endian) and that much JSON. The socket belongs to root, mode 0600.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final, Literal, TypeVar

import msgspec

from harness.substrate.api import SubstrateError
from manifests import Document, ManifestError

MAX_MESSAGE: Final = 256 << 20
"""Bytes; above any bounded log or manifest set, so that a stray writer cannot make either side allocate without end."""

_LENGTH: Final = struct.Struct(">I")
T = TypeVar("T")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    params: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["ok", "error", "invalid"]
    value: Any = None
    message: str = ""
    invalid: list[ManifestError] = []


def _body_length(header: bytes) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > MAX_MESSAGE:
        raise SubstrateError(f"a message of {length} bytes is too large (at most {MAX_MESSAGE})")
    return int(length)


def pack(message: Request | Reply) -> bytes:
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


def _receive(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(min(count - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def call(path: str, request: Request, timeout: float | None = None) -> Reply:
    """Send `request` and wait for the answer, for at most `timeout` seconds. Raises `OSError` or `EOFError` when
    nobody (no longer) answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(pack(request))
        length = _body_length(_receive(connection, _LENGTH.size))
        return msgspec.json.decode(_receive(connection, length), type=Reply)


async def read(reader: asyncio.StreamReader, type_: type[T]) -> T:
    length = _body_length(await reader.readexactly(_LENGTH.size))
    return msgspec.json.decode(await reader.readexactly(length), type=type_)


class WireDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A `Document` in JSON, whose keys can only be strings."""

    file: str
    line: int
    data: dict[str, Any]
    lines: list[tuple[list[str | int], int]]

    @classmethod
    def of(cls, document: Document) -> WireDocument:
        lines = [(list(path), line) for path, line in document.lines.items()]
        return cls(file=document.file, line=document.line, data=document.data, lines=lines)

    def document(self) -> Document:
        lines = {tuple(path): line for path, line in self.lines}
        return Document(file=self.file, line=self.line, data=self.data, lines=lines)


class DeploymentInfo(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    name: str
    replicas: int
    problem: str
