"""What the echo program says about a request, and what it can be told.

Instructions travel with the request, as a header `x-echo-<name>` or a query parameter `echo-<name>`; headers keep
path checks exact, and a header wins over a parameter. Raw TCP has neither: there a line that starts with `?` carries
the parameters, up to the first space.

=============  =====================================================================================================
`delay`        Milliseconds to wait before answering.
`status`       Status to answer with (gRPC: the `grpc-status`).
`fail`         The first n requests with this `token` fail; later ones are answered. Counted per instance.
`fail-status`  Status of such a failure; 503 (gRPC: 14) by default.
`fail-how`     `status` (default), `reset` or `close`.
`token`        Names a request, for `fail` and for the log of received requests. At most 128 characters.
`reset`        `now`: TCP reset instead of an answer; `mid`: after the headers and half of the body.
`close`        The same with an orderly FIN.
`header`       `Name: value` to add to the response; may be repeated.
`size`         The body is this many bytes of filler instead of the echo.
=============  =====================================================================================================

On HTTP/2 and gRPC, `reset` resets the stream and `close` ends the connection.
"""

from __future__ import annotations

from typing import Literal

import msgspec

HTTP_PORT = 8080
"""HTTP/1.1, and WebSocket on the path `/ws`. Service port name `http`."""
HTTP2_PORT = 8081
"""HTTP/2 with prior knowledge. Service port name `http2`."""
GRPC_PORT = 7070
"""Service port name `grpc`."""
TCP_PORT = 9000
"""One JSON line for every line received. Service port name `tcp`."""
TCP_SERVER_PORT = 9001
"""The same, and the server speaks first. Service port name `tcp-server`."""
AUTO_PORT = 8090
"""Takes HTTP/1.1, HTTP/2 and raw TCP, by what comes first. Its Service port name, `auto`, declares no protocol."""
HEALTH_PORT = 8088
"""`GET /healthz`, for probes: on a port of its own, so that they are not among what is counted."""
CONTROL_PORT = 8089
"""Control API; on 127.0.0.1 of the pod only, where no sidecar intercepts."""

WEBSOCKET_PATH = "/ws"
GRPC_UNARY = "/meshproof.echo.v1.Echo/Unary"
GRPC_STREAM = "/meshproof.echo.v1.Echo/Stream"

PREFIX = "x-echo-"
QUERY_PREFIX = "echo-"
TOKEN_HEADER = PREFIX + "token"

MAX_COUNT = 100_000
"""Requests in one call."""
MAX_CONCURRENCY = 1_024
MAX_BODY = 8 << 20
"""Bytes of a request body, and of a filler."""
MAX_RESULT_BODY = 64 << 10
"""Bytes of a response body that a result keeps; its length is told in full."""

Pairs = list[tuple[str, str]]
"""Headers, in order and with the case they had."""

Protocol = Literal["http1", "http2", "grpc", "grpc-stream", "tcp", "tcp-server-first", "websocket"]
Outcome = Literal["pending", "answered", "failed", "reset", "closed", "cancelled"]


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered."""

    pod: str = ""
    namespace: str = ""
    version: str = ""
    service_account: str = ""


class Echo(msgspec.Struct, frozen=True, kw_only=True, tag="echo", tag_field="type"):
    """One request (or TCP line, or WebSocket or gRPC message) as it was received."""

    ordinal: int
    """1 for the first that this instance received since it started or was last reset."""
    arrival_ns: int
    """CLOCK_MONOTONIC, comparable between the pods of one machine."""
    protocol: str
    """`HTTP/1.1`, `HTTP/1.0`, `HTTP/2`, `gRPC`, `TCP` or `WebSocket`."""
    method: str = ""
    path: str = ""
    """Exactly as on the wire, query included; never normalised or decoded."""
    headers: Pairs = []
    """HTTP/2 pseudo-headers included."""
    peer: tuple[str, int] = ("", 0)
    port: int = 0
    """The port it came in by."""
    body_sha256: str = ""
    body_length: int = 0
    token: str = ""
    attempt: int = 0
    """How many requests with this token this instance has received, this one included; 0 without a token."""
    instance: Instance = Instance()

    def header(self, name: str) -> str | None:
        """The first value of header `name`, whatever its case."""
        return first(self.headers, name)

    def all(self, name: str) -> list[str]:
        """Every value of header `name`, in order, whatever its case."""
        wanted = name.lower()
        return [value for key, value in self.headers if key.lower() == wanted]


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the log of received requests."""

    echo: Echo
    outcome: Outcome
    """`cancelled`: the caller went away before it was answered. `reset`, `closed`, `failed`: as it was told to."""
    finished_ns: int = 0
    """CLOCK_MONOTONIC; 0 while pending."""


