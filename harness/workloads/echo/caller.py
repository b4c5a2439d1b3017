"""Calls on command: paces the requests of a `CallSpec` and collects every result.

How one request is made is a `Speaker`'s affair, one for each protocol (`speakers`). Nothing is retried, so what a
server received beyond `count` was made by something in between.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time

import msgspec

from harness.workloads.clock import Clock
from harness.workloads.echo.protocol import MAX_CONCURRENCY, MAX_COUNT, CallResult, CallResults, CallSpec
from harness.workloads.echo.speakers import Failed, Speaker, Target, speaker

MAX_CALLS = 64
"""Calls in progress at once."""
MAX_TIMEOUT_MS = 600_000.0
DEFAULT_PORTS = {"http": 80, "ws": 80, "grpc": 80, "h2c": 80}


class InvalidCall(ValueError):
    """The call cannot be made as told; the message names the field, its value and what was expected."""


class Caller:
    """The calls of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stops: dict[str, asyncio.Event] = {}
        self._running = 0

    async def run(self, spec: CallSpec) -> CallResults:
        """Make the call. Cancelling closes its connections. Raises `InvalidCall`."""
        target = check(spec)
        if self._running >= MAX_CALLS:
            raise InvalidCall(f"{self._running} calls are in progress; at most {MAX_CALLS}")
        if spec.id and spec.id in self._stops:
            raise InvalidCall(f"id: {spec.id!r} names a call in progress; expected a name of its own")
        stop = asyncio.Event()
        self._running += 1
        if spec.id:
            self._stops[spec.id] = stop
        try:
            return await self._run(spec, target, stop)
        finally:
            self._running -= 1
            self._stops.pop(spec.id, None)

    def stop(self, name: str) -> bool:
        """End the call `name` after the requests in flight; False when there is none."""
        stop = self._stops.get(name)
        if stop is not None:
            stop.set()
        return stop is not None

    async def _run(self, spec: CallSpec, target: Target, stop: asyncio.Event) -> CallResults:
        began = time.monotonic_ns()
        problem = await _resolve(target)
        speak = speaker(spec, target)
        results: list[CallResult] = []
        following = 0

        async def work() -> None:
            nonlocal following
            while following < spec.count and not stop.is_set():
                index = following
                following += 1
                if spec.rate > 0:
                    await self._pace(began + int(index / spec.rate * 1e9), stop)
                    if stop.is_set():
                        return
                if problem:
                    results.append(
                        CallResult(index=index, error="resolve", detail=problem, started_ns=time.monotonic_ns())
                    )
                else:
                    results.append(await _one(speak, spec, index))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(spec.concurrency, spec.count)):
                    group.create_task(work())
        finally:
            speak.close()
        results.sort(key=lambda result: result.index)
        return CallResults(
            results=results, elapsed_s=(time.monotonic_ns() - began) / 1e9, connections=speak.connections
        )

    async def _pace(self, moment_ns: int, stop: asyncio.Event) -> None:
        """Until `moment_ns`, or a stop; a long wait looks for the stop now and then."""
        while not stop.is_set():
            now = time.monotonic_ns()
            if moment_ns <= now:
                return
            await self._clock.until(min(moment_ns, now + 200_000_000))


async def _one(speak: Speaker, spec: CallSpec, index: int) -> CallResult:
    result = CallResult(index=index)
    result.started_ns = time.monotonic_ns()
    try:
        async with asyncio.timeout(spec.timeout_ms / 1000):
            await speak.call(result)
    except TimeoutError:
        result.error = "timeout"
        result.detail = f"no whole response within {spec.timeout_ms:g} ms"
    except Failed as exc:
        result.error = exc.problem
        result.detail = exc.detail
    result.latency_ms = (time.monotonic_ns() - result.started_ns) / 1e6
    if result.error:
        result.partial_status, result.status = result.partial_status or result.status, 0
    return result


_URL = re.compile(
    r"(?P<scheme>[a-z0-9]+)://(?P<host>\[[0-9a-fA-F:.]+\]|[^/?#:\[\]\s]+)(?::(?P<port>\d{1,5}))?(?P<target>.*)"
)
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^/?#:\[\]\s]+):(?P<port>\d{1,5})")
_SCHEMES = frozenset({"http", "ws", "tcp", "grpc", "h2c"})


def check(spec: CallSpec) -> Target:
    """Where `spec` goes. Raises `InvalidCall`. The request target is everything behind the authority, as written."""
    match = _URL.fullmatch(spec.url)
    if match is None or match["scheme"] not in _SCHEMES:
        raise InvalidCall(f"url: {spec.url[:200]!r}; expected http://host[:port]/path (TLS is the mesh's affair)")
    port = match["port"]
    connect_port = int(port) if port else DEFAULT_PORTS.get(match["scheme"], 0)
    if not 1 <= connect_port <= 65535:
        raise InvalidCall(f"url: {spec.url[:200]!r}; expected a port from 1 to 65535")
    host = match["host"]
    if spec.address:
        address = _ADDRESS.fullmatch(spec.address)
        if address is None or not 1 <= int(address["port"]) <= 65535:
            raise InvalidCall(f"address: {spec.address[:200]!r}; expected host:port")
        host, connect_port = address["host"], int(address["port"])
    for field, number, low, high in (
        ("count", spec.count, 1, MAX_COUNT),
        ("concurrency", spec.concurrency, 1, MAX_CONCURRENCY),
        ("rate", spec.rate, 0, 100_000),
        ("messages", spec.messages, 1, 10_000),
        ("timeout_ms", spec.timeout_ms, 1, MAX_TIMEOUT_MS),
    ):
        if not low <= number <= high:
            raise InvalidCall(f"{field}: {number}; expected {low:g} to {high:g}")
    path = match["target"]
    if not path or path[0] in "?#":
        path = f"/{path}"
    if re.search(r"[\x00-\x20\x7f]", path):
        raise InvalidCall(f"url: {spec.url[:200]!r}; expected a path without blanks and control characters")
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}", spec.method):
        raise InvalidCall(f"method: {spec.method[:80]!r}; expected a token")
    for header, value in spec.headers:
        if not re.fullmatch(r":?[!#$%&'*+.^_`|~\w-]{1,256}", header, re.ASCII) or re.search(r"[\r\n\0]", value):
            raise InvalidCall(f"headers: {header[:80]!r}: {value[:80]!r}; expected a token and one line")
    authority = match["host"] + (f":{port}" if port else "")
    return Target(authority=authority, path=path, host=host.strip("[]"), port=connect_port)


async def _resolve(target: Target) -> str:
    """Fill in the address of the target's host, once per call; what went wrong, or nothing."""
    try:
        target.ip = str(ipaddress.ip_address(target.host))
        return ""
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as exc:
        return f"{target.host}: {exc.strerror or exc}"
    target.ip = str(found[0][4][0])
    return ""


def decode_spec(body: bytes) -> CallSpec:
    """Raises `InvalidCall`."""
    try:
        return msgspec.json.decode(body, type=CallSpec)
    except msgspec.DecodeError as exc:
        raise InvalidCall(f"call: {exc}") from None
