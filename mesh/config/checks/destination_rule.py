"""DestinationRule: Istio's rules for subsets, load balancing, pools, outlier detection and TLS."""

from __future__ import annotations

from manifests.load import FieldPath
from manifests.metadata import is_dns_label
from mesh.config.checks import values
from mesh.config.checks.findings import Findings
from mesh.config.snapshot import Config
from mesh.config.types import DestinationRule
from mesh.config.types import istio_networking as istio


def check(config: Config[DestinationRule], findings: Findings) -> None:
    spec = config.spec
    values.check_host(findings, ("spec", "host"), spec.host, address=True)
    values.check_export_to(findings, ("spec", "exportTo"), spec.export_to)
    _policy(findings, ("spec", "trafficPolicy"), spec.traffic_policy)
    if spec.workload_selector is not None:
        values.check_labels(findings, ("spec", "workloadSelector", "matchLabels"), spec.workload_selector.match_labels)
    names: dict[str, int] = {}
    for index, subset in enumerate(spec.subsets):
        path: FieldPath = ("spec", "subsets", index)
        if not is_dns_label(subset.name):
            findings.error(
                (*path, "name"),
                "is not a valid subset name",
                value=subset.name or '""',
                expected='lower-case letters, digits and "-", at most 63',
            )
        first = names.setdefault(subset.name, index)
        if first != index:
            findings.error((*path, "name"), f"is the name of subsets[{first}] already", value=subset.name)
        if not subset.labels:
            findings.warn(path, "has no labels, so it is the whole service")
        values.check_labels(findings, (*path, "labels"), subset.labels)
        _policy(findings, (*path, "trafficPolicy"), subset.traffic_policy)


def _policy(findings: Findings, path: FieldPath, policy: istio.TrafficPolicy | None) -> None:
    if policy is None:
        return
    if policy == istio.TrafficPolicy():
        findings.error(path, "says nothing", expected="at least one of loadBalancer, connectionPool, ...")
    _settings(findings, path, policy)
    ports: dict[int, int] = {}
    for index, level in enumerate(policy.port_level_settings):
        where: FieldPath = (*path, "portLevelSettings", index)
        first = ports.setdefault(level.port.number, index)
        if first != index:
            findings.error(
                (*where, "port", "number"), f"has portLevelSettings[{first}] already", value=level.port.number
            )
        _settings(findings, where, level)


def _settings(findings: Findings, path: FieldPath, policy: istio.TrafficPolicy | istio.PortTrafficPolicy) -> None:
    _load_balancer(findings, (*path, "loadBalancer"), policy.load_balancer)
    _pool(findings, (*path, "connectionPool"), policy.connection_pool)
    _outliers(findings, (*path, "outlierDetection"), policy.outlier_detection)
    _tls(findings, (*path, "tls"), policy.tls)


def _load_balancer(findings: Findings, path: FieldPath, settings: istio.LoadBalancerSettings | None) -> None:
    if settings is None:
        return
    hashing = settings.consistent_hash
    if settings.simple is not None and hashing is not None:
        findings.error((*path, "consistentHash"), "is given beside simple", expected="one of the two")
    if settings.simple == "LEAST_CONN":
        findings.warn((*path, "simple"), "is deprecated; it means LEAST_REQUEST", value="LEAST_CONN")
    if hashing is None:
        if settings.simple is None:
            findings.error(path, "says nothing", expected="simple or consistentHash")
        return
    where: FieldPath = (*path, "consistentHash")
    keys = [
        name
        for name, given in (
            ("httpHeaderName", hashing.http_header_name is not None),
            ("httpCookie", hashing.http_cookie is not None),
            ("useSourceIp", bool(hashing.use_source_ip)),
            ("httpQueryParameterName", hashing.http_query_parameter_name is not None),
        )
        if given
    ]
    choice = "exactly one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName"
    if not keys:
        findings.error(where, "says nothing to hash", expected=choice)
    for key in keys[1:]:
        findings.error((*where, key), f"is given beside {keys[0]}", expected=choice)
    if hashing.http_header_name is not None:
        values.check_header_name(findings, (*where, "httpHeaderName"), hashing.http_header_name)
    if hashing.http_query_parameter_name == "":
        findings.error((*where, "httpQueryParameterName"), "is empty")
    if hashing.http_cookie is not None:
        values.check_header_name(findings, (*where, "httpCookie", "name"), hashing.http_cookie.name)
    sizes = [
        name
        for name, value in (
            ("ringHash", hashing.ring_hash),
            ("maglev", hashing.maglev),
            ("minimumRingSize", hashing.minimum_ring_size),
        )
        if value is not None
    ]
    for name in sizes[1:]:
        findings.error((*where, name), f"is given beside {sizes[0]}", expected="one of the two")
    if hashing.maglev is not None and not _is_prime(hashing.maglev.table_size):
        findings.error(
            (*where, "maglev", "tableSize"),
            "is not a prime number up to 5000011",
            value=hashing.maglev.table_size,
            expected="a prime, such as 65537",
        )


def _is_prime(number: int) -> bool:
    """For Envoy's Maglev table, whose size is at most 5,000,011."""
    return 2 <= number <= 5_000_011 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _pool(findings: Findings, path: FieldPath, pool: istio.ConnectionPoolSettings | None) -> None:
    if pool is None:
        return
    if pool.tcp is None and pool.http is None:
        findings.error(path, "says nothing", expected="tcp or http")
    if pool.tcp is not None:
        values.check_duration(findings, (*path, "tcp", "connectTimeout"), pool.tcp.connect_timeout)
        values.check_duration(findings, (*path, "tcp", "idleTimeout"), pool.tcp.idle_timeout, zero="no timeout")
        if pool.tcp.tcp_keepalive is not None:
            for name, value in (("time", pool.tcp.tcp_keepalive.time), ("interval", pool.tcp.tcp_keepalive.interval)):
                values.check_duration(findings, (*path, "tcp", "tcpKeepalive", name), value, least=1.0)
    if pool.http is not None:
        values.check_duration(findings, (*path, "http", "idleTimeout"), pool.http.idle_timeout, zero="no timeout")


def _outliers(findings: Findings, path: FieldPath, settings: istio.OutlierDetection | None) -> None:
    if settings is None:
        return
    values.check_duration(findings, (*path, "interval"), settings.interval)
    values.check_duration(findings, (*path, "baseEjectionTime"), settings.base_ejection_time)
    if settings.consecutive_local_origin_failures is not None and not settings.split_external_local_origin_errors:
        findings.error(
            (*path, "consecutiveLocalOriginFailures"),
            "means nothing without splitExternalLocalOriginErrors: true",
            value=settings.consecutive_local_origin_failures,
        )
    if settings.max_ejection_percent == 0:
        findings.warn((*path, "maxEjectionPercent"), "is 0, so nothing is ever ejected", value=0)


def _tls(findings: Findings, path: FieldPath, tls: istio.ClientTLSSettings | None) -> None:
    if tls is None:
        return
    if not findings.wrote((*path, "mode")):
        findings.error((*path, "mode"), "is missing", expected="DISABLE, SIMPLE or ISTIO_MUTUAL")
    if tls.mode == "DISABLE":
        for name, given in (("sni", bool(tls.sni)), ("subjectAltNames", bool(tls.subject_alt_names))):
            if given:
                findings.error((*path, name), "means nothing with mode DISABLE")
    if tls.sni:
        values.check_host(findings, (*path, "sni"), tls.sni, wildcard=False)
