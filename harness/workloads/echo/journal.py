"""What an echo server received: counters that are exact, and a log that is bounded and says what it forgot."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import msgspec

from harness.workloads.echo.protocol import Counts, Echo, Instance, Outcome, Pairs

MAX_ENTRIES = 50_000
MAX_BYTES = 48 << 20
"""Of encoded echoes."""
MAX_TOKENS = 65_536
"""Tokens whose attempts are counted; the one unused for longest goes first."""

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_encoder = msgspec.json.Encoder()


class Entry:
    """One request in the log. `body` is its echo, encoded once: for the reply and for the log."""

    __slots__ = ("attempt", "body", "finished_ns", "outcome", "token")

    def __init__(self, body: bytes, token: str, attempt: int) -> None:
        self.body = body
        self.token = token
        self.attempt = attempt
        self.outcome: Outcome = "pending"
        self.finished_ns = 0


class Journal:
    def __init__(self, instance: Instance, connections: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)) -> None:
        self.instance = instance
        self._connections = connections
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._dropped = 0
        self._requests = 0
        self._cancelled = 0
        self._attempts: OrderedDict[str, int] = OrderedDict()

    def receive(
        self,
        *,
        protocol: str,
        method: str = "",
        path: str = "",
        headers: Pairs,
        peer: tuple[str, int],
        port: int,
        body: bytes,
        token: str = "",
        arrival_ns: int = 0,
    ) -> Entry:
        """Note a request; its echo is `entry.body`."""
        self._requests += 1
        attempt = 0
        if token:
            attempt = self._attempts.pop(token, 0) + 1
            self._attempts[token] = attempt
            if len(self._attempts) > MAX_TOKENS:
                self._attempts.popitem(last=False)
        echo = Echo(
            ordinal=self._requests,
            arrival_ns=arrival_ns or time.monotonic_ns(),
            protocol=protocol,
            method=method,
            path=path,
            headers=headers,
            peer=peer,
            port=port,
            body_sha256=hashlib.sha256(body).hexdigest() if body else _EMPTY_SHA256,
            body_length=len(body),
            token=token,
            attempt=attempt,
            instance=self.instance,
        )
        entry = Entry(_encoder.encode(echo), token, attempt)
        self._entries.append(entry)
        self._bytes += len(entry.body)
        while len(self._entries) > MAX_ENTRIES or self._bytes > MAX_BYTES:
            self._bytes -= len(self._entries.popleft().body)
            self._dropped += 1
        return entry

    def greeting(self, peer: tuple[str, int], port: int) -> bytes:
        """What a server that speaks first says: an echo of nothing, which is not counted."""
        echo = Echo(
            ordinal=0,
            arrival_ns=time.monotonic_ns(),
            protocol="TCP",
            peer=peer,
            port=port,
            body_sha256=_EMPTY_SHA256,
            instance=self.instance,
        )
        return _encoder.encode(echo)

    def finish(self, entry: Entry, outcome: Outcome) -> None:
        if entry.outcome == "pending":
            entry.outcome = outcome
            entry.finished_ns = time.monotonic_ns()
            if outcome == "cancelled":
                self._cancelled += 1

    def attempts(self, token: str) -> int:
        return self._attempts.get(token, 0)

    def counts(self) -> Counts:
        total, now, peak = self._connections()
        return Counts(
            requests=self._requests,
            cancelled=self._cancelled,
            connections=total,
            open_connections=now,
            peak_connections=peak,
        )

    def encoded_log(self, token: str = "") -> bytes:
        """A `RequestLog` as JSON: every entry, or those with `token`."""
        entries = ",".join(self._encoded(token))
        return f'{{"requests":[{entries}],"dropped":{self._dropped}}}'.encode()

    def reset(self) -> None:
        self._entries.clear()
        self._attempts.clear()
        self._bytes = self._dropped = self._requests = self._cancelled = 0

    def _encoded(self, token: str) -> Iterator[str]:
        for entry in self._entries:
            if not token or entry.token == token:
                yield (
                    f'{{"echo":{entry.body.decode()},"outcome":"{entry.outcome}","finished_ns":{entry.finished_ns}}}'
                )
