"""Clusters: one per service port and subset, the app's own ports, and the two ends of unknown traffic.

Mesh TLS is chosen per endpoint (`transport_socket_matches`), unless a DestinationRule says otherwise. The identities a
client accepts are the service accounts of everything the Service selects, ready or not, so an endpoint never appears
before its identity is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import BindConfig, SocketAddress, TcpKeepalive
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.percent_pb2 import Percent

from mesh.compile import tls
from mesh.compile.endpoints import PEER_KEY, TLS_MODE, load_assignment, of_subset, takes_mesh_tls
from mesh.compile.wire import ads, milliseconds, packed, seconds, u32
from mesh.config.types import istio_networking as istio
from mesh.model.context import NamespaceContext
from mesh.model.destination_rules import Policy
from mesh.model.hosts import cluster_name, sni, spiffe_id
from mesh.registry.types import Port, Service
from mesh.settings import INBOUND_BIND_ADDRESS

PASSTHROUGH = "PassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"
INBOUND_PASSTHROUGH = "InboundPassthroughCluster"

EDS = Cluster.EDS

UNLIMITED = 2**32 - 1
"""Istio's circuit breaker defaults: none."""

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

APP_IDLE_SECONDS = 3.0
"""How long a pooled connection to the app may idle. Below the keep-alive of the servers people run (5 s and more), or
the app closes one just as a request goes out on it."""

MESH_IDLE_SECONDS = 900.0
"""The same between proxies: below the server proxy's hour."""

INITIAL_STREAM_WINDOW = 256 * 1024
INITIAL_CONNECTION_WINDOW = 1024 * 1024
"""Half way between Envoy's edge advice (64 KiB, starves throughput) and its default (256 MiB, a memory bomb)."""

BUFFER_LIMIT = 1024 * 1024


def http2_options(max_streams: int | None = None) -> Any:
    return Http2ProtocolOptions(
        initial_stream_window_size=u32(INITIAL_STREAM_WINDOW),
        initial_connection_window_size=u32(INITIAL_CONNECTION_WINDOW),
        max_concurrent_streams=u32(max_streams) if max_streams else None,
    )


def _protocol_options(
    kind: str,
    idle: float,
    requests_per_connection: int | None = None,
    max_streams: int | None = None,
    max_duration: float | None = None,
) -> Any:
    """`kind`: `http` (HTTP/1.1), `http2`, or `auto`, which speaks what the caller spoke."""
    message = HttpProtocolOptions()
    message.common_http_protocol_options.idle_timeout.CopyFrom(seconds(idle))
    if max_duration:
        message.common_http_protocol_options.max_connection_duration.CopyFrom(seconds(max_duration))
    if requests_per_connection:
        message.common_http_protocol_options.max_requests_per_connection.CopyFrom(u32(requests_per_connection))
    if kind == "http":
        message.explicit_http_config.http_protocol_options.CopyFrom(Http1ProtocolOptions())
    elif kind == "http2":
        message.explicit_http_config.http2_protocol_options.CopyFrom(http2_options(max_streams))
    else:
        message.use_downstream_protocol_config.http_protocol_options.CopyFrom(Http1ProtocolOptions())
        message.use_downstream_protocol_config.http2_protocol_options.CopyFrom(http2_options(max_streams))
    return packed(message)


def identities(context: NamespaceContext, service: Service, port: int) -> tuple[str, ...]:
    """SPIFFE ids that may answer for the service."""
    domain = context.settings.trust_domain
    found = {
        spiffe_id(domain, endpoint.namespace, endpoint.service_account)
        for endpoint in context.registry.endpoints.get((service.hostname, port), ())
        if endpoint.service_account
    }
    found.update(
        spiffe_id(domain, workload.namespace, workload.service_account) for workload in context.behind(service)
    )
    found.update(service.subject_alt_names)
    return tuple(sorted(found))


