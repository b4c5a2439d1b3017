"""gRPC's framing and the two messages of `echo.proto`. Pure.

A message is one bytes field, number 1, so that the wire is real protobuf and needs no generated code.
"""

from __future__ import annotations

CONTENT_TYPE = "application/grpc"
OK = 0
INVALID_ARGUMENT = 3
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
UNAVAILABLE = 14

_TAG = b"\x0a"


class BadMessage(ValueError):
    """What came is no gRPC message; the message says why."""


def frame(payload: bytes) -> bytes:
    """`payload` as field 1 of a message, length-prefixed."""
    message = _TAG + _varint(len(payload)) + payload if payload else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Deframer:
    """Bytes in, payloads out."""

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that are now complete. Raises `BadMessage`."""
        buffer = self._buffer
        buffer += data
        payloads = []
        while len(buffer) >= 5:
            length = int.from_bytes(buffer[1:5], "big")
            if buffer[0]:
                raise BadMessage("compressed messages are not supported")
            if length > self._limit:
                raise BadMessage(f"a message of {length} bytes; at most {self._limit}")
            if len(buffer) < 5 + length:
                break
            payloads.append(payload(bytes(buffer[5 : 5 + length])))
            del buffer[: 5 + length]
        return payloads


def payload(message: bytes) -> bytes:
    """Field 1 of `message`; empty when it is absent."""
    position = 0
    found = b""
    while position < len(message):
        tag, position = _read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            _, position = _read_varint(message, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            length, position = _read_varint(message, position)
            if tag >> 3 == 1:
                found = message[position : position + length]
            position += length
        else:
            raise BadMessage(f"wire type {kind}")
    if position > len(message):
        raise BadMessage("truncated")
    return found


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if position >= len(data):
            raise BadMessage("truncated")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise BadMessage("a number too long")
