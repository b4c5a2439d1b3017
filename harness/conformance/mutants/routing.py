"""Meshes that route, rewrite, split, mirror, time out, retry or fail requests other than they were told."""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2

from harness.conformance.mutants.xds import changing, copied, dropping, keep, parts, routes, virtual_hosts

SERVICE = ".svc.cluster.local"

faults = parts(fault_pb2.HTTPFault)

# --- matching


@changing("exact-to-prefix", routes)
def _exact_to_prefix(route: Any) -> None:
    if route.match.WhichOneof("path_specifier") == "path":
        route.match.prefix = route.match.path


@changing("segments-to-plain-prefix", routes)
def _segments_to_plain_prefix(route: Any) -> None:
    if route.match.WhichOneof("path_specifier") == "path_separated_prefix":
        route.match.prefix = route.match.path_separated_prefix


@changing("regex-unanchored", routes)
def _regex_unanchored(route: Any) -> None:
    if route.match.WhichOneof("path_specifier") == "safe_regex":
        route.match.safe_regex.regex = f".*(?:{route.match.safe_regex.regex}).*"


@changing("ignore-headers", routes)
def _ignore_headers(route: Any) -> None:
    keep(route.match.headers, lambda header: header.name == ":method")


@changing("forget-one-header", routes)
def _forget_one_header(route: Any) -> None:
    if len(route.match.headers) > 1:
        del route.match.headers[-1]


@changing("ignore-query", routes)
def _ignore_query(route: Any) -> None:
    del route.match.query_parameters[:]


@changing("ignore-method", routes)
def _ignore_method(route: Any) -> None:
    keep(route.match.headers, lambda header: header.name != ":method")


@changing("reverse-precedence", virtual_hosts)
def _reverse_precedence(host: Any) -> None:
    reversed_ = [copied(route) for route in reversed(host.routes)]
    del host.routes[:]
    host.routes.extend(reversed_)


@changing("drop-service-routes", virtual_hosts)
def _drop_service_routes(host: Any) -> None:
    if any(SERVICE in domain for domain in host.domains):
        del host.routes[:]


@changing("fall-back-to-service", virtual_hosts)
def _fall_back_to_service(host: Any) -> None:
    """Append a catch-all to the parent service, as a mesh would that treats routes as hints."""
    clusters = (name for route in host.routes for name in _clusters_of(route))
    cluster = next((name for name in clusters if name.startswith("outbound|")), "")
    if cluster:
        direction, port, _, name = cluster.split("|", 3)
        parent = next((domain for domain in host.domains if domain.endswith(SERVICE)), name)
        route = host.routes.add()
        route.match.prefix = "/"
        route.route.cluster = f"{direction}|{port}||{parent}"


# --- where to


@changing("weights-off-by-seven", routes)
def _weights_off(route: Any) -> None:
    weighted = route.route.weighted_clusters.clusters
    if len(weighted) > 1:
        heaviest = max(weighted, key=lambda w: w.weight.value)
        lightest = min(weighted, key=lambda w: w.weight.value)
        shift = max(1, round(sum(w.weight.value for w in weighted) * 0.07))
        heaviest.weight.value -= shift
        lightest.weight.value += shift


@changing("leak-to-service", routes)
def _leak_to_service(route: Any) -> None:
    """One request in twenty that a subset should get goes to any endpoint of the service."""
    cluster = route.route.cluster
    service = _without_subset(cluster)
    if cluster != service:
        for name, weight in ((cluster, 95), (service, 5)):
            route.route.weighted_clusters.clusters.add(name=name).weight.value = weight


@changing("subset-to-service", routes)
def _subset_to_service(route: Any) -> None:
    if route.route.cluster:
        route.route.cluster = _without_subset(route.route.cluster)
    for weighted in route.route.weighted_clusters.clusters:
        weighted.name = _without_subset(weighted.name)


@changing("route-to-nowhere", routes)
def _route_to_nowhere(route: Any) -> None:
    """Routes name subset clusters that do not exist, as when clusters are removed before routes move."""
    if "|v3|" in route.route.cluster:
        route.route.cluster = route.route.cluster.replace("|v3|", "|gone|")


@changing("drop-mirrors", routes)
def _drop_mirrors(route: Any) -> None:
    del route.route.request_mirror_policies[:]


def _without_subset(cluster: str) -> str:
    pieces = cluster.split("|")
    if len(pieces) == 4 and pieces[0] == "outbound":
        pieces[2] = ""
    return "|".join(pieces)


def _clusters_of(route: Any) -> list[str]:
    return [route.route.cluster] if route.route.cluster else [w.name for w in route.route.weighted_clusters.clusters]


# --- what is changed on the way


def _drop_headers(name: str, field: str) -> None:
    """A mutant that forgets one of the four header operations wherever it can stand."""

    @changing(name, virtual_hosts)
    def _drop(host: Any) -> None:
        for route in host.routes:
            for holder in (host, route, *route.route.weighted_clusters.clusters):
                holder.ClearField(field)


_drop_headers("drop-request-headers-to-add", "request_headers_to_add")
_drop_headers("drop-request-headers-to-remove", "request_headers_to_remove")
_drop_headers("drop-response-headers-to-add", "response_headers_to_add")
_drop_headers("drop-response-headers-to-remove", "response_headers_to_remove")


@changing("drop-host-rewrite", routes)
def _drop_host_rewrite(route: Any) -> None:
    for holder in (route.route, *route.route.weighted_clusters.clusters):
        holder.ClearField("host_rewrite_literal")


@changing("drop-path-rewrite", routes)
def _drop_path_rewrite(route: Any) -> None:
    for field in ("prefix_rewrite", "regex_rewrite", "path_rewrite_policy"):
        route.route.ClearField(field)


@changing("redirect-always-301", routes)
def _redirect_always_301(route: Any) -> None:
    if route.HasField("redirect"):
        route.redirect.response_code = route_components_pb2.RedirectAction.MOVED_PERMANENTLY


@changing("drop-redirect-location", routes)
def _drop_redirect_location(route: Any) -> None:
    if route.HasField("redirect"):
        for field in ("path_redirect", "prefix_rewrite", "regex_rewrite", "port_redirect"):
            route.redirect.ClearField(field)


# --- how long, how often


@changing("drop-timeout", routes)
def _drop_timeout(route: Any) -> None:
    if route.HasField("route"):
        route.route.timeout.FromSeconds(0)
        route.route.ClearField("max_stream_duration")


@changing("drop-retries", routes)
def _drop_retries(route: Any) -> None:
    route.route.ClearField("retry_policy")


@changing("one-retry-more", routes)
def _one_retry_more(route: Any) -> None:
    if route.route.HasField("retry_policy"):
        route.route.retry_policy.num_retries.value += 1


# --- faults


dropping("drop-abort", faults, "abort")
dropping("drop-delay", faults, "delay")


@changing("abort-always-500", faults)
def _abort_always_500(fault: Any) -> None:
    if fault.HasField("abort"):
        fault.abort.http_status = 500


@changing("abort-twice-as-rarely", faults)
def _abort_rarely(fault: Any) -> None:
    if fault.HasField("abort"):
        fault.abort.percentage.numerator = fault.abort.percentage.numerator // 2


@changing("halve-delay", faults)
def _halve_delay(fault: Any) -> None:
    if fault.HasField("delay"):
        fixed = fault.delay.fixed_delay
        fixed.FromMicroseconds(fixed.ToMicroseconds() // 2)