def http_kind(port: Port, policy: Policy) -> str | None:
    """What the cluster speaks; None for no HTTP."""
    if port.protocol in ("http2", "grpc"):
        return "http2"
    if port.protocol == "http":
        http = policy.connection_pool.http if policy.connection_pool else None
        return "http2" if http is not None and http.h2_upgrade_policy == "UPGRADE" else "http"
    return "auto" if port.protocol == "auto" else None


def _told_plaintext(context: NamespaceContext, service: Service, port: Port) -> tuple[str, ...]:
    """The PeerAuthentications by which an endpoint with a proxy takes no TLS: the same whatever pods come and go."""
    found: set[str] = set()
    for endpoint in context.registry.endpoints.get((service.hostname, port.number), ()):
        if endpoint.meshed:
            modes = context.modes.of(endpoint.namespace, endpoint.labels)
            if modes.of(endpoint.port) == "DISABLE":
                found.update(modes.origins)
    return tuple(sorted(found))


def outbound_cluster(context: NamespaceContext, service: Service, port: Port, subset: str, policy: Policy) -> Any:
    name = cluster_name("outbound", port.number, subset, service.hostname)
    message = Cluster(
        name=name,
        connect_timeout=milliseconds(context.settings.connect_timeout_ms),
        per_connection_buffer_limit_bytes=u32(BUFFER_LIMIT),
    )
    kind = http_kind(port, policy)
    facts = message.metadata.filter_metadata[PEER_KEY].fields
    facts["service"].string_value = service.hostname
    facts["service_name"].string_value = service.name
    facts["service_namespace"].string_value = service.namespace
    facts["protocol"].string_value = "grpc" if port.protocol == "grpc" else "http"
    disabled = _told_plaintext(context, service, port)
    if disabled:
        # Nothing reads it. It makes a change of who takes TLS a change of the cluster, whose connections are then made
        # anew: Envoy would otherwise go on using those it made with the old transport.
        facts["plaintext_by"].string_value = ",".join(disabled)
    _discovery(context, message, service, port, subset)
    _pool(message, policy.connection_pool, kind)
    if message.type != Cluster.ORIGINAL_DST:
        _load_balancer(message, policy.load_balancer)
    _outliers(message, policy.outlier_detection)
    _transport(context, message, service, port, subset, policy.tls, kind)
    return message


def is_headless(service: Service) -> bool:
    return service.resolution == "endpoints" and not service.addresses


def _discovery(context: NamespaceContext, message: Any, service: Service, port: Port, subset: str) -> None:
    if service.resolution == "none" or is_headless(service):
        # A headless Service: the client chose the pod by resolving its name, and gets that pod.
        message.type = Cluster.ORIGINAL_DST
        message.lb_policy = Cluster.CLUSTER_PROVIDED
    elif service.resolution == "dns":
        labels = context.rules(service).subsets[subset].labels if subset else {}
        message.type = Cluster.STRICT_DNS
        message.dns_lookup_family = Cluster.V4_ONLY
        message.respect_dns_ttl = True
        message.load_assignment.CopyFrom(
            load_assignment(context, message.name, service, of_subset(context, service, port.number, labels))
        )
    else:
        message.type = Cluster.EDS
        message.eds_cluster_config.eds_config.CopyFrom(ads())
        message.eds_cluster_config.service_name = message.name


def _pool(message: Any, pool: istio.ConnectionPoolSettings | None, kind: str | None) -> None:
    tcp = (pool.tcp if pool else None) or istio.TCPSettings()
    http = (pool.http if pool else None) or istio.HTTPSettings()
    message.circuit_breakers.CopyFrom(
        CircuitBreakers(
            thresholds=[
                CircuitBreakers.Thresholds(
                    max_connections=u32(tcp.max_connections or UNLIMITED),
                    max_pending_requests=u32(http.http1_max_pending_requests or UNLIMITED),
                    max_requests=u32(http.http2_max_requests or UNLIMITED),
                    max_retries=u32(http.max_retries or UNLIMITED),
                    track_remaining=True,
                )
            ]
        )
    )
    if tcp.connect_timeout:
        message.connect_timeout.CopyFrom(seconds(tcp.connect_timeout))
    if tcp.tcp_keepalive is not None:
        keepalive = tcp.tcp_keepalive
        message.upstream_connection_options.CopyFrom(
            UpstreamConnectionOptions(
                tcp_keepalive=TcpKeepalive(
                    keepalive_probes=u32(keepalive.probes) if keepalive.probes else None,
                    keepalive_time=u32(max(1, int(keepalive.time))) if keepalive.time else None,
                    keepalive_interval=u32(max(1, int(keepalive.interval))) if keepalive.interval else None,
                )
            )
        )
    if kind is not None:
        idle = http.idle_timeout if http.idle_timeout else tcp.idle_timeout or MESH_IDLE_SECONDS
        message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(
            _protocol_options(
                kind,
                idle,
                http.max_requests_per_connection,
                http.max_concurrent_streams,
                tcp.max_connection_duration,
            )
        )