class RequestLog(msgspec.Struct, frozen=True, kw_only=True):
    requests: list[Received]
    dropped: int = 0
    """Entries forgotten since the last reset because the log is bounded."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Exact since the last reset, whatever the log has forgotten."""

    requests: int
    cancelled: int
    connections: int
    open_connections: int
    peak_connections: int


class CallSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to send, and how often. Nothing is added but `Host` and `Content-Length` (unless told), the
    pseudo-headers of HTTP/2 and what an upgrade or gRPC cannot do without. Redirects are never followed, requests
    never retried."""

    url: str
    """`http://host[:port]/path?query`; the path is sent as written. For TCP `tcp://host:port`."""
    protocol: Protocol = "http1"
    address: str = ""
    """`host:port` to connect to, when not the URL's."""
    method: str = "GET"
    headers: Pairs = []
    body: bytes = b""
    """TCP: sent as one line. WebSocket and gRPC: one message."""
    messages: int = 1
    """TCP, WebSocket, gRPC stream: how many times the body is sent on one connection or stream, each answered."""
    count: int = 1
    rate: float = 0.0
    """Requests per second, evenly spaced, on time as far as `concurrency` allows; 0: as fast as it allows."""
    concurrency: int = 1
    """Requests in flight at most; each has a connection of its own (HTTP/2 and gRPC: a stream)."""
    new_connection: bool = False
    """A new connection for every request; otherwise kept and used again within the call."""
    timeout_ms: float = 5_000.0
    """From the start of one request, connecting included, to the end of its response."""
    marker: str = ""
    """When set, each occurrence in the path and header values becomes the index of the request, from 0."""
    id: str = ""
    """Names the call, so that it can be stopped."""


Problem = Literal["", "resolve", "connect", "timeout", "reset", "closed", "protocol"]


class CallResult(msgspec.Struct, kw_only=True):
    """One request's end. `status` is 0 and `error` says why when no full response came."""

    index: int
    status: int = 0
    headers: Pairs = []
    trailers: Pairs = []
    body: bytes = b""
    """At most `MAX_RESULT_BODY` bytes of it."""
    body_length: int = 0
    latency_ms: float = 0.0
    started_ns: int = 0
    """CLOCK_MONOTONIC when the request was begun."""
    error: Problem = ""
    """`connect`: refused or unreachable; `closed`: before the response was whole; the others as they say."""
    detail: str = ""
    connection: int = 0
    """Ordinal of its connection in this call, from 1; 0 when none was made."""
    local_port: int = 0
    grpc_status: int | None = None
    greeting_ms: float = 0.0
    """Server-first TCP: when the server's first line was complete."""
    partial_status: int = 0
    """The status of a response that broke off."""

    @property
    def ok(self) -> bool:
        return not self.error and (self.grpc_status or 0) == 0 and (self.status < 400)

    @property
    def echo(self) -> Echo | None:
        """What the server received; None when the answer was not an echo (an error, a redirect, a filler)."""
        return decode_echo(self.body)

    def header(self, name: str) -> str | None:
        """The first value of response header `name`, whatever its case."""
        return first(self.headers, name)

    def all(self, name: str) -> list[str]:
        """Every value of response header `name`, in order, whatever its case."""
        wanted = name.lower()
        return [value for key, value in self.headers if key.lower() == wanted]


class CallResults(msgspec.Struct, kw_only=True):
    """Every result, by index. A stopped call has fewer than `count`."""

    results: list[CallResult]
    elapsed_s: float = 0.0
    connections: int = 0
    """Connections made."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What the control API answers, with status 400, to what it cannot do."""

    error: str


def first(pairs: Pairs, name: str) -> str | None:
    """The first value of header `name`, whatever its case."""
    wanted = name.lower()
    for key, value in pairs:
        if key.lower() == wanted:
            return value
    return None


_decoder = msgspec.json.Decoder(Echo)


def decode_echo(body: bytes) -> Echo | None:
    """The first line of `body` as an `Echo`, or None when it is none."""
    if not body.startswith(b'{"type":"echo"'):
        return None
    line, _, _ = body.partition(b"\n")
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None
