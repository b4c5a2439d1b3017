"""From Kubernetes objects to services, workloads and endpoints. Pure.

Rules are Kubernetes' and Istio's: a Service's endpoints are the ready, not terminating pods of its namespace that its
selector matches; a port's protocol is its `appProtocol`, else the prefix of its name, else found out on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from mesh.config.decode import normal_time
from mesh.model.hosts import qualified
from mesh.registry.objects import PodObject, ServiceObject
from mesh.registry.types import Endpoint, Port, Service, Workload

Protocol = Literal["http", "http2", "grpc", "tcp", "tls", "https", "auto"]

CLUSTER_DOMAIN = "cluster.local"
PROXY_CONTAINER = "istio-proxy"
EXPORT_ANNOTATION = "networking.istio.io/exportTo"

_PROTOCOLS: Mapping[str, Protocol] = {
    "http": "http",
    "http2": "http2",
    "grpc": "grpc",
    "grpc-web": "http",
    "https": "https",
    "tls": "tls",
    "tcp": "tcp",
    "mongo": "tcp",
    "mysql": "tcp",
    "redis": "tcp",
    "kubernetes.io/h2c": "http2",
    "kubernetes.io/ws": "http",
    "kubernetes.io/wss": "https",
}
_SERVER_FIRST_PORTS = frozenset({25, 53, 3306, 27017})
"""SMTP, DNS, MySQL, MongoDB: their servers speak first, so waiting for the client's bytes would hang (Istio's list)."""


def port_protocol(name: str, number: int, app_protocol: str | None = None) -> Protocol:
    """Istio's protocol selection: `appProtocol`, else the port name up to its first `-`."""
    if app_protocol:
        return _PROTOCOLS.get(app_protocol.lower(), "auto")
    lower = name.lower()
    prefix = "grpc-web" if lower.startswith("grpc-web") else lower.partition("-")[0]
    if prefix in _PROTOCOLS:
        return _PROTOCOLS[prefix]
    return "tcp" if number in _SERVER_FIRST_PORTS else "auto"


def service_of(obj: ServiceObject, domain: str = CLUSTER_DOMAIN) -> Service:
    meta, spec = obj.metadata, obj.spec
    address = spec.cluster_ip if spec.cluster_ip not in ("", "None") else ""
    exported = tuple(part.strip() for part in meta.annotations.get(EXPORT_ANNOTATION, "*").split(",") if part.strip())
    return Service(
        hostname=qualified(meta.name, meta.namespace, domain),
        namespace=meta.namespace,
        name=meta.name,
        ports=tuple(
            Port(
                number=port.port,
                name=port.name,
                protocol=port_protocol(port.name, port.port, port.app_protocol),
                target=port.port if port.target_port is None else port.target_port,
            )
            for port in spec.ports
            if port.protocol == "TCP"
        ),
        addresses=(address,) if address else (),
        resolution="endpoints",
        export_to=exported or ("*",),
        selector=spec.selector,
        created=(_time(meta.creation_timestamp), meta.namespace, meta.name),
    )


def workload_of(obj: PodObject) -> Workload:
    meta, spec, status = obj.metadata, obj.spec, obj.status
    containers = [*spec.containers, *spec.init_containers]
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions)
    return Workload(
        namespace=meta.namespace,
        name=meta.name,
        address=status.pod_ip if status.phase not in ("Succeeded", "Failed") else "",
        labels=meta.labels,
        service_account=spec.service_account_name or "default",
        meshed=any(container.name == PROXY_CONTAINER for container in containers),
        ready=ready and status.phase == "Running" and meta.deletion_timestamp is None,
        ports={port.name: port.container_port for c in spec.containers for port in c.ports if port.name},
    )


def endpoints_of(
    service: Service, workloads: Iterable[Workload], *, unready: bool = False
) -> dict[tuple[str, int], tuple[Endpoint, ...]]:
    """Endpoints per (hostname, service port), sorted by address. `workloads` are those of the service's namespace; with
    `unready` (publishNotReadyAddresses) they need not be ready."""
    selected = [
        workload
        for workload in workloads
        if workload.address and (workload.ready or unready) and selects(service.selector, workload.labels)
    ]
    result: dict[tuple[str, int], tuple[Endpoint, ...]] = {}
    for port in service.ports:
        endpoints = []
        for workload in selected:
            target = workload.ports.get(port.target, 0) if isinstance(port.target, str) else port.target
            if target:
                endpoints.append(_endpoint(workload, target))
        result[service.hostname, port.number] = tuple(sorted(endpoints, key=lambda e: (e.address, e.port)))
    return result


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """A Service's selector; one that is empty selects nothing."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _endpoint(workload: Workload, port: int) -> Endpoint:
    return Endpoint(
        address=workload.address,
        port=port,
        labels=workload.labels,
        namespace=workload.namespace,
        service_account=workload.service_account,
        workload=workload.name,
        meshed=workload.meshed,
        ready=True,
        locality=workload.labels.get("topology.kubernetes.io/region", ""),
    )


def _time(text: str | None) -> str:
    try:
        return normal_time(text) if text else ""
    except ValueError:
        return text or ""
