"""Routes to Envoy's RouteConfiguration.

Timeouts are explicit (Envoy's own default of 15 s is not Istio's). Host ports are ignored when a virtual host is
chosen. What the backend sees of a path is exact: stripping a prefix down to `/` never leaves two slashes or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    QueryParameterMatcher,
    RedirectAction,
    RetryPolicy,
    RouteAction,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from envoy.config.route.v3.route_components_pb2 import Route as EnvoyRoute
from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher
from msgspec.structs import replace

from mesh.compile.wire import (
    FALSE,
    header_add,
    header_set,
    inline,
    packed,
    percent,
    runtime_percent,
    seconds,
    string_matcher,
    u32,
)
from mesh.model import routes as ir
from mesh.model.matching import StringMatch

FAULT = "envoy.filters.http.fault"

_REDIRECT_CODES = {
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}

_PREVIOUS_HOSTS = packed(PreviousHostsPredicate())

HOST_SELECTION_ATTEMPTS = 5
"""Istio's: how often to draw again for a host that was not tried yet."""


def virtual_host(host: ir.VirtualHost, listener_port: int) -> Any:
    names = [domain for domain in host.domains if "*" not in domain]
    return VirtualHost(
        name=host.name,
        domains=host.domains,
        request_headers_to_add=[header_set(name, value) for name, value in host.says],
        routes=[
            message
            for route in host.routes
            for variant in _without_host_port(route, names, listener_port)
            for message in (envoy_route(variant),)
        ],
    )


def _without_host_port(route: ir.Route, names: list[str], listener_port: int) -> Iterable[ir.Route]:
    """Envoy keeps the Host header's port in a redirect that names neither host nor port. Where it must go, each of the
    virtual host's names, written with the port, gets a redirect of its own."""
    action = route.action
    if isinstance(action, ir.Redirect) and action.strip_port and not action.host and not action.port:
        for name in names:
            authority = ir.HeaderMatch(
                name=":authority", match=StringMatch(kind="exact", value=f"{name}:{listener_port}", ignore_case=True)
            )
            yield replace(
                route,
                match=replace(route.match, headers=(*route.match.headers, authority)),
                action=replace(action, host=name),
            )
    yield route


def envoy_route(route: ir.Route) -> Any:
    message = EnvoyRoute(name=route.name, match=_match(route.match))
    _headers(message, route.request, route.response)
    action = route.action
    if isinstance(action, ir.Forward):
        message.route.CopyFrom(_forward(action, route.match.path))
    elif isinstance(action, ir.Redirect):
        message.redirect.CopyFrom(_redirect(action, route.match.path))
    else:
        message.direct_response.CopyFrom(
            DirectResponseAction(status=action.status, body=inline(action.body) if action.body else None)
        )
    if route.fault is not None:
        message.typed_per_filter_config[FAULT].CopyFrom(packed(_fault(route.fault)))
    return message


def _literal(value: str) -> str:
    """Envoy expands `%COMMAND%` in header values; ours are literal."""
    return value.replace("%", "%%")


def _headers(message: Any, request: ir.HeaderOps, response: ir.HeaderOps) -> None:
    for ops, to_add, to_remove in (
        (request, message.request_headers_to_add, message.request_headers_to_remove),
        (response, message.response_headers_to_add, message.response_headers_to_remove),
    ):
        to_add.extend(header_set(name, _literal(value)) for name, value in ops.set)
        to_add.extend(header_add(name, _literal(value)) for name, value in ops.add)
        to_remove.extend(ops.remove)


# === match ===


def _match(match: ir.RouteMatch) -> Any:
    message = RouteMatch(
        headers=[header_matcher(header) for header in match.headers],
        query_parameters=[_query(query) for query in match.query],
        case_sensitive=FALSE if match.path.ignore_case else None,
        runtime_fraction=None if match.percent is None else runtime_percent(match.percent),
    )
    path = match.path
    if path.kind == "exact":
        message.path = path.value
    elif path.kind == "segments":
        message.path_separated_prefix = path.value
    elif path.kind == "regex":
        message.safe_regex.CopyFrom(RegexMatcher(regex=path.value))
    else:
        message.prefix = path.value
    return message


def header_matcher(header: ir.HeaderMatch) -> Any:
    """A header sent in several lines matches joined by commas, as Envoy does. `invert` is true of a missing header."""
    if header.match.kind == "present":
        return HeaderMatcher(name=header.name, present_match=True, invert_match=header.invert)
    return HeaderMatcher(
        name=header.name,
        string_match=string_matcher(header.match),
        invert_match=header.invert,
        treat_missing_header_as_empty=header.invert,
    )


def _query(query: ir.QueryMatch) -> Any:
    if query.match.kind == "present":
        return QueryParameterMatcher(name=query.name, present_match=True)
    return QueryParameterMatcher(name=query.name, string_match=string_matcher(query.match))


# === forward ===


