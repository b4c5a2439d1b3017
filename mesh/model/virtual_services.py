"""VirtualService to routes.

The oldest VirtualService of a host owns it. Its rules are tried in order, first match wins; when none matches the
answer is 404, never the service itself. A destination that does not exist answers 503 for its own share only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from mesh.config.snapshot import Config
from mesh.config.types import VirtualService
from mesh.config.types import istio_networking as istio
from mesh.model.context import Context
from mesh.model.hosts import most_specific, qualified
from mesh.model.matching import PRESENT, StringMatch, selects
from mesh.model.routes import (
    DEFAULT_RETRY,
    NO_OPS,
    Answer,
    Backend,
    Fault,
    Forward,
    HeaderMatch,
    HeaderOps,
    Mirror,
    PathMatch,
    PathRewrite,
    QueryMatch,
    Redirect,
    Retry,
    Route,
    RouteMatch,
    header_ops,
)
from mesh.model.shares import share_out

HOST_HEADERS = frozenset({"host", ":authority"})

GRPC_STATUS = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}

DEFAULT_PORT = {"http": 80, "https": 443}


class VirtualServices:
    """The VirtualServices one view sees, by host."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._owner: dict[str, Config[VirtualService]] = {}
        for item in context.scope.virtual_services:
            for host in item.spec.hosts:
                name = qualified(host, item.namespace, context.settings.cluster_domain)
                self._owner.setdefault(name, item)

    def of(self, host: str) -> Config[VirtualService] | None:
        if host in self._owner:
            return self._owner[host]
        pattern = most_specific(self._owner, host)
        return self._owner[pattern] if pattern is not None else None

    def hosts(self) -> Mapping[str, Config[VirtualService]]:
        return self._owner

    def routes(self, item: Config[VirtualService], listener_port: int) -> tuple[Route, ...]:
        lowering = _Lowering(self._context, item, listener_port)
        return tuple(route for http in item.spec.http for route in lowering.lower(http))

    def tcp(self, host: str, listener_port: int) -> tuple[tuple[tuple[str, int], ...] | None, tuple[str, ...]]:
        """Clusters and weights for TCP to `host`, or None when nothing is said of it; and what said it."""
        item = self.of(host)
        if item is None or not item.spec.tcp:
            return None, ()
        context = self._context
        for rule in item.spec.tcp:
            if rule.match and not any(_l4_applies(match, context, listener_port) for match in rule.match):
                continue
            shares = []
            for entry in rule.route:
                cluster = _cluster(context, item, entry.destination, listener_port)
                weight = 1 if len(rule.route) == 1 else entry.weight or 0
                if cluster and weight:
                    shares.append((cluster, weight))
            return tuple(shares), (item.ref,)
        return None, ()


def _cluster(
    context: Context, item: Config[VirtualService], destination: istio.Destination, listener_port: int
) -> str | None:
    host = qualified(destination.host, item.namespace, context.settings.cluster_domain)
    port = destination.port.number if destination.port else None
    return context.cluster(host, destination.subset, port, listener_port)


def _l4_applies(match: istio.L4MatchAttributes, context: Context, listener_port: int) -> bool:
    return (
        (match.port is None or match.port == listener_port)
        and selects(match.source_labels, context.labels)
        and match.source_namespace in ("", context.view.namespace)
    )


def _string(match: istio.StringMatch, ignore_case: bool = False) -> StringMatch:
    if match.exact is not None:
        return StringMatch(kind="exact", value=match.exact, ignore_case=ignore_case)
    if match.prefix is not None:
        return StringMatch(kind="prefix", value=match.prefix, ignore_case=ignore_case)
    if match.regex is not None:
        return StringMatch(kind="regex", value=match.regex)
    return PRESENT


def _ops(operations: istio.HeaderOperations | None) -> HeaderOps:
    """Without `host`, which is rewritten rather than set."""
    if operations is None:
        return NO_OPS
    kept = {name: value for name, value in operations.set.items() if name.lower() not in HOST_HEADERS}
    return header_ops(kept, operations.add, operations.remove)


def _host(operations: istio.HeaderOperations | None) -> str:
    if operations is None:
        return ""
    return next((value for name, value in operations.set.items() if name.lower() in HOST_HEADERS), "")


