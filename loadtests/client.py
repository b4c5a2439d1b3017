"""HTTP/1.1 over raw keep-alive connections whose sockets live in an arm's network namespace.

A socket belongs to the network namespace its thread was in when it was made. So one process can make requests from
several pods: enter the namespace, make the socket, come back. Nothing in between may yield to another greenlet, and
`socket()` does not.

What counts as an error: no complete response (refused, reset, closed, malformed, timed out). The one exception is a
GET on a *reused* connection that dies before the first byte of a response: the peer closed an idle connection just as
it was used, which RFC 9110 section 9.2.2 tells a client to survive; it is sent again once on a new connection and
counted as reopened.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
import urllib.parse
from typing import NamedTuple

import gevent
from gevent import socket as sockets
from geventhttpclient._parser import HTTPParseError, HTTPResponseParser

from loadtests.spec import SEED_HEADER, Arm

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_BLOCK = 64 * 1024
_BUFFER = bytearray(_BLOCK)
_VIEW = memoryview(_BUFFER)
# All connections read into one buffer: `recv_into` fills it and the parser consumes it without a switch in between.


class NamespaceError(Exception):
    """An arm's network namespace could not be entered."""


class Namespaces:
    """Makes sockets in network namespaces, each held open by a file descriptor from the start: a path below /proc
    dies with the process it names, a descriptor does not."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._held: dict[str, int] = {}

    def hold(self, path: str) -> None:
        if not path or path in self._held:
            return
        try:
            self._held[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NamespaceError(f"network namespace {path}: {error.strerror}") from error
        self.socket(path).close()  # Fails now, with a reason, rather than in every user.

    def socket(self, path: str) -> sockets.socket:
        """A TCP socket in the namespace at `path`, which was held before; the process's own when empty."""
        if not path:
            return sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM)
        _setns(self._held[path], path)
        try:
            return sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM)
        finally:
            _setns(self._own, "the generator's own")

    def close(self) -> None:
        for descriptor in (self._own, *self._held.values()):
            os.close(descriptor)


def _setns(descriptor: int, name: str) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise NamespaceError(
            f"cannot enter network namespace {name}: {os.strerror(number)}; run as root (CAP_SYS_ADMIN is needed)"
        )


class _Reply(HTTPResponseParser):
    """Counts what matters and keeps nothing of the body. The C parser calls the underscore methods."""

    def __init__(self) -> None:
        super().__init__()
        self.complete = False
        self.body_bytes = 0

    def _on_status(self, reason: str) -> None: ...

    def _on_header_field(self, part: str) -> None: ...

    def _on_header_value(self, part: str) -> None: ...

    def _on_headers_complete(self) -> bool:
        return False  # Do not skip the body.

    def _on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)

    def _on_message_begin(self) -> None:
        self.complete = False

    def _on_message_complete(self) -> None:
        # An interim 1xx response is complete as well, and the final one follows on the same parser.
        self.complete = self.get_code() >= 200


class Target(NamedTuple):
    """An arm, ready to be asked: where to connect, and the request up to its seed."""

    arm: Arm
    address: tuple[str, int]
    head: bytes

    @classmethod
    def of(cls, arm: Arm) -> Target:
        url = urllib.parse.urlsplit(arm.url)
        if url.scheme != "http" or not url.hostname:
            raise ValueError(f"arm {arm.name}: url {arm.url!r}: want http://<IP>[:port]/path")
        try:
            sockets.inet_pton(sockets.AF_INET, url.hostname)
        except OSError as error:
            raise ValueError(f"arm {arm.name}: url {arm.url!r}: the host must be an IPv4 address") from error
        headers = {"Host": arm.host or url.netloc, "User-Agent": "meshproof-load", "Accept": "*/*", **arm.headers}
        for name, value in headers.items():
            if any(character in name + value for character in "\r\n\0"):
                raise ValueError(f"arm {arm.name}: header {name!r}: line breaks are not allowed")
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), f"{SEED_HEADER}: "]
        return cls(arm, (url.hostname, url.port or 80), "\r\n".join(lines).encode())


class Outcome(NamedTuple):
    sent_ns: int
    done_ns: int
    status: int
    """0 when no complete response came."""
    error: str
    body_bytes: int
    reopened: bool


class _ClosedEarly(Exception):
    """The connection ended before the first byte of a response."""


class _TimedOut(Exception):
    """The request's deadline passed."""


class Connection:
    """One user's keep-alive connection to one arm."""

    def __init__(self, target: Target, namespaces: Namespaces) -> None:
        self._target = target
        self._namespaces = namespaces
        self._socket: sockets.socket | None = None

    def open(self) -> None:
        """Connect now, if not connected."""
        if self._socket is not None:
            return
        sock = self._namespaces.socket(self._target.arm.netns)
        try:
            sock.connect(self._target.address)
            sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        self._socket = sock

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def get(self, seed: int, timeout: float) -> Outcome:
        """One GET with its profile seed. Never raises for what a network or a server can do."""
        request = self._target.head + b"%d\r\n\r\n" % seed
        status, body_bytes, failure, reopened = 0, 0, "", False
        sent_ns = time.monotonic_ns()
        deadline = gevent.Timeout.start_new(timeout, _TimedOut)
        try:
            reused = self._socket is not None
            try:
                status, body_bytes = self._exchange(request)
            except _ClosedEarly:
                if not reused:
                    raise
                self.close()
                reopened = True
                status, body_bytes = self._exchange(request)
        except _TimedOut:
            failure = "timeout"
        except _ClosedEarly:
            failure = "closed before a response"
        except HTTPParseError as error:
            failure = f"malformed response: {error}"
        except OSError as error:
            failure = error.strerror or str(error) or type(error).__name__
        finally:
            deadline.close()
        done_ns = time.monotonic_ns()
        if failure:
            self.close()
        return Outcome(sent_ns, done_ns, status, failure, body_bytes, reopened and not failure)

    def _exchange(self, request: bytes) -> tuple[int, int]:
        self.open()
        sock = self._socket
        assert sock is not None
        try:
            sock.sendall(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _ClosedEarly from error
        reply = _Reply()
        begun = False
        while not reply.complete:
            try:
                count = sock.recv_into(_BUFFER)
            except ConnectionResetError as error:
                if begun:
                    raise
                raise _ClosedEarly from error
            if count == 0 and not begun:
                raise _ClosedEarly
            begun = True
            if count:
                reply.feed(bytes(_VIEW[:count]))
                continue
            # Feeding nothing says that the stream ended, which completes a body that has no length of its own.
            with contextlib.suppress(HTTPParseError):
                reply.feed(b"")
            if not reply.complete:
                raise ConnectionResetError("closed within a response")
        if not reply.should_keep_alive():
            self.close()
        return reply.get_code(), reply.body_bytes
