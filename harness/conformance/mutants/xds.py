"""Transformations of xDS resources in flight: what a careless mesh would have sent instead.

Each takes a type URL and a resource (a protobuf message, changed in place) and returns the resource, or None to drop
it. Names say what the broken mesh does. Resources are visited generically (`_each`), so a mutant does not depend on
where a mesh puts its routes or filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

PREFIX = "type.googleapis.com/"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

Mutant = Callable[[str, Message], Message | None]

MUTANTS: dict[str, Mutant] = {}
"""Name to transformation; the control plane loads it by this module's name."""


def _mutant(name: str) -> Callable[[Mutant], Mutant]:
    def register(function: Mutant) -> Mutant:
        MUTANTS[name] = function
        return function

    return register


# --- routes


def _routes(type_url: str, resource: Any) -> Iterator[Any]:
    """Every route of a RouteConfiguration, and of those inlined in listeners."""
    for configuration in _route_configurations(type_url, resource):
        for host in configuration.virtual_hosts:
            yield from host.routes


def _route_configurations(type_url: str, resource: Any) -> Iterator[Any]:
    if type_url == ROUTE:
        yield resource
    elif type_url == LISTENER:
        # Inbound routes are inlined and belong to the receiving side; only outbound routing is mutated here.
        return


def _route_mutant(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def register(change: Callable[[Any], None]) -> Callable[[Any], None]:
        def mutate(type_url: str, resource: Message) -> Message:
            for route in _routes(type_url, resource):
                change(route)
            return resource

        MUTANTS[name] = mutate
        return change

    return register


@_route_mutant("exact-to-prefix")
def _exact_to_prefix(route: Any) -> None:
    if route.match.WhichOneof("path_specifier") == "path":
        route.match.prefix = route.match.path


@_route_mutant("segments-to-plain-prefix")
def _segments_to_plain_prefix(route: Any) -> None:
    if route.match.WhichOneof("path_specifier") == "path_separated_prefix":
        route.match.prefix = route.match.path_separated_prefix


@_route_mutant("regex-unanchored")
def _regex_unanchored(route: Any) -> None:
    if route.match.WhichOneof("path_specifier") == "safe_regex":
        route.match.safe_regex.regex = f".*(?:{route.match.safe_regex.regex}).*"


@_route_mutant("ignore-headers")
def _ignore_headers(route: Any) -> None:
    kept = [h for h in route.match.headers if h.name == ":method"]
    del route.match.headers[:]
    route.match.headers.extend(kept)


@_route_mutant("forget-one-header")
def _forget_one_header(route: Any) -> None:
    if len(route.match.headers) > 1:
        del route.match.headers[-1]


@_route_mutant("ignore-query")
def _ignore_query(route: Any) -> None:
    del route.match.query_parameters[:]


@_route_mutant("ignore-method")
def _ignore_method(route: Any) -> None:
    kept = [h for h in route.match.headers if h.name != ":method"]
    del route.match.headers[:]
    route.match.headers.extend(kept)


@_mutant("reverse-precedence")
def _reverse_precedence(type_url: str, resource: Any) -> Message:
    for configuration in _route_configurations(type_url, resource):
        for host in configuration.virtual_hosts:
            routes = list(reversed([_copy(route) for route in host.routes]))
            del host.routes[:]
            host.routes.extend(routes)
    return resource  # type: ignore[no-any-return]


@_mutant("drop-service-routes")
def _drop_service_routes(type_url: str, resource: Any) -> Message:
    for configuration in _route_configurations(type_url, resource):
        for host in configuration.virtual_hosts:
            if any(".svc.cluster.local" in domain for domain in host.domains):
                del host.routes[:]
    return resource  # type: ignore[no-any-return]


@_mutant("fall-back-to-service")
def _fall_back_to_service(type_url: str, resource: Any) -> Message:
    """Append a catch-all to the parent service, as a mesh would that treats routes as hints."""
    for configuration in _route_configurations(type_url, resource):
        for host in configuration.virtual_hosts:
            cluster = next(
                (name for route in host.routes for name in _clusters_of(route) if name.startswith("outbound|")), ""
            )
            if cluster:
                direction, port, _, name = cluster.split("|", 3)
                route = host.routes.add()
                route.match.prefix = "/"
                parent = next((d for d in host.domains if d.endswith(".svc.cluster.local")), name)
                route.route.cluster = f"{direction}|{port}||{parent}"
    return resource  # type: ignore[no-any-return]


@_route_mutant("weights-off-by-seven")
def _weights_off(route: Any) -> None:
    weighted = route.route.weighted_clusters.clusters
    if len(weighted) > 1:
        heaviest = max(weighted, key=lambda w: w.weight.value)
        lightest = min(weighted, key=lambda w: w.weight.value)
        total = sum(w.weight.value for w in weighted)
        shift = max(1, round(total * 0.07))
        heaviest.weight.value -= shift
        lightest.weight.value += shift


@_mutant("leak-to-service")
def _leak_to_service(type_url: str, resource: Any) -> Message:
    """One request in twenty that a subset should get goes to any endpoint of the service."""
    for route in _routes(type_url, resource):
        cluster = route.route.cluster
        if cluster != _without_subset(cluster):
            weighted = route.route.weighted_clusters
            for name, weight in ((cluster, 95), (_without_subset(cluster), 5)):
                weighted.clusters.add(name=name).weight.value = weight
    return resource  # type: ignore[no-any-return]


@_mutant("subset-to-service")
def _subset_to_service(type_url: str, resource: Any) -> Message:
    for route in _routes(type_url, resource):
        if route.route.cluster:
            route.route.cluster = _without_subset(route.route.cluster)
        for weighted in route.route.weighted_clusters.clusters:
            weighted.name = _without_subset(weighted.name)
    return resource  # type: ignore[no-any-return]


def _without_subset(cluster: str) -> str:
    parts = cluster.split("|")
    if len(parts) == 4 and parts[0] == "outbound":
        parts[2] = ""
    return "|".join(parts)


def _clusters_of(route: Any) -> list[str]:
    return [route.route.cluster] if route.route.cluster else [w.name for w in route.route.weighted_clusters.clusters]


def _header_holders(route: Any) -> list[Any]:
    return [route, *route.route.weighted_clusters.clusters]


@_mutant("drop-request-headers-to-add")
def _drop_request_add(type_url: str, resource: Any) -> Message:
    for configuration in _route_configurations(type_url, resource):
        for host in configuration.virtual_hosts:
            del host.request_headers_to_add[:]
            for route in host.routes:
                for holder in _header_holders(route):
                    del holder.request_headers_to_add[:]
    return resource  # type: ignore[no-any-return]


@_route_mutant("drop-request-headers-to-remove")
def _drop_request_remove(route: Any) -> None:
    for holder in _header_holders(route):
        del holder.request_headers_to_remove[:]


@_route_mutant("drop-response-headers-to-add")
def _drop_response_add(route: Any) -> None:
    for holder in _header_holders(route):
        del holder.response_headers_to_add[:]


@_route_mutant("drop-response-headers-to-remove")
def _drop_response_remove(route: Any) -> None:
    for holder in _header_holders(route):
        del holder.response_headers_to_remove[:]


@_route_mutant("drop-host-rewrite")
def _drop_host_rewrite(route: Any) -> None:
    route.route.ClearField("host_rewrite_literal")
    for weighted in route.route.weighted_clusters.clusters:
        weighted.ClearField("host_rewrite_literal")


@_route_mutant("drop-path-rewrite")
def _drop_path_rewrite(route: Any) -> None:
    for field in ("prefix_rewrite", "regex_rewrite", "path_rewrite_policy"):
        route.route.ClearField(field)


@_route_mutant("redirect-always-301")
def _redirect_always_301(route: Any) -> None:
    if route.HasField("redirect"):
        route.redirect.response_code = route_components_pb2.RedirectAction.MOVED_PERMANENTLY


@_route_mutant("drop-redirect-location")
def _drop_redirect_location(route: Any) -> None:
    if route.HasField("redirect"):
        for field in ("path_redirect", "prefix_rewrite", "regex_rewrite", "port_redirect"):
            route.redirect.ClearField(field)


@_route_mutant("drop-mirrors")
def _drop_mirrors(route: Any) -> None:
    del route.route.request_mirror_policies[:]


@_route_mutant("drop-timeout")
def _drop_timeout(route: Any) -> None:
    if route.HasField("route"):
        route.route.timeout.FromSeconds(0)
        route.route.ClearField("max_stream_duration")


@_route_mutant("drop-retries")
def _drop_retries(route: Any) -> None:
    route.route.ClearField("retry_policy")


@_route_mutant("one-retry-more")
def _one_retry_more(route: Any) -> None:
    if route.route.HasField("retry_policy"):
        route.route.retry_policy.num_retries.value += 1


@_mutant("route-to-nowhere")
def _route_to_nowhere(type_url: str, resource: Any) -> Message:
    """Routes name subset clusters that do not exist, as when clusters are removed before routes move."""
    for route in _routes(type_url, resource):
        if "|v3|" in route.route.cluster:
            route.route.cluster = route.route.cluster.replace("|v3|", "|gone|")
    return resource  # type: ignore[no-any-return]


# --- faults: a filter's own configuration, or a route's


def _each(message: Message, wanted: type[Message]) -> Iterator[tuple[Message, Callable[[], None]]]:
    """Every `wanted` within `message`, also inside `Any`s; call the second item to write a change back."""

    def nothing() -> None:
        return

    yield from _walk(message, wanted, nothing)


def _each_known(any_: AnyMessage) -> Iterator[tuple[Message, Callable[[], None]]]:
    """Every filter configuration within `any_`, per-route forms included."""
    for kind in (http_rbac_pb2.RBAC, jwt_pb2.JwtAuthentication):
        yield from _each(any_, kind)


def _walk(message: Any, wanted: type[Message], save: Callable[[], None]) -> Iterator[tuple[Any, Callable[[], None]]]:
    if isinstance(message, wanted):
        yield message, save
    if isinstance(message, AnyMessage):
        inner = _unpack(message)
        if inner is not None:

            def write_back(any_: AnyMessage = message, inner: Message = inner) -> None:
                any_.value = inner.SerializeToString(deterministic=True)
                save()

            yield from _walk(inner, wanted, write_back)
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.GetOptions().map_entry:
            if descriptor.message_type.fields_by_name["value"].message_type is not None:
                for key in list(value):
                    yield from _walk(value[key], wanted, save)
        elif descriptor.is_repeated:
            for item in value:
                yield from _walk(item, wanted, save)
        else:
            yield from _walk(value, wanted, save)


_KNOWN: dict[str, type[Message]] = {
    PREFIX + message.DESCRIPTOR.full_name: message
    for message in (
        matcher_pb2.ExtensionWithMatcher,
        matcher_pb2.ExtensionWithMatcherPerRoute,
        composite_pb2.ExecuteFilterAction,
        hcm_pb2.HttpConnectionManager,
        fault_pb2.HTTPFault,
        http_rbac_pb2.RBAC,
        http_rbac_pb2.RBACPerRoute,
        jwt_pb2.JwtAuthentication,
        tls_pb2.DownstreamTlsContext,
        tls_pb2.UpstreamTlsContext,
    )
}


def _unpack(any_: AnyMessage) -> Message | None:
    kind = _KNOWN.get(any_.type_url)
    if kind is None:
        return None
    message = kind()
    message.ParseFromString(any_.value)
    return message


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _fault_mutant(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def register(change: Callable[[Any], None]) -> Callable[[Any], None]:
        def mutate(type_url: str, resource: Message) -> Message:
            for fault, save in _each(resource, fault_pb2.HTTPFault):
                change(fault)
                save()
            return resource

        MUTANTS[name] = mutate
        return change

    return register


@_fault_mutant("drop-abort")
def _drop_abort(fault: Any) -> None:
    fault.ClearField("abort")


@_fault_mutant("abort-always-500")
def _abort_always_500(fault: Any) -> None:
    if fault.HasField("abort"):
        fault.abort.http_status = 500


@_fault_mutant("abort-twice-as-rarely")
def _abort_rarely(fault: Any) -> None:
    if fault.HasField("abort"):
        fault.abort.percentage.numerator = fault.abort.percentage.numerator // 2


@_fault_mutant("drop-delay")
def _drop_delay(fault: Any) -> None:
    fault.ClearField("delay")


@_fault_mutant("halve-delay")
def _halve_delay(fault: Any) -> None:
    if fault.HasField("delay"):
        fixed = fault.delay.fixed_delay
        fixed.FromMicroseconds(fixed.ToMicroseconds() // 2)


# --- clusters


def _cluster_mutant(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def register(change: Callable[[Any], None]) -> Callable[[Any], None]:
        def mutate(type_url: str, resource: Message) -> Message:
            if type_url == CLUSTER:
                change(resource)
            return resource

        MUTANTS[name] = mutate
        return change

    return register


@_cluster_mutant("drop-outlier-detection")
def _drop_outlier_detection(cluster: Any) -> None:
    cluster.ClearField("outlier_detection")


@_cluster_mutant("eject-forever")
def _eject_forever(cluster: Any) -> None:
    if cluster.HasField("outlier_detection"):
        cluster.outlier_detection.base_ejection_time.FromSeconds(3600)
        cluster.outlier_detection.max_ejection_time.FromSeconds(3600)


@_cluster_mutant("drop-circuit-breakers")
def _drop_circuit_breakers(cluster: Any) -> None:
    cluster.ClearField("circuit_breakers")


@_cluster_mutant("random-balancing")
def _random_balancing(cluster: Any) -> None:
    if cluster.type != cluster_pb2.Cluster.ORIGINAL_DST and cluster.lb_policy != cluster_pb2.Cluster.CLUSTER_PROVIDED:
        cluster.lb_policy = cluster_pb2.Cluster.RANDOM
        cluster.ClearField("load_balancing_policy")


@_cluster_mutant("plaintext-outbound")
def _plaintext_outbound(cluster: Any) -> None:
    if cluster.name.startswith("outbound|"):
        cluster.ClearField("transport_socket")
        del cluster.transport_socket_matches[:]


@_mutant("accept-any-san")
def _accept_any_san(type_url: str, resource: Any) -> Message:
    if type_url == CLUSTER:
        for context, save in _each(resource, common_pb2.CertificateValidationContext):
            _forget_names(context)
            save()
    return resource  # type: ignore[no-any-return]


def _forget_names(context: Any) -> None:
    del context.match_typed_subject_alt_names[:]
    del context.match_subject_alt_names[:]


# --- inbound listeners


@_mutant("accept-any-certificate")
def _accept_any_certificate(type_url: str, resource: Any) -> Message:
    """Inbound TLS takes any client certificate, or none: encrypted, but not authenticated."""
    if type_url == LISTENER:
        for context, save in _each(resource, tls_pb2.DownstreamTlsContext):
            found: Any = context
            found.require_client_certificate.value = False
            common = found.common_tls_context
            for kind in ("validation_context", "validation_context_sds_secret_config", "combined_validation_context"):
                common.ClearField(kind)
            save()
    return resource  # type: ignore[no-any-return]


@_mutant("inbound-takes-plaintext")
def _inbound_takes_plaintext(type_url: str, resource: Any) -> Message:
    """For every inbound TLS filter chain, one that does the same without TLS: STRICT in name only."""
    if type_url == LISTENER and _is_inbound(resource):
        plain = []
        existing = {
            (chain.filter_chain_match.destination_port.value)
            for chain in resource.filter_chains
            if not chain.HasField("transport_socket")
        }
        for chain in resource.filter_chains:
            if chain.HasField("transport_socket") and chain.filter_chain_match.destination_port.value not in existing:
                copy = _copy(chain)
                copy.name = f"{chain.name}-plain"
                copy.ClearField("transport_socket")
                del copy.filter_chain_match.application_protocols[:]
                copy.filter_chain_match.transport_protocol = "raw_buffer"
                existing.add(chain.filter_chain_match.destination_port.value)
                plain.append(copy)
        resource.filter_chains.extend(plain)
    return resource  # type: ignore[no-any-return]


@_mutant("inbound-refuses-plaintext")
def _inbound_refuses_plaintext(type_url: str, resource: Any) -> Message:
    if type_url == LISTENER and _is_inbound(resource):
        kept = [_copy(chain) for chain in resource.filter_chains if chain.HasField("transport_socket")]
        del resource.filter_chains[:]
        resource.filter_chains.extend(kept)
    return resource  # type: ignore[no-any-return]


@_mutant("inbound-refuses-mesh")
def _inbound_refuses_mesh(type_url: str, resource: Any) -> Message:
    if type_url == LISTENER and _is_inbound(resource):
        kept = [_copy(chain) for chain in resource.filter_chains if not chain.HasField("transport_socket")]
        del resource.filter_chains[:]
        resource.filter_chains.extend(kept)
        if not kept:
            return None  # type: ignore[return-value]
    return resource  # type: ignore[no-any-return]


def _is_inbound(listener: listener_pb2.Listener) -> bool:
    return bool(listener.address.socket_address.port_value == 15006)


@_mutant("hide-peer-identity")
def _hide_peer_identity(type_url: str, resource: Message) -> Message:
    for manager, save in _each(resource, hcm_pb2.HttpConnectionManager):
        found: Any = manager
        found.forward_client_cert_details = hcm_pb2.HttpConnectionManager.SANITIZE
        found.ClearField("set_current_client_cert_details")
        save()
    return resource


# --- policy


def _http_filter_mutant(name: str, drop: Callable[[str, Any], bool]) -> None:
    """A mutant that removes HTTP filters, and what routes tell them, where `drop(type URL, unpacked config)` holds."""

    def mutate(type_url: str, resource: Message) -> Message:
        for configuration in _route_configurations(type_url, resource):
            for host in configuration.virtual_hosts:
                for holder in (host, *host.routes):
                    for key, config in list(holder.typed_per_filter_config.items()):
                        if any(drop(config.type_url, inner) for inner, _ in _each_known(config)):
                            del holder.typed_per_filter_config[key]
        for manager, save in _each(resource, hcm_pb2.HttpConnectionManager):
            found: Any = manager
            kept = [_copy(f) for f in found.http_filters if not drop(f.typed_config.type_url, _unpack(f.typed_config))]
            if len(kept) != len(found.http_filters):
                del found.http_filters[:]
                found.http_filters.extend(kept)
                save()
        return resource

    MUTANTS[name] = mutate


_http_filter_mutant("drop-authorization", lambda _, config: isinstance(config, http_rbac_pb2.RBAC))
_http_filter_mutant(
    "drop-deny",
    lambda _, config: isinstance(config, http_rbac_pb2.RBAC) and config.rules.action == rbac_pb2.RBAC.DENY,
)
_http_filter_mutant("drop-jwt", lambda _, config: isinstance(config, jwt_pb2.JwtAuthentication))


@_mutant("any-principal")
def _any_principal(type_url: str, resource: Message) -> Message:
    for policy, save in _each(resource, rbac_pb2.Policy):
        found: Any = policy
        del found.principals[:]
        found.principals.add().any = True
        save()
    return resource


@_mutant("any-permission")
def _any_permission(type_url: str, resource: Message) -> Message:
    for policy, save in _each(resource, rbac_pb2.Policy):
        found: Any = policy
        del found.permissions[:]
        found.permissions.add().any = True
        save()
    return resource


@_mutant("jwt-failures-allowed")
def _jwt_failures_allowed(type_url: str, resource: Message) -> Message:
    for requirement, save in _each(resource, jwt_pb2.JwtAuthentication):
        found: Any = requirement
        for rule in found.rules:
            rule.requires.allow_missing_or_failed.SetInParent()
        save()
    return resource


@_mutant("jwt-missing-refused")
def _jwt_missing_refused(type_url: str, resource: Message) -> Message:
    for requirement, save in _each(resource, jwt_pb2.JwtAuthentication):
        found: Any = requirement
        for rule in found.rules:
            provider = next(iter(sorted(found.providers)))
            rule.requires.provider_name = provider
        save()
    return resource


@_mutant("jwt-wrong-keys")
def _jwt_wrong_keys(type_url: str, resource: Message) -> Message:
    for requirement, save in _each(resource, jwt_pb2.JwtAuthentication):
        found: Any = requirement
        for provider in found.providers.values():
            provider.local_jwks.inline_string = '{"keys":[]}'
        save()
    return resource


# --- telemetry


@_mutant("drop-metrics")
def _drop_metrics(type_url: str, resource: Message) -> Message:
    return _without_access_logs(resource, lambda url: url.endswith("access_loggers.stats.v3.Config"))


@_mutant("drop-access-log")
def _drop_access_log(type_url: str, resource: Message) -> Message:
    return _without_access_logs(resource, lambda url: not url.endswith("access_loggers.stats.v3.Config"))


@_mutant("log-twice")
def _log_twice(type_url: str, resource: Message) -> Message:
    for manager, save in _each(resource, hcm_pb2.HttpConnectionManager):
        found: Any = manager
        found.access_log.extend([_copy(log) for log in found.access_log])
        save()
    return resource


def _without_access_logs(resource: Message, drop: Callable[[str], bool]) -> Message:
    for manager, save in _each(resource, hcm_pb2.HttpConnectionManager):
        found: Any = manager
        kept = [_copy(log) for log in found.access_log if not drop(log.typed_config.type_url)]
        del found.access_log[:]
        found.access_log.extend(kept)
        save()
    return resource


# --- identity


@_mutant("broken-leaf")
def _broken_leaf(type_url: str, resource: Message) -> Message:
    """After a rotation workloads get no usable certificate: the chain is cut short."""
    if type_url == SECRET and isinstance(resource, secret_pb2.Secret) and resource.HasField("tls_certificate"):
        chain = resource.tls_certificate.certificate_chain
        chain.inline_bytes = chain.inline_bytes[: len(chain.inline_bytes) // 2]
    return resource


def lookup(name: str) -> Mutant:
    """The mutant `name`. Raises `KeyError` that lists what there is."""
    try:
        return MUTANTS[name]
    except KeyError:
        raise KeyError(f"no mutant {name!r}; there are: {', '.join(sorted(MUTANTS))}") from None


__all__ = ["MUTANTS", "Mutant", "lookup", "route_pb2"]
