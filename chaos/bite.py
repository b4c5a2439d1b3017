"""Did the fault bite? One connection over an edge, before, during and after; and what each fault must do to it.

The reading is taken from the source pod's own namespace with a socket that no sidecar intercepts, straight to the
destination pod, so it passes exactly what the sidecar's own connections pass. What makes the other end speak is the
first message of its protocol: a TLS ClientHello when the destination is meshed (its certificate flight comes back
before ours is asked for, so no identity is needed), an HTTP request otherwise.

`judge` is pure: two readings and a fault to a finding. A fault that cannot be told apart from its absence is not
called bitten: better `not-injected` than a test of nothing.
"""

from __future__ import annotations

import contextlib
import re
import socket as sockets
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from chaos.sockets import Endpoint

MAX_BYTES = 1 << 20
"""Read of one answer at most."""

NOTICEABLE = 0.03
"""Seconds; a slowness below this is the machine's noise."""

SHARE = 0.7
"""Of the delay asked for that must be seen. Not 1: jitter, and both readings carry noise."""

Outcome = Literal["answered", "closed", "reset", "refused", "silent"]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One connection: what came of it and when, in seconds from the start of connecting."""

    outcome: Outcome
    """answered: bytes came; closed: none before the other end closed; silent: none before the timeout."""
    first_byte: float = 0.0
    total: float = 0.0
    """To the end of the answer, or of the wait."""
    closed_after: float = -1.0
    """From the last byte to the other end's close; negative when it had not closed by the timeout."""
    size: int = 0
    pieces: int = 0
    """Reads that brought data."""

    def __str__(self) -> str:
        if self.outcome == "answered":
            end = f", closed {self.closed_after * 1e3:.0f} ms later" if self.closed_after >= 0 else ""
            return f"{self.size} B in {self.pieces} piece(s) from {self.first_byte * 1e3:.0f} ms on{end}"
        return f"{self.outcome} after {self.total * 1e3:.0f} ms"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A question about a fault, answered by measurement."""

    ok: bool
    detail: str


def read_edge(
    make: Callable[[], sockets.socket], target: Endpoint, *, tls: bool, timeout: float, until_closed: bool = False
) -> Reading:
    """Connect, say hello, and read what comes. `until_closed` provokes the other end into closing and waits for it."""
    started = time.monotonic()

    def since() -> float:
        return time.monotonic() - started

    talk = _Talk(target, tls=tls, until_closed=until_closed)
    with make() as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(target)
            connection.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            connection.sendall(talk.opening)
            if not talk.opening:
                connection.shutdown(sockets.SHUT_WR)
        except ConnectionRefusedError:
            return Reading(outcome="refused", total=since())
        except TimeoutError:
            return Reading(outcome="silent", total=since())
        except OSError:
            return Reading(outcome="reset", total=since())
        first = last = 0.0
        size = pieces = 0
        while size < MAX_BYTES:
            left = timeout - since()
            if left <= 0:
                break
            connection.settimeout(left)
            try:
                data = connection.recv(65536)
            except TimeoutError:
                break
            except OSError:
                outcome: Outcome = "answered" if size else "reset"
                return Reading(
                    outcome=outcome,
                    first_byte=first,
                    total=since(),
                    closed_after=since() - last,
                    size=size,
                    pieces=pieces,
                )
            if not data:
                return Reading(
                    outcome="answered" if size else "closed",
                    first_byte=first,
                    total=last or since(),
                    closed_after=since() - last,
                    size=size,
                    pieces=pieces,
                )
            last = since()
            first = first or last
            size, pieces = size + len(data), pieces + 1
            reply, whole = talk.hear(data)
            if whole:
                return Reading(outcome="answered", first_byte=first, total=last, size=size, pieces=pieces)
            if reply:
                with contextlib.suppress(OSError):  # the next read says why
                    connection.sendall(reply)
        outcome = "answered" if size else "silent"
        return Reading(outcome=outcome, first_byte=first, total=last or since(), size=size, pieces=pieces)


class _Talk:
    """Our side of a connection: what to say first, what to say next, and when enough has been heard."""

    def __init__(self, target: Endpoint, *, tls: bool, until_closed: bool) -> None:
        self._until_closed = until_closed
        self._tls: ssl.SSLObject | None = None
        self._answer = bytearray()
        if tls and until_closed:
            self.opening = b""  # whoever hangs up is hung up on: garbage would be answered by a reset
        elif tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["istio"])
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._incoming, self._outgoing)
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
            self.opening = self._outgoing.read()
        else:
            end = "close" if until_closed else "keep-alive"
            self.opening = f"GET / HTTP/1.1\r\nHost: {target[0]}:{target[1]}\r\nConnection: {end}\r\n\r\n".encode()

    def hear(self, data: bytes) -> tuple[bytes, bool]:
        """What to say to that, and whether the answer is whole. Ours to the server's certificate is not sent: it
        would have to be a certificate."""
        if self._until_closed:
            return b"", False
        if self._tls is None:
            self._answer += data
            return b"", _whole_response(bytes(self._answer))
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read(), False  # a HelloRetryRequest is answered, then it goes on
        except ssl.SSLError:
            return b"", True
        return b"", True


def _whole_response(answer: bytes) -> bool:
    """Whether an HTTP response is complete; one of unknown length is when the other end closes."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    declared = re.search(rb"\r\ncontent-length: *([0-9]{1,9})", head, re.IGNORECASE)
    if declared is not None:
        return bool(blank) and len(body) >= int(declared[1])
    return bool(blank) and body.endswith(b"0\r\n\r\n")


