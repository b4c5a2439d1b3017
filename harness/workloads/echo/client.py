"""The harness's side of the echo program: synchronous calls to its control API.

The API listens on the loopback of the pod's network namespace; a socket made inside that namespace reaches it, so no
sidecar, policy or fault of the mesh is ever in the way of asking what happened.
"""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import threading
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from harness.substrate.api import PodInfo
from harness.workloads.echo.protocol import (
    CONTROL_PORT,
    CallResults,
    CallSpec,
    Counts,
    Received,
    Refusal,
    RequestLog,
)

T = TypeVar("T")

MARGIN = 10.0
"""Seconds a call may take beyond what its spec allows before the control API is given up."""

_ids = itertools.count(1)


class Connects(Protocol):
    """The part of a `World` that is needed here."""

    def connect(self, address: tuple[str, int], *, source: PodInfo, timeout: float = 5.0) -> socket.socket: ...


class EchoError(Exception):
    """The control API did not answer, or refused; the message names the pod and what was asked."""


def call(world: Connects, pod: PodInfo, url: str, **how: Any) -> CallResults:
    """Have the app in `pod` call `url`; `how` are the fields of `CallSpec`. Every result, in order."""
    return call_spec(world, pod, CallSpec(url=url, **how))


def call_spec(world: Connects, pod: PodInfo, spec: CallSpec) -> CallResults:
    return _ask(world, pod, "POST", "/call", CallResults, body=msgspec.json.encode(spec), timeout=_limit(spec))


def start(world: Connects, pod: PodInfo, url: str, **how: Any) -> Background:
    """Begin a call and return at once; use it as a context manager, or `stop` it."""
    name = f"call-{os.getpid()}-{next(_ids)}"
    return Background(world, pod, CallSpec(url=url, **{"id": name, **how}))


class Background:
    """A call in progress. `stop` ends it early and gives the results so far; `join` waits for its own end."""

    def __init__(self, world: Connects, pod: PodInfo, spec: CallSpec) -> None:
        self.spec = spec
        self._world = world
        self._pod = pod
        self._results: CallResults | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=spec.id, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results = call_spec(self._world, self._pod, self.spec)
        except Exception as exc:
            self._error = exc

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> CallResults:
        """Start no further request, let those in flight end, and return every result."""
        if not self.done:
            _ask(self._world, self._pod, "POST", f"/stop?{urlencode({'id': self.spec.id})}", dict[str, bool])
        return self.join()

    def join(self) -> CallResults:
        self._thread.join(_limit(self.spec) + MARGIN)
        if self._error is not None:
            raise self._error
        if self._results is None:
            raise EchoError(f"call {self.spec.id} in {self._pod.namespace}/{self._pod.name} did not end")
        return self._results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.stop()
        elif not self.done:
            try:
                self.stop()
            except EchoError as problem:
                exc.add_note(f"stopping {self.spec.id}: {problem}") if exc else None


def requests(world: Connects, pod: PodInfo, *, token: str = "") -> list[Received]:
    """What the app in `pod` received since its last reset, in order of arrival; all of it, or what bore `token`.

    Raises `EchoError` when the bounded log has forgotten entries: an incomplete answer proves nothing.
    """
    query = f"?{urlencode({'token': token})}" if token else ""
    log = _ask(world, pod, "GET", f"/requests{query}", RequestLog)
    if log.dropped:
        raise EchoError(f"{pod.namespace}/{pod.name} forgot {log.dropped} requests; reset it before, or send fewer")
    return log.requests


def attempts(world: Connects, pod: PodInfo, token: str) -> int:
    """How many requests with `token` the app in `pod` received since its last reset."""
    return _ask(world, pod, "GET", f"/attempts?{urlencode({'token': token})}", dict[str, int])["attempts"]


def counts(world: Connects, pod: PodInfo) -> Counts:
    """How many requests and connections the app in `pod` had since its last reset."""
    return _ask(world, pod, "GET", "/counts", Counts)


def reset(world: Connects, pod: PodInfo) -> None:
    """Forget every request and attempt."""
    _ask(world, pod, "POST", "/reset", dict[str, bool])


def _limit(spec: CallSpec) -> float:
    """Seconds within which a call ends by itself."""
    waves = -(-spec.count // max(1, spec.concurrency))
    paced = spec.count / spec.rate if spec.rate > 0 else 0.0
    return waves * spec.timeout_ms / 1000 + paced + MARGIN


def _ask(
    world: Connects, pod: PodInfo, method: str, path: str, answer: type[T], *, body: bytes = b"", timeout: float = 15.0
) -> T:
    what = f"echo control API of {pod.namespace}/{pod.name}, {method} {path}"
    try:
        sock = world.connect(("127.0.0.1", CONTROL_PORT), source=pod, timeout=5.0)
    except OSError as exc:
        raise EchoError(f"{what}: cannot connect to 127.0.0.1:{CONTROL_PORT} in the pod: {exc}") from exc
    connection = http.client.HTTPConnection("127.0.0.1", CONTROL_PORT)
    try:
        sock.settimeout(timeout)
        connection.sock = sock
        connection.request(method, path, body=body or None, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise EchoError(f"{what}: {exc or type(exc).__name__}") from exc
    finally:
        connection.close()
        sock.close()
    if response.status != 200:
        try:
            reason = msgspec.json.decode(data, type=Refusal).error
        except msgspec.DecodeError:
            reason = data[:200].decode(errors="replace")
        raise EchoError(f"{what}: status {response.status}: {reason}")
    return msgspec.json.decode(data, type=answer)