_SIMPLE = {
    None: Cluster.LEAST_REQUEST,
    "UNSPECIFIED": Cluster.LEAST_REQUEST,
    "LEAST_CONN": Cluster.LEAST_REQUEST,
    "LEAST_REQUEST": Cluster.LEAST_REQUEST,
    "ROUND_ROBIN": Cluster.ROUND_ROBIN,
    "RANDOM": Cluster.RANDOM,
}


def _load_balancer(message: Any, settings: istio.LoadBalancerSettings | None) -> None:
    hashing = settings.consistent_hash if settings else None
    if settings is not None and settings.simple == "PASSTHROUGH":
        message.type = Cluster.ORIGINAL_DST
        message.lb_policy = Cluster.CLUSTER_PROVIDED
        message.ClearField("eds_cluster_config")
        message.ClearField("load_assignment")
    elif hashing is None:
        message.lb_policy = _SIMPLE[settings.simple if settings else None]
    elif hashing.maglev is not None:
        message.lb_policy = Cluster.MAGLEV
        message.maglev_lb_config.table_size.value = hashing.maglev.table_size or 65537
    else:
        message.lb_policy = Cluster.RING_HASH
        size = hashing.ring_hash.minimum_ring_size if hashing.ring_hash else hashing.minimum_ring_size or 1024
        message.ring_hash_lb_config.minimum_ring_size.value = size


def _outliers(message: Any, settings: istio.OutlierDetection | None) -> None:
    """With ejection on there is no panic: an ejected host gets nothing even when most are ejected. Success rates are
    never looked at, as in Istio."""
    if settings is None:
        return
    detection = OutlierDetection(
        enforcing_success_rate=u32(0),
        consecutive_5xx=u32(5 if settings.consecutive_5xx_errors is None else settings.consecutive_5xx_errors),
        enforcing_consecutive_5xx=u32(0 if settings.consecutive_5xx_errors == 0 else 100),
    )
    if settings.consecutive_gateway_errors is not None:
        on = settings.consecutive_gateway_errors > 0
        detection.consecutive_gateway_failure.value = settings.consecutive_gateway_errors or 5
        detection.enforcing_consecutive_gateway_failure.value = 100 if on else 0
    if settings.consecutive_5xx_errors == 0:
        detection.consecutive_5xx.value = 5
    if settings.interval:
        detection.interval.CopyFrom(seconds(settings.interval))
    if settings.base_ejection_time:
        detection.base_ejection_time.CopyFrom(seconds(settings.base_ejection_time))
    if settings.max_ejection_percent is not None:
        detection.max_ejection_percent.value = settings.max_ejection_percent
    if settings.split_external_local_origin_errors:
        detection.split_external_local_origin_errors = True
        if settings.consecutive_local_origin_failures is not None:
            detection.consecutive_local_origin_failure.value = settings.consecutive_local_origin_failures or 5
            on = settings.consecutive_local_origin_failures > 0
            detection.enforcing_consecutive_local_origin_failure.value = 100 if on else 0
        detection.enforcing_local_origin_success_rate.value = 0
    message.outlier_detection.CopyFrom(detection)
    message.common_lb_config.healthy_panic_threshold.CopyFrom(Percent(value=float(settings.min_health_percent or 0)))


