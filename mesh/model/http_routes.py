"""Gateway API HTTPRoutes attached to a Service (GAMMA), to routes.

All rules of all routes of one parent port compete: exact path, then longest prefix, method, number of headers, number
of query parameters, oldest route, name, first rule. Once a route is attached, a request that matches no rule is
answered 404. A backend that does not exist answers 500 for its own share only. A route from the client's own
namespace (a consumer route) takes the place of those from the service's namespace. `hostnames` mean nothing here: the
parent Service already says which requests are meant.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mesh.config.snapshot import Config
from mesh.config.types import HTTPRoute
from mesh.config.types import gateway_api as gateway
from mesh.model.context import Context
from mesh.model.matching import StringMatch
from mesh.model.routes import (
    DEFAULT_RETRY,
    NO_OPS,
    Answer,
    Backend,
    Forward,
    HeaderMatch,
    HeaderOps,
    Mirror,
    PathMatch,
    PathRewrite,
    QueryMatch,
    Redirect,
    Route,
    RouteMatch,
)
from mesh.model.shares import share_out
from mesh.registry.types import Port, Service

DEFAULT_PORTS = {"http": 80, "https": 443}

_PATH_RANK = {"Exact": 0, "PathPrefix": 1, "RegularExpression": 2}


def attached(context: Context, service: Service, port: Port) -> tuple[Config[HTTPRoute], ...]:
    """The HTTPRoutes that hold for this view's requests to one port of a Service, oldest first."""
    producers, consumers = [], []
    for item in context.config.http_routes:
        if any(_is_parent(parent, item.namespace, service, port) for parent in item.spec.parent_refs):
            if item.namespace == service.namespace:
                producers.append(item)
            elif item.namespace == context.view.namespace:
                consumers.append(item)
    return tuple(consumers or producers)


def _is_parent(parent: gateway.ParentReference, namespace: str, service: Service, port: Port) -> bool:
    return (
        parent.kind == "Service"
        and parent.group in ("", "core")
        and parent.name == service.name
        and (parent.namespace or namespace) == service.namespace
        and parent.port in (None, port.number)
        and parent.section_name in ("", port.name)
    )


def routes(context: Context, items: tuple[Config[HTTPRoute], ...], listener_port: int) -> tuple[Route, ...]:
    ranked: list[tuple[tuple[int | str, ...], list[Route]]] = []
    for age, item in enumerate(items):
        for number, rule in enumerate(item.spec.rules):
            for position, match in enumerate(rule.matches or (gateway.HTTPRouteMatch(),)):
                rank = (
                    _PATH_RANK[match.path.type],
                    -len(match.path.value),
                    0 if match.method else 1,
                    -len(match.headers),
                    -len(match.query_params),
                    age,
                    number,
                    position,
                )
                ranked.append((rank, list(_rule(context, item, rule, match, number, listener_port))))
    return tuple(route for _, group in sorted(ranked, key=lambda entry: entry[0]) for route in group)


def _path(path: gateway.HTTPPathMatch) -> PathMatch:
    if path.type == "Exact":
        return PathMatch(kind="exact", value=path.value)
    if path.type == "RegularExpression":
        return PathMatch(kind="regex", value=path.value)
    trimmed = path.value.rstrip("/")
    return PathMatch(kind="segments", value=trimmed) if trimmed else PathMatch()


def _string(kind: str, value: str) -> StringMatch:
    return StringMatch(kind="exact" if kind == "Exact" else "regex", value=value)


def _match(match: gateway.HTTPRouteMatch) -> RouteMatch:
    headers = []
    seen: set[str] = set()
    if match.method:
        headers.append(HeaderMatch(name=":method", match=StringMatch(kind="exact", value=match.method)))
    for header in match.headers:
        if header.name.lower() not in seen:  # of equal names the first holds (Gateway API)
            seen.add(header.name.lower())
            name = ":authority" if header.name.lower() == "host" else header.name
            headers.append(HeaderMatch(name=name, match=_string(header.type, header.value)))
    query = []
    names: set[str] = set()
    for parameter in match.query_params:
        if parameter.name not in names:
            names.add(parameter.name)
            query.append(QueryMatch(name=parameter.name, match=_string(parameter.type, parameter.value)))
    return RouteMatch(path=_path(match.path), headers=tuple(headers), query=tuple(query))


def _ops(modifier: gateway.HTTPHeaderFilter | None) -> HeaderOps:
    if modifier is None:
        return NO_OPS
    return HeaderOps(
        set=tuple((header.name, header.value) for header in modifier.set),
        add=tuple((header.name, header.value) for header in modifier.add),
        remove=modifier.remove,
    )