def judge(kind: str, attributes: Mapping[str, int], before: Reading, during: Reading) -> Finding:
    """Whether the fault of `kind` (a toxic's type, or `down`) shows in `during` and not in `before`."""
    seen = f"{before} -> {during}"
    check = _JUDGES.get(kind)
    if check is None:
        return Finding(ok=False, detail=f"no way is known to see a {kind} toxic bite")
    if before.outcome != "answered" and kind != "slow_close":
        return Finding(
            ok=False, detail=f"the edge did not answer before the fault ({before}), so nothing can be compared"
        )
    return Finding(ok=check(attributes, before, during), detail=seen)


def needs_close(kind: str) -> bool:
    """Whether the fault shows in how connections end."""
    return kind == "slow_close"


def patience(kind: str, attributes: Mapping[str, int], before: Reading | None) -> float:
    """Seconds to wait for a reading under this fault: enough to see it, bounded."""
    asked = {
        "latency": attributes.get("latency", 0) + attributes.get("jitter", 0),
        "slow_close": attributes.get("delay", 0),
        "timeout": min(attributes.get("timeout", 0), 2000),
        "reset_peer": attributes.get("timeout", 0),
    }.get(kind, 0)
    usual = before.total if before is not None else 0.0
    if kind == "timeout" and not attributes.get("timeout"):
        return min(5.0, 1.0 + 5 * usual)  # it stays silent for ever
    return min(30.0, 3.0 + 5 * usual + 3 * asked / 1000)


def _latency(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    least = max(NOTICEABLE, (asked.get("latency", 0) * SHARE - asked.get("jitter", 0)) / 1000)
    return during.outcome == "answered" and during.first_byte - before.first_byte >= least


def _bandwidth(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    rate = asked.get("rate", 0) * 1000
    if rate <= 0:
        return during.outcome == "silent"
    slower = during.total - before.total
    return during.outcome == "answered" and slower >= max(NOTICEABLE, SHARE * during.size / rate)


def _slow_close(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    least = max(NOTICEABLE, asked.get("delay", 0) * SHARE / 1000)
    return before.closed_after >= 0 and during.closed_after - before.closed_after >= least


def _timeout(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    if not asked.get("timeout"):
        return during.outcome == "silent"
    waited = during.total >= min(asked["timeout"], 2000) * SHARE / 1000
    return during.outcome in ("closed", "silent", "reset") and waited


def _reset(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    return during.outcome == "reset" and during.total >= asked.get("timeout", 0) * SHARE / 1000


def _slicer(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    more = during.pieces >= max(before.pieces + 2, before.pieces * 2)
    return during.outcome == "answered" and (more or during.total - before.total >= 2 * NOTICEABLE)


def _limit(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    limit = asked.get("bytes", 0)
    return before.size > limit and during.size <= limit and during.outcome in ("answered", "closed", "reset")


def _down(asked: Mapping[str, int], before: Reading, during: Reading) -> bool:
    return during.outcome == "refused"


_JUDGES: dict[str, Callable[[Mapping[str, int], Reading, Reading], bool]] = {
    "latency": _latency,
    "bandwidth": _bandwidth,
    "slow_close": _slow_close,
    "timeout": _timeout,
    "reset_peer": _reset,
    "slicer": _slicer,
    "limit_data": _limit,
    "down": _down,
}