def _transport(
    context: NamespaceContext,
    message: Any,
    service: Service,
    port: Port,
    subset: str,
    settings: istio.ClientTLSSettings | None,
    kind: str | None,
) -> None:
    server_name = sni(port.number, subset, service.hostname)
    if settings is None:
        if not service.mesh_external:
            _auto_mtls(context, message, service, port, server_name, kind)
        return
    if settings.mode == "ISTIO_MUTUAL":
        names = settings.subject_alt_names or identities(context, service, port.number)
        message.transport_socket.CopyFrom(tls.mesh_client(settings.sni or server_name, names, _alpn(kind)))
    elif settings.mode == "SIMPLE":
        alpn: Sequence[str] = ("h2",) if kind == "http2" else ("http/1.1",) if kind == "http" else ()
        message.transport_socket.CopyFrom(
            tls.originated(
                sni=settings.sni or (service.hostname if not service.hostname.startswith("*") else ""),
                ca_file=settings.ca_certificates or context.settings.public_ca_file,
                identities=settings.subject_alt_names or service.subject_alt_names or (service.hostname,),
                alpn=alpn,
            )
        )


def _alpn(kind: str | None) -> str:
    """A port of undeclared protocol is TCP to the peer until its HTTP filter chain says otherwise."""
    return kind if kind in ("http", "http2") else "tcp"


def _auto_mtls(
    context: NamespaceContext, message: Any, service: Service, port: Port, server_name: str, kind: str | None
) -> None:
    secure = tls.mesh_client(server_name, identities(context, service, port.number), _alpn(kind))
    if message.type == Cluster.ORIGINAL_DST:
        # No endpoint carries metadata there, so it is all or nothing: TLS when every endpoint takes it.
        members = context.registry.endpoints.get((service.hostname, port.number), ())
        if members and all(takes_mesh_tls(context, endpoint) for endpoint in members):
            message.transport_socket.CopyFrom(secure)
        return
    match = message.transport_socket_matches.add(name="tlsMode-istio", transport_socket=secure)
    match.match.fields[TLS_MODE].string_value = "istio"
    match = message.transport_socket_matches.add(name="tlsMode-disabled", transport_socket=tls.raw_buffer())
    match.match.SetInParent()


# === the app's own ports, and everything nobody declared ===


def _bound_to_app() -> Any:
    return BindConfig(source_address=SocketAddress(address=INBOUND_BIND_ADDRESS, port_value=0))


def _original_destination(name: str, context: NamespaceContext, idle: float) -> Any:
    message = Cluster(
        name=name,
        type=Cluster.ORIGINAL_DST,
        lb_policy=Cluster.CLUSTER_PROVIDED,
        connect_timeout=milliseconds(context.settings.connect_timeout_ms),
        per_connection_buffer_limit_bytes=u32(BUFFER_LIMIT),
    )
    facts = message.metadata.filter_metadata[PEER_KEY].fields
    facts["service"].string_value = "unknown"
    facts["service_name"].string_value = name
    facts["service_namespace"].string_value = "unknown"
    facts["protocol"].string_value = "http"
    _pool(message, None, None)
    message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(_protocol_options("auto", idle))
    return message


def inbound_cluster(context: NamespaceContext, port: int) -> Any:
    message = _original_destination(cluster_name("inbound", port, "", ""), context, APP_IDLE_SECONDS)
    message.upstream_bind_config.CopyFrom(_bound_to_app())
    return message


def fixed_clusters(context: NamespaceContext) -> tuple[Any, ...]:
    inbound = _original_destination(INBOUND_PASSTHROUGH, context, APP_IDLE_SECONDS)
    inbound.upstream_bind_config.CopyFrom(_bound_to_app())
    black_hole = Cluster(
        name=BLACK_HOLE, type=Cluster.STATIC, connect_timeout=milliseconds(context.settings.connect_timeout_ms)
    )
    return (_original_destination(PASSTHROUGH, context, MESH_IDLE_SECONDS), black_hole, inbound)
