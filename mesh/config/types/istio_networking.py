"""Istio `networking.istio.io` (v1, v1beta1, v1alpha3): VirtualService, DestinationRule, ServiceEntry, Gateway, Sidecar.

Names and meanings are Istio's. A `None` is a field that was not written, which Istio's defaults (protobuf wrappers)
tell apart from zero. What Istio has and is not here is listed in `mesh.config.support`, so it is refused by name.
"""

# ruff: noqa: RUF012 - msgspec copies a Struct's mutable defaults; ruff does not see that Kube, imported, is one.

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from manifests.kube import Kube, Port
from manifests.scalars import Duration

Percent = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Protocol = Literal["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS", "TCP", "MONGO"]


class StringMatch(Kube, frozen=True, kw_only=True):
    """Exactly one is set; none of them means "present" where Istio says so (headers)."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None
    """RE2, full match."""

    @property
    def presence(self) -> bool:
        return self.exact is None and self.prefix is None and self.regex is None


class PortSelector(Kube, frozen=True, kw_only=True):
    number: Port


class Percentage(Kube, frozen=True, kw_only=True):
    """0 to 100, fractions allowed."""

    value: Percent = 0.0


# === VirtualService ===


class Destination(Kube, frozen=True, kw_only=True):
    host: str
    subset: str = ""
    port: PortSelector | None = None


class HeaderOperations(Kube, frozen=True, kw_only=True):
    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class Headers(Kube, frozen=True, kw_only=True):
    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatchRequest(Kube, frozen=True, kw_only=True):
    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = {}
    without_headers: dict[str, StringMatch] = {}
    query_params: dict[str, StringMatch] = {}
    ignore_uri_case: bool = False
    port: Port | None = None
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    stat_prefix: str = ""


class HTTPRouteDestination(Kube, frozen=True, kw_only=True):
    destination: Destination
    weight: Count | None = None
    """Unset counts as 0, except for the only destination of a route, which then gets everything."""
    headers: Headers | None = None


class RegexRewrite(Kube, frozen=True, kw_only=True):
    match: str
    rewrite: str


class HTTPRewrite(Kube, frozen=True, kw_only=True):
    uri: str = ""
    """Replaces the matched prefix, or the whole path of an exact match."""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRedirect(Kube, frozen=True, kw_only=True):
    uri: str = ""
    authority: str = ""
    port: Port | None = None
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None
    scheme: str = ""
    redirect_code: Literal[0, 301, 302, 303, 307, 308] = 0
    """0 is unset: 301."""


class HTTPBody(Kube, frozen=True, kw_only=True):
    string: str | None = None
    bytes: str | None = None
    """Base64."""


class HTTPDirectResponse(Kube, frozen=True, kw_only=True):
    status: Annotated[int, Meta(ge=200, le=599)]
    body: HTTPBody | None = None


class HTTPMirrorPolicy(Kube, frozen=True, kw_only=True):
    destination: Destination
    percentage: Percentage | None = None
    """Unset: everything."""


class Delay(Kube, frozen=True, kw_only=True):
    fixed_delay: Duration
    percentage: Percentage | None = None
    """Unset: everything."""


class Abort(Kube, frozen=True, kw_only=True):
    """Exactly one of the statuses."""

    http_status: Annotated[int, Meta(ge=200, le=599)] | None = None
    grpc_status: str | None = None
    percentage: Percentage | None = None
    """Unset: everything."""


class HTTPFaultInjection(Kube, frozen=True, kw_only=True):
    delay: Delay | None = None
    abort: Abort | None = None


class HTTPRetry(Kube, frozen=True, kw_only=True):
    attempts: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    """Retries beyond the first try; 0 switches them off."""
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    backoff: Duration | None = None
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None


class Delegate(Kube, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""


class CorsPolicy(Kube, frozen=True, kw_only=True):
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: Literal["UNSPECIFIED", "FORWARD", "IGNORE"] = "UNSPECIFIED"


class HTTPRoute(Kube, frozen=True, kw_only=True):
    """One of `spec.http`. It routes, redirects, answers directly, or delegates."""

    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirror_percentage: Percentage | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class L4MatchAttributes(Kube, frozen=True, kw_only=True):
    destination_subnets: tuple[str, ...] = ()
    port: Port | None = None
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class TLSMatchAttributes(Kube, frozen=True, kw_only=True):
    sni_hosts: tuple[str, ...]
    destination_subnets: tuple[str, ...] = ()
    port: Port | None = None
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class RouteDestination(Kube, frozen=True, kw_only=True):
    destination: Destination
    weight: Count | None = None


class TCPRoute(Kube, frozen=True, kw_only=True):
    route: tuple[RouteDestination, ...] = ()
    match: tuple[L4MatchAttributes, ...] = ()


class TLSRoute(Kube, frozen=True, kw_only=True):
    match: tuple[TLSMatchAttributes, ...]
    route: tuple[RouteDestination, ...] = ()


class VirtualService(Kube, frozen=True, kw_only=True):
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    """Empty means `mesh`: every sidecar."""
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()


# === DestinationRule ===


class HTTPCookie(Kube, frozen=True, kw_only=True):
    name: str
    path: str = ""
    ttl: Duration | None = None
    """Unset: only hash a cookie the client has; set: the proxy makes one, 0 being a session cookie."""


class RingHash(Kube, frozen=True, kw_only=True):
    minimum_ring_size: Count = 1024


class Maglev(Kube, frozen=True, kw_only=True):
    table_size: Count = 65537


class ConsistentHashLB(Kube, frozen=True, kw_only=True):
    """Exactly one of the keys; at most one of the algorithms."""

    http_header_name: str | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None
    minimum_ring_size: Count | None = None


class LoadBalancerSettings(Kube, frozen=True, kw_only=True):
    simple: Literal["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"] | None = None
    consistent_hash: ConsistentHashLB | None = None


class TcpKeepalive(Kube, frozen=True, kw_only=True):
    probes: Count | None = None
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Kube, frozen=True, kw_only=True):
    max_connections: Positive | None = None
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: Duration | None = None


class HTTPSettings(Kube, frozen=True, kw_only=True):
    http1_max_pending_requests: Positive | None = None
    http2_max_requests: Positive | None = None
    max_requests_per_connection: Annotated[int, Meta(ge=0, le=2**29)] | None = None
    max_retries: Positive | None = None
    idle_timeout: Duration | None = None
    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"
    use_client_protocol: bool = False
    max_concurrent_streams: Positive | None = None


class ConnectionPoolSettings(Kube, frozen=True, kw_only=True):
    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


class OutlierDetection(Kube, frozen=True, kw_only=True):
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: Count | None = None
    consecutive_gateway_errors: Count | None = None
    consecutive_5xx_errors: Count | None = msgspec.field(default=None, name="consecutive5xxErrors")
    """Unset: 5; 0 switches it off."""
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    min_health_percent: Annotated[int, Meta(ge=0, le=100)] | None = None


class ClientTLSSettings(Kube, frozen=True, kw_only=True):
    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool | None = None


class PortTrafficPolicy(Kube, frozen=True, kw_only=True):
    port: PortSelector
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class TrafficPolicy(Kube, frozen=True, kw_only=True):
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()


class Subset(Kube, frozen=True, kw_only=True):
    name: str
    labels: dict[str, str] = {}
    traffic_policy: TrafficPolicy | None = None


class MatchLabelsSelector(Kube, frozen=True, kw_only=True):
    """`istio.type.v1beta1.WorkloadSelector`."""

    match_labels: dict[str, str] = {}


class DestinationRule(Kube, frozen=True, kw_only=True):
    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: MatchLabelsSelector | None = None


# === ServiceEntry ===


class ServicePort(Kube, frozen=True, kw_only=True):
    number: Port
    name: str
    protocol: Protocol = "TCP"
    target_port: Port | None = None


class WorkloadEntry(Kube, frozen=True, kw_only=True):
    address: str = ""
    ports: dict[str, Port] = {}
    labels: dict[str, str] = {}
    weight: Count | None = None
    locality: str = ""
    service_account: str = ""


class ServiceEntry(Kube, frozen=True, kw_only=True):
    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    endpoints: tuple[WorkloadEntry, ...] = ()
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


# === Gateway ===


class GatewayPort(Kube, frozen=True, kw_only=True):
    number: Port
    name: str
    protocol: Protocol


class ServerTLSSettings(Kube, frozen=True, kw_only=True):
    https_redirect: bool = False
    mode: Literal["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"] = (
        "PASSTHROUGH"
    )
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    min_protocol_version: Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"] = "TLS_AUTO"
    max_protocol_version: Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"] = "TLS_AUTO"


class Server(Kube, frozen=True, kw_only=True):
    port: GatewayPort
    hosts: tuple[str, ...]
    tls: ServerTLSSettings | None = None
    name: str = ""


class Gateway(Kube, frozen=True, kw_only=True):
    servers: tuple[Server, ...]
    selector: dict[str, str] = {}


# === Sidecar ===


class LabelsSelector(Kube, frozen=True, kw_only=True):
    """`istio.networking.v1.WorkloadSelector`."""

    labels: dict[str, str] = {}


class SidecarPort(Kube, frozen=True, kw_only=True):
    number: Port
    name: str = ""
    protocol: Protocol = "TCP"


class IstioEgressListener(Kube, frozen=True, kw_only=True):
    hosts: tuple[str, ...]
    """`namespace/dnsName`; namespace may be `*`, `.` or `~`."""
    port: SidecarPort | None = None


class OutboundTrafficPolicy(Kube, frozen=True, kw_only=True):
    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY"] = "REGISTRY_ONLY"


class Sidecar(Kube, frozen=True, kw_only=True):
    workload_selector: LabelsSelector | None = None
    egress: tuple[IstioEgressListener, ...] = ()
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
