"""The HTTP connection manager and the TCP proxy, as each side of the mesh uses them.

Filters are few and constant. Faults and authorization live in the routes (per-route configuration), so that changing
them is a route update, which bites the next request of every live connection, and never rebuilds a listener.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as Mutation
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, HttpProtocolOptions
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.common.set_filter_state.v3.value_pb2 import FilterStateValue
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.header_to_metadata.v3.header_to_metadata_pb2 import Config as HeaderToMetadata
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.http.set_filter_state.v3.set_filter_state_pb2 import Config as SetFilterState
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
    RequestIDExtension,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher
from envoy.type.v3.hash_policy_pb2 import HashPolicy

from mesh.compile.clusters import http2_options
from mesh.compile.routes import FAULT
from mesh.compile.wire import FALSE, TRUE, ads, inline, packed, seconds
from mesh.settings import PEER_HEADER, PEER_METADATA

HTTP_RBAC_DENY = "envoy.filters.http.rbac.deny"
HTTP_RBAC_ALLOW = "envoy.filters.http.rbac.allow"
"""Two of them, because one has one action, and what is denied is denied whatever is allowed."""
TCP_PROXY = "envoy.filters.network.tcp_proxy"
APPLICATION_PROTOCOLS = "envoy.network.application_protocols"

PEER_FACTS = ("workload", "namespace", "app", "version")
"""In the order in which `PEER_HEADER` has them."""

MAX_STREAMS = 1024
"""Concurrent HTTP/2 streams a client may open on one connection; Envoy opens another connection for more."""

IDLE_SECONDS = 3600.0
"""How long a connection or a stream may be silent. Long, because a stream is the app's to keep open; not endless,
because a forgotten one holds memory."""

HEADERS_SECONDS = 60.0
"""How long a client may take over a request's headers (slowloris)."""

SPOOFABLE = (
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-dst-host",
    "x-envoy-original-path",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
)
"""Headers that steer an Envoy, or claim something about the peer: taken off whatever comes in from outside the pod."""


def _filter(name: str, message: Any) -> Any:
    return Filter(name=name, typed_config=packed(message))


def _http(name: str, message: Any) -> Any:
    return HttpFilter(name=name, typed_config=packed(message))


def _router() -> Any:
    """Without Envoy's own `x-envoy-*` headers: the app gets what the client sent, as the rules changed it."""
    return _http("envoy.filters.http.router", Router(suppress_envoy_headers=True))


def fault() -> Any:
    return _http(FAULT, HTTPFault(disable_downstream_cluster_stats=True))


def authorization(name: str) -> Any:
    """Allows everything; a route's own configuration takes its place."""
    return _http(name, HttpRbac())


def peer_facts() -> Any:
    """Reads what the client proxy said of its workload into metadata, and takes the header off. Whatever it holds, a
    fact is a short name or nothing: it becomes a label."""
    rules = [
        HeaderToMetadata.Rule(
            header=PEER_HEADER,
            on_header_present=HeaderToMetadata.KeyValuePair(
                metadata_namespace=PEER_METADATA,
                key=key,
                regex_value_rewrite=RegexMatchAndSubstitute(
                    pattern=RegexMatcher(regex=f"^(?:[^;]*;){{{place}}}([A-Za-z0-9._-]{{0,63}}).*$|^.*$"),
                    substitution="\\1",
                ),
            ),
            remove=key == PEER_FACTS[-1],
        )
        for place, key in enumerate(PEER_FACTS)
    ]
    return _http("envoy.filters.http.header_to_metadata", HeaderToMetadata(request_rules=rules))


def upstream_alpn(values: Sequence[str]) -> Any:
    """What upstream TLS offers, for clusters that do not know what will be spoken (ports of undeclared protocol)."""
    return _http(
        "envoy.filters.http.set_filter_state",
        SetFilterState(
            on_request_headers=[
                FilterStateValue(
                    object_key=APPLICATION_PROTOCOLS,
                    format_string=SubstitutionFormatString(text_format_source=inline(",".join(values))),
                )
            ]
        ),
    )


def http_manager(
    *,
    stat_prefix: str,
    route: str,
    filters: Sequence[Any],
    access_log: Sequence[Any],
    inbound: bool,
    strip: Sequence[str] = (),
) -> Any:
    """Routes come from the ADS stream under the name `route`; `strip` names more headers to take off at once."""
    manager = HttpConnectionManager
    message = manager(
        stat_prefix=stat_prefix,
        rds=Rds(config_source=ads(), route_config_name=route),
        http_filters=[*filters, _router()],
        access_log=access_log,
        use_remote_address=FALSE,
        skip_xff_append=True,
        generate_request_id=TRUE,
        request_id_extension=RequestIDExtension(
            typed_config=packed(UuidRequestIdConfig(pack_trace_reason=FALSE, use_request_id_for_trace_sampling=FALSE))
        ),
        server_header_transformation=manager.PASS_THROUGH,
        normalize_path=TRUE,
        path_with_escaped_slashes_action=manager.KEEP_UNCHANGED,
        stream_idle_timeout=seconds(IDLE_SECONDS),
        request_headers_timeout=seconds(HEADERS_SECONDS),
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=seconds(IDLE_SECONDS)),
        http_protocol_options=Http1ProtocolOptions(accept_http_10=True),
        http2_protocol_options=http2_options(MAX_STREAMS),
        upgrade_configs=[manager.UpgradeConfig(upgrade_type="websocket")],
        forward_client_cert_details=manager.SANITIZE_SET if inbound else manager.SANITIZE,
    )
    if inbound:
        message.set_current_client_cert_details.subject.value = True
        message.set_current_client_cert_details.dns = True
        message.set_current_client_cert_details.uri = True
        message.early_header_mutation_extensions.append(
            TypedExtensionConfig(
                name="envoy.http.early_header_mutation.header_mutation",
                typed_config=packed(HeaderMutation(mutations=[Mutation(remove=name) for name in (*SPOOFABLE, *strip)])),
            )
        )
    return _filter("envoy.filters.network.http_connection_manager", message)


def tcp_proxy(
    stat_prefix: str,
    shares: Sequence[tuple[str, int]],
    access_log: Sequence[Any],
    *,
    idle: float | None = None,
    max_duration: float | None = None,
    by_source: bool = False,
) -> Any:
    """`shares` are clusters and weights; times in seconds; `by_source` hashes the client's address."""
    message = TcpProxy(
        stat_prefix=stat_prefix,
        access_log=access_log,
        idle_timeout=seconds(idle or IDLE_SECONDS),
        max_downstream_connection_duration=seconds(max_duration) if max_duration else None,
    )
    if by_source:
        message.hash_policy.append(HashPolicy(source_ip=HashPolicy.SourceIp()))
    if len(shares) == 1:
        message.cluster = shares[0][0]
    else:
        weighted = TcpProxy.WeightedCluster
        message.weighted_clusters.CopyFrom(
            weighted(clusters=[weighted.ClusterWeight(name=name, weight=weight) for name, weight in shares])
        )
    return _filter(TCP_PROXY, message)


__all__ = ["authorization", "fault", "http_manager", "tcp_proxy", "upstream_alpn"]