def _merged(first: HeaderOps, second: HeaderOps) -> HeaderOps:
    return HeaderOps(set=first.set + second.set, add=first.add + second.add, remove=first.remove + second.remove)


def _cluster(
    context: Context, item: Config[HTTPRoute], ref: gateway.BackendObjectReference | gateway.HTTPBackendRef
) -> str | None:
    """None when the backend is no Service, has no such port, or lies in another namespace (there is no ReferenceGrant
    that could permit it)."""
    if ref.kind != "Service" or ref.group not in ("", "core") or ref.namespace not in ("", item.namespace):
        return None
    host = f"{ref.name}.{item.namespace}.svc.{context.settings.cluster_domain}"
    return context.cluster(host, "", ref.port, ref.port) if ref.port is not None else None


def _modified(modifier: gateway.HTTPPathModifier | None) -> PathRewrite | None:
    if modifier is None:
        return None
    if modifier.type == "ReplaceFullPath":
        return PathRewrite(kind="full", value=modifier.replace_full_path or "/")
    return PathRewrite(kind="prefix", value=(modifier.replace_prefix_match or "").rstrip("/") or "/")


def _rule(
    context: Context,
    item: Config[HTTPRoute],
    rule: gateway.HTTPRouteRule,
    match: gateway.HTTPRouteMatch,
    number: int,
    listener_port: int,
) -> Iterator[Route]:
    request, response = NO_OPS, NO_OPS
    redirect: gateway.HTTPRequestRedirectFilter | None = None
    rewrite: gateway.HTTPURLRewriteFilter | None = None
    mirrors: list[Mirror] = []
    for filter_ in rule.filters:
        request = _merged(request, _ops(filter_.request_header_modifier))
        response = _merged(response, _ops(filter_.response_header_modifier))
        redirect = redirect or filter_.request_redirect
        rewrite = rewrite or filter_.url_rewrite
        if filter_.request_mirror is not None:
            mirror = _mirror(context, item, filter_.request_mirror)
            mirrors.extend([mirror] if mirror is not None else [])
    base = Route(
        name=f"{item.namespace}.{item.name}.{rule.name or number}",
        match=_match(match),
        action=Answer(status=500),
        request=request,
        response=response,
        origin=item.ref,
    )
    if redirect is not None:
        yield msgspec.structs.replace(base, action=_redirect(redirect, listener_port))
        return
    backends: list[tuple[Backend | None, int]] = []
    for ref in rule.backend_refs:
        cluster = _cluster(context, item, ref)
        backends.append((_backend(ref, cluster) if cluster else None, ref.weight))
    timeouts = rule.timeouts or gateway.HTTPRouteTimeouts()
    forward = Forward(
        backends=(),
        path=_modified(rewrite.path if rewrite else None),
        host_rewrite=rewrite.hostname if rewrite else "",
        mirrors=tuple(mirrors),
        timeout=timeouts.request,
        retry=msgspec.structs.replace(DEFAULT_RETRY, per_try_timeout=timeouts.backend_request or None),
    )
    yield from share_out(base, forward, backends, missing=500)


def _backend(ref: gateway.HTTPBackendRef, cluster: str) -> Backend:
    request, response = NO_OPS, NO_OPS
    for filter_ in ref.filters:
        request = _merged(request, _ops(filter_.request_header_modifier))
        response = _merged(response, _ops(filter_.response_header_modifier))
    return Backend(cluster=cluster, weight=ref.weight, request=request, response=response)


def _mirror(context: Context, item: Config[HTTPRoute], mirror: gateway.HTTPRequestMirrorFilter) -> Mirror | None:
    cluster = _cluster(context, item, mirror.backend_ref)
    percent = 100.0
    if mirror.percent is not None:
        percent = float(mirror.percent)
    elif mirror.fraction is not None:
        percent = 100.0 * mirror.fraction.numerator / mirror.fraction.denominator
    return Mirror(cluster=cluster, percent=percent) if cluster is not None and percent > 0 else None


def _redirect(redirect: gateway.HTTPRequestRedirectFilter, listener_port: int) -> Redirect:
    """The port: as given, else the scheme's own when a scheme is given, else the one the request came to; and one that
    the scheme implies is not written."""
    scheme = redirect.scheme or "http"
    port = redirect.port or (DEFAULT_PORTS[scheme] if redirect.scheme else listener_port)
    return Redirect(
        code=redirect.status_code,
        scheme=redirect.scheme or "",
        host=redirect.hostname,
        port=0 if DEFAULT_PORTS[scheme] == port else port,
        strip_port=True,
        path=_modified(redirect.path),
    )
