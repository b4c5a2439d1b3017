"""HTTP routes in one neutral form, which VirtualService and HTTPRoute both lower to.

A virtual host's routes are tried in order and the first match acts. Clusters are named, and every name is one the
same compilation emits: whoever lowers resolves destinations, and answers for those that do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from mesh.model.matching import StringMatch


class HeaderOps(msgspec.Struct, frozen=True, kw_only=True):
    """Values are literal: a `%` in one is a per cent sign."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.add or self.remove)


NO_OPS = HeaderOps()


class HeaderMatch(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    match: StringMatch
    invert: bool = False
    """Matches when the header is missing, or differs."""


class QueryMatch(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    match: StringMatch


class PathMatch(msgspec.Struct, frozen=True, kw_only=True):
    """`prefix` is of the string (VirtualService), `segments` of whole path segments (HTTPRoute)."""

    kind: Literal["exact", "prefix", "segments", "regex"] = "prefix"
    value: str = "/"
    ignore_case: bool = False


class RouteMatch(msgspec.Struct, frozen=True, kw_only=True):
    path: PathMatch = PathMatch()
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    percent: float | None = None
    """Only this share of the requests that match otherwise."""


class Hash(msgspec.Struct, frozen=True, kw_only=True):
    """What consistent hashing keys on."""

    kind: Literal["header", "cookie", "source_ip", "query"]
    name: str = ""
    path: str = ""
    ttl: float | None = None


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    cluster: str
    weight: int = 1
    request: HeaderOps = NO_OPS
    response: HeaderOps = NO_OPS
    host_rewrite: str = ""


class PathRewrite(msgspec.Struct, frozen=True, kw_only=True):
    """`prefix` replaces what the match matched, `full` the whole path (the query stays)."""

    kind: Literal["prefix", "full"]
    value: str


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    cluster: str
    percent: float = 100.0


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    attempts: int
    on: str
    codes: tuple[int, ...] = ()
    per_try_timeout: float | None = None
    other_host: bool = True


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    delay: float | None = None
    delay_percent: float = 100.0
    abort_http: int | None = None
    abort_grpc: int | None = None
    abort_percent: float = 100.0


class Forward(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    backends: tuple[Backend, ...]
    path: PathRewrite | None = None
    host_rewrite: str = ""
    mirrors: tuple[Mirror, ...] = ()
    timeout: float | None = None
    """Seconds; None or 0 for none."""
    retry: Retry | None = None
    hashes: tuple[Hash, ...] = ()


class Redirect(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    code: int = 301
    scheme: str = ""
    host: str = ""
    port: int = 0
    strip_port: bool = False
    """With no `host` and no `port`: drop the port the client wrote in its Host header, rather than keep it."""
    path: PathRewrite | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The proxy's own response."""

    status: int
    body: str = ""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    match: RouteMatch
    action: Forward | Redirect | Answer
    request: HeaderOps = NO_OPS
    response: HeaderOps = NO_OPS
    fault: Fault | None = None
    origin: str = ""


class VirtualHost(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    says: tuple[tuple[str, str], ...] = ()
    """Headers the proxy adds for the peer's proxy: name and Envoy format string."""


DEFAULT_RETRY = Retry(
    attempts=2,
    on="connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
)
"""Istio's, for every route that says nothing. No status code is retriable by default, so an answer of the app is never
asked for twice; `attempts: 0` switches it off."""


def header_ops(
    set: Mapping[str, str] | None = None, add: Mapping[str, str] | None = None, remove: tuple[str, ...] = ()
) -> HeaderOps:
    return HeaderOps(set=tuple((set or {}).items()), add=tuple((add or {}).items()), remove=remove)