class _Lowering:
    def __init__(self, context: Context, item: Config[VirtualService], listener_port: int) -> None:
        self._context = context
        self._item = item
        self._port = listener_port

    def lower(self, http: istio.HTTPRoute) -> Iterable[Route]:
        for match in http.match or (istio.HTTPMatchRequest(),):
            if not self._applies(match):
                continue
            name = f"{http.name}.{match.name}" if http.name and match.name else http.name or match.name or "default"
            yield from self._routes(http, name, self._match(match))

    def _applies(self, match: istio.HTTPMatchRequest) -> bool:
        return (
            (match.port is None or match.port == self._port)
            and selects(match.source_labels, self._context.labels)
            and match.source_namespace in ("", self._context.view.namespace)
        )

    def _match(self, match: istio.HTTPMatchRequest) -> RouteMatch:
        path = PathMatch()
        if match.uri is not None and not match.uri.presence:
            uri = _string(match.uri, match.ignore_uri_case)
            kind = "exact" if uri.kind == "exact" else "regex" if uri.kind == "regex" else "prefix"
            path = PathMatch(kind=kind, value=uri.value, ignore_case=match.ignore_uri_case)  # type: ignore[arg-type]
        headers = [
            HeaderMatch(name=name, match=_string(value))
            for name, value in (
                (":scheme", match.scheme),
                (":method", match.method),
                (":authority", match.authority),
            )
            if value is not None
        ]
        headers += [HeaderMatch(name=name, match=_string(value)) for name, value in sorted(match.headers.items())]
        headers += [
            HeaderMatch(name=name, match=_string(value), invert=True)
            for name, value in sorted(match.without_headers.items())
        ]
        query = tuple(QueryMatch(name=name, match=_string(value)) for name, value in sorted(match.query_params.items()))
        return RouteMatch(path=path, headers=tuple(headers), query=query)

    def _routes(self, http: istio.HTTPRoute, name: str, match: RouteMatch) -> Iterable[Route]:
        request = http.headers.request if http.headers else None
        response = http.headers.response if http.headers else None
        base = Route(
            name=name,
            match=match,
            action=Answer(status=503),
            request=_ops(request),
            response=_ops(response),
            fault=_fault(http.fault),
            origin=self._item.ref,
        )
        if http.redirect is not None:
            return [msgspec.structs.replace(base, action=self._redirect(http.redirect))]
        if http.direct_response is not None:
            body = http.direct_response.body.string if http.direct_response.body else None
            answer = Answer(status=http.direct_response.status, body=body or "")
            return [msgspec.structs.replace(base, action=answer)]
        backends: list[tuple[Backend | None, int]] = []
        for entry in http.route:
            weight = 1 if len(http.route) == 1 else entry.weight or 0
            backends.append((self._backend(entry, weight), weight))
        forward = Forward(
            backends=(),
            path=PathRewrite(kind="prefix", value=http.rewrite.uri) if http.rewrite and http.rewrite.uri else None,
            host_rewrite=(http.rewrite.authority if http.rewrite else "") or _host(request),
            mirrors=self._mirrors(http),
            timeout=http.timeout,
            retry=_retry(http.retries),
        )
        return share_out(base, forward, backends, missing=503)

    def _backend(self, entry: istio.HTTPRouteDestination, weight: int) -> Backend | None:
        cluster = _cluster(self._context, self._item, entry.destination, self._port)
        if cluster is None:
            return None
        request = entry.headers.request if entry.headers else None
        response = entry.headers.response if entry.headers else None
        return Backend(
            cluster=cluster,
            weight=weight,
            request=_ops(request),
            response=_ops(response),
            host_rewrite=_host(request),
        )

    def _mirrors(self, http: istio.HTTPRoute) -> tuple[Mirror, ...]:
        wanted = [(entry.destination, entry.percentage) for entry in http.mirrors]
        if http.mirror is not None:
            wanted.append((http.mirror, http.mirror_percentage))
        mirrors = []
        for destination, percentage in wanted:
            cluster = _cluster(self._context, self._item, destination, self._port)
            percent = percentage.value if percentage is not None else 100.0
            if cluster is not None and percent > 0:
                mirrors.append(Mirror(cluster=cluster, percent=percent))
        return tuple(mirrors)

    def _redirect(self, redirect: istio.HTTPRedirect) -> Redirect:
        port = redirect.port or 0
        if redirect.derive_port == "FROM_REQUEST_PORT" and DEFAULT_PORT.get(redirect.scheme or "http") != self._port:
            port = self._port
        return Redirect(
            code=redirect.redirect_code or 301,
            scheme=redirect.scheme,
            host=redirect.authority,
            port=port,
            strip_port=redirect.derive_port is not None,
            path=PathRewrite(kind="full", value=redirect.uri) if redirect.uri else None,
        )


def _fault(fault: istio.HTTPFaultInjection | None) -> Fault | None:
    if fault is None or (fault.delay is None and fault.abort is None):
        return None
    delay, abort = fault.delay, fault.abort
    grpc = None
    if abort is not None and abort.grpc_status is not None:
        text = abort.grpc_status.strip().upper()
        grpc = int(text) if text.isdigit() else GRPC_STATUS[text]
    return Fault(
        delay=delay.fixed_delay if delay else None,
        delay_percent=delay.percentage.value if delay and delay.percentage else 100.0,
        abort_http=abort.http_status if abort else None,
        abort_grpc=grpc,
        abort_percent=abort.percentage.value if abort and abort.percentage else 100.0,
    )


def _retry(retries: istio.HTTPRetry | None) -> Retry | None:
    if retries is None:
        return DEFAULT_RETRY
    if retries.attempts == 0:
        return None
    on, codes = parse_retry_on(retries.retry_on)
    return Retry(
        attempts=retries.attempts,
        on=on or DEFAULT_RETRY.on,
        codes=codes,
        per_try_timeout=retries.per_try_timeout,
        other_host=retries.retry_ignore_previous_hosts is not False,
    )


def parse_retry_on(text: str) -> tuple[str, tuple[int, ...]]:
    """Conditions for Envoy, and the status codes among them: `5xx,503` is `5xx,retriable-status-codes` and (503,)."""
    conditions: list[str] = []
    codes: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        if part.isdigit():
            codes.append(int(part))
        elif part:
            conditions.append(part)
    if codes and "retriable-status-codes" not in conditions:
        conditions.append("retriable-status-codes")
    return ",".join(conditions), tuple(codes)