def _forward(action: ir.Forward, path: ir.PathMatch) -> Any:
    message = RouteAction(timeout=seconds(action.timeout or 0.0))
    if len(action.backends) == 1 and not (action.backends[0].request or action.backends[0].response):
        backend = action.backends[0]
        message.cluster = backend.cluster
        host = backend.host_rewrite or action.host_rewrite
    else:
        host = action.host_rewrite
        message.weighted_clusters.CopyFrom(WeightedCluster(clusters=[_weighted(item) for item in action.backends]))
    if host:
        message.host_rewrite_literal = host
    if action.path is not None:
        _rewrite(message, action.path, path)
    message.request_mirror_policies.extend(
        RouteAction.RequestMirrorPolicy(
            cluster=mirror.cluster, runtime_fraction=runtime_percent(mirror.percent), trace_sampled=FALSE
        )
        for mirror in action.mirrors
    )
    if action.retry is not None:
        message.retry_policy.CopyFrom(_retry(action.retry, hashed=bool(action.hashes)))
    message.hash_policy.extend(_hash(item) for item in action.hashes)
    return message


def _weighted(backend: ir.Backend) -> Any:
    message = WeightedCluster.ClusterWeight(name=backend.cluster, weight=u32(backend.weight))
    _headers(message, backend.request, backend.response)
    if backend.host_rewrite:
        message.host_rewrite_literal = backend.host_rewrite
    return message


def _regex(pattern: str, substitution: str) -> Any:
    return RegexMatchAndSubstitute(pattern=RegexMatcher(regex=pattern), substitution=substitution)


def _substitution(text: str) -> str:
    return text.replace("\\", "\\\\")


def _rewrite(message: Any, rewrite: ir.PathRewrite, match: ir.PathMatch) -> None:
    """On a RouteAction, or on a RedirectAction. `full` replaces all of the path and keeps the query; `prefix` what the
    match matched, which for an exact or a regex match is everything."""
    if rewrite.kind == "full" or match.kind in ("exact", "regex"):
        message.regex_rewrite.CopyFrom(_regex("^.*$", _substitution(rewrite.value)))
    elif match.value == "/":
        message.prefix_rewrite = rewrite.value if rewrite.value.endswith("/") else rewrite.value + "/"
    elif rewrite.value == "/" and not match.value.endswith("/"):
        flags = "(?i)" if match.ignore_case else ""
        message.regex_rewrite.CopyFrom(_regex(f"{flags}^{re.escape(match.value)}(/?)(.*)$", "/\\2"))
    else:
        message.prefix_rewrite = rewrite.value


def _retry(retry: ir.Retry, hashed: bool) -> Any:
    """With consistent hashing another host would break the hash, so the same one is tried again."""
    message = RetryPolicy(
        retry_on=retry.on,
        num_retries=u32(retry.attempts),
        retriable_status_codes=retry.codes,
        per_try_timeout=seconds(retry.per_try_timeout) if retry.per_try_timeout else None,
    )
    if retry.other_host and not hashed:
        message.retry_host_predicate.append(
            RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=_PREVIOUS_HOSTS
            )
        )
        message.host_selection_retry_max_attempts = HOST_SELECTION_ATTEMPTS
    return message


def _hash(item: ir.Hash) -> Any:
    policy = RouteAction.HashPolicy
    if item.kind == "header":
        return policy(header=policy.Header(header_name=item.name))
    if item.kind == "query":
        return policy(query_parameter=policy.QueryParameter(name=item.name))
    if item.kind == "source_ip":
        return policy(connection_properties=policy.ConnectionProperties(source_ip=True))
    ttl = seconds(item.ttl) if item.ttl is not None else None
    return policy(cookie=policy.Cookie(name=item.name, path=item.path, ttl=ttl))


# === redirect and fault ===


def _redirect(action: ir.Redirect, path: ir.PathMatch) -> Any:
    message = RedirectAction(
        response_code=_REDIRECT_CODES[action.code],
        scheme_redirect=action.scheme,
        host_redirect=action.host,
        port_redirect=action.port,
    )
    if action.path is not None:
        if action.path.kind == "full":
            message.path_redirect = action.path.value
        else:
            _rewrite(message, action.path, path)
    return message


def _fault(fault: ir.Fault) -> Any:
    message = HTTPFault(disable_downstream_cluster_stats=True)
    if fault.delay is not None:
        message.delay.CopyFrom(FaultDelay(fixed_delay=seconds(fault.delay), percentage=percent(fault.delay_percent)))
    if fault.abort_http is not None or fault.abort_grpc is not None:
        abort = FaultAbort(percentage=percent(fault.abort_percent))
        if fault.abort_grpc is not None:
            abort.grpc_status = fault.abort_grpc
        else:
            abort.http_status = fault.abort_http
        message.abort.CopyFrom(abort)
    return message


__all__ = ["FAULT", "envoy_route", "header_matcher", "virtual_host"]
