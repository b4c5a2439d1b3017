"""ServiceEntry, Sidecar and Gateway: what is declared beside the cluster's Services, and who sees what."""

from __future__ import annotations

import ipaddress

from manifests.load import FieldPath
from manifests.metadata import is_dns_label
from mesh.config.checks import values
from mesh.config.checks.findings import Findings
from mesh.config.snapshot import Config
from mesh.config.types import Gateway, ServiceEntry, Sidecar
from mesh.config.types import istio_networking as istio

_TCP = frozenset({"TCP", "MONGO"})


def check_service_entry(config: Config[ServiceEntry], findings: Findings) -> None:
    spec = config.spec
    values.check_export_to(findings, ("spec", "exportTo"), spec.export_to)
    _hosts(spec, findings)
    _ports(spec, findings)
    for index, address in enumerate(spec.addresses):
        values.check_cidr(findings, ("spec", "addresses", index), address)
        if "/" in address and spec.resolution not in ("NONE", "STATIC"):
            findings.error(
                ("spec", "addresses", index),
                f"is a CIDR, which resolution {spec.resolution} cannot serve",
                value=address,
            )
    _endpoints(spec, findings)


def _hosts(spec: ServiceEntry, findings: Findings) -> None:
    if not spec.hosts:
        findings.error(("spec", "hosts"), "is empty", expected="at least one host")
    for index, host in enumerate(spec.hosts):
        path: FieldPath = ("spec", "hosts", index)
        values.check_host(findings, path, host)
        if host == "*":
            findings.error(path, "would be every host there is", value="*", expected="a host, or *.<domain>")
        elif host.startswith("*") and spec.resolution != "NONE":
            findings.error(
                path, f"is a wildcard, which cannot be resolved with {spec.resolution}", expected="resolution NONE"
            )
        elif "." not in host and not host.startswith("*"):
            findings.warn(path, "is a short name, and is taken as it is: no namespace is added", value=host)
        if host in spec.hosts[:index]:
            findings.error(path, "is listed twice", value=host)


def _ports(spec: ServiceEntry, findings: Findings) -> None:
    if not spec.ports:
        findings.error(("spec", "ports"), "is empty", expected="at least one port")
    numbers: dict[int, int] = {}
    names: dict[str, int] = {}
    for index, port in enumerate(spec.ports):
        path: FieldPath = ("spec", "ports", index)
        for field, value, first in (
            ("number", port.number, numbers.setdefault(port.number, index)),
            ("name", port.name, names.setdefault(port.name, index)),
        ):
            if first != index:
                findings.error((*path, field), f"is that of ports[{first}] already", value=value)
        if not is_dns_label(port.name):
            findings.error((*path, "name"), "is not a valid port name", value=port.name or '""')
        if port.protocol in _TCP and len(spec.hosts) > 1 and spec.resolution != "NONE" and not spec.addresses:
            findings.error(
                (*path, "protocol"),
                "cannot tell several hosts apart",
                value=port.protocol,
                expected="one host, or addresses, or resolution NONE",
            )


def _endpoints(spec: ServiceEntry, findings: Findings) -> None:
    if spec.resolution == "NONE" and spec.endpoints:
        findings.error(("spec", "endpoints"), "means nothing with resolution NONE")
    if spec.resolution == "STATIC" and not spec.endpoints:
        findings.error(("spec", "endpoints"), "is empty, and resolution STATIC has nowhere else to look")
    if spec.resolution == "DNS_ROUND_ROBIN" and len(spec.endpoints) > 1:
        findings.error(("spec", "endpoints"), "has more than one", expected="at most one with DNS_ROUND_ROBIN")
    port_names = {port.name for port in spec.ports}
    for index, endpoint in enumerate(spec.endpoints):
        path: FieldPath = ("spec", "endpoints", index)
        if not endpoint.address:
            findings.error((*path, "address"), "is missing", expected="an IP address or a host name")
        elif spec.resolution == "STATIC" and not values.is_ip(endpoint.address):
            findings.error(
                (*path, "address"),
                "is not an IP address",
                value=endpoint.address,
                expected="one, as STATIC resolves none",
            )
        elif not values.is_ip(endpoint.address):
            values.check_host(findings, (*path, "address"), endpoint.address, wildcard=False)
        elif ipaddress.ip_address(endpoint.address).is_unspecified:
            findings.error((*path, "address"), "is no address to connect to", value=endpoint.address)
        values.check_labels(findings, (*path, "labels"), endpoint.labels)
        for name in endpoint.ports:
            if name not in port_names:
                findings.error((*path, "ports", name), "is no port of this ServiceEntry", value=name)


def check_sidecar(config: Config[Sidecar], findings: Findings) -> None:
    spec = config.spec
    if spec.workload_selector is not None:
        values.check_labels(findings, ("spec", "workloadSelector", "labels"), spec.workload_selector.labels)
        if not spec.workload_selector.labels:
            findings.error(("spec", "workloadSelector"), "selects nothing in particular", expected="labels")
    if not spec.egress and spec.outbound_traffic_policy is None:
        findings.error(("spec",), "says nothing", expected="egress or outboundTrafficPolicy")
    for index, listener in enumerate(spec.egress):
        if not listener.hosts:
            findings.error(("spec", "egress", index, "hosts"), "is empty", expected='such as "./*" or "*/*"')
        for number, host in enumerate(listener.hosts):
            _scoped_host(findings, ("spec", "egress", index, "hosts", number), host)


def _scoped_host(findings: Findings, path: FieldPath, text: str) -> None:
    namespace, slash, host = text.partition("/")
    expected = 'namespace/host, such as "./*", "bookinfo/reviews.bookinfo.svc.cluster.local" or "~/*"'
    if not slash:
        findings.error(path, "has no namespace", value=text or '""', expected=expected)
        return
    if namespace not in ("*", ".", "~") and not is_dns_label(namespace):
        findings.error(path, "has no valid namespace", value=text, expected=expected)
    if not values.is_host(host):
        findings.error(path, "has no valid host", value=text, expected=expected)


def check_gateway(config: Config[Gateway], findings: Findings) -> None:
    spec = config.spec
    if not spec.servers:
        findings.error(("spec", "servers"), "is empty", expected="at least one server")
    values.check_labels(findings, ("spec", "selector"), spec.selector)
    for index, server in enumerate(spec.servers):
        path: FieldPath = ("spec", "servers", index)
        if not server.hosts:
            findings.error((*path, "hosts"), "is empty", expected="at least one host")
        for number, text in enumerate(server.hosts):
            _, _, host = text.rpartition("/")
            values.check_host(findings, (*path, "hosts", number), host)
        _server_tls(findings, path, server)


def _server_tls(findings: Findings, path: FieldPath, server: istio.Server) -> None:
    needs_tls = server.port.protocol in ("HTTPS", "TLS")
    if needs_tls and server.tls is None:
        findings.error((*path, "tls"), "is missing", expected=f"tls for protocol {server.port.protocol}")
    if server.tls is not None and not needs_tls and not server.tls.https_redirect:
        findings.error((*path, "tls"), f"means nothing with protocol {server.port.protocol}")
    if server.tls is not None and server.tls.mode in ("SIMPLE", "MUTUAL") and not server.tls.credential_name:
        findings.error((*path, "tls", "credentialName"), "is missing", expected="the name of a Secret")
