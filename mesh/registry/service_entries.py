"""Services declared by `ServiceEntry`, added to those of the cluster. Pure.

The cluster's own Service keeps its name when a ServiceEntry claims the same; among ServiceEntries the oldest does.
"""

from __future__ import annotations

from typing import Literal

from mesh.config.snapshot import Config, ConfigSnapshot
from mesh.config.types import ServiceEntry
from mesh.config.types.istio_networking import ServicePort, WorkloadEntry
from mesh.registry.build import port_protocol
from mesh.registry.types import Endpoint, Port, Registry, Service

_RESOLUTIONS: dict[str, Literal["endpoints", "static", "dns", "none"]] = {
    "NONE": "none",
    "STATIC": "static",
    "DNS": "dns",
    "DNS_ROUND_ROBIN": "dns",
    "DYNAMIC_DNS": "dns",
}
TLS_MODE_LABEL = "security.istio.io/tlsMode"
"""`istio` on an endpoint says that a sidecar terminates the mesh's TLS there."""


def with_service_entries(registry: Registry, config: ConfigSnapshot) -> Registry:
    """`registry` and the services that `config` declares; the same object when it declares none."""
    if not config.service_entries:
        return registry
    services = dict(registry.services)
    endpoints = dict(registry.endpoints)
    for entry in config.service_entries:
        for host in entry.spec.hosts:
            if host in services:
                continue
            services[host] = _service(entry, host)
            for port in entry.spec.ports:
                endpoints[host, port.number] = _endpoints(entry, host, port)
    return Registry(
        services=services, endpoints=endpoints, workloads=registry.workloads, namespaces=registry.namespaces
    )


def _service(entry: Config[ServiceEntry], host: str) -> Service:
    spec = entry.spec
    return Service(
        hostname=host,
        namespace=entry.namespace,
        name=entry.name,
        ports=tuple(
            Port(
                number=port.number,
                name=port.name,
                protocol=port_protocol(port.name, port.number, port.protocol),
                target=port.target_port or port.number,
            )
            for port in spec.ports
        ),
        addresses=spec.addresses,
        resolution=_RESOLUTIONS[spec.resolution],
        mesh_external=spec.location == "MESH_EXTERNAL",
        export_to=spec.export_to or ("*",),
        created=entry.age,
        subject_alt_names=spec.subject_alt_names,
    )


def _endpoints(entry: Config[ServiceEntry], host: str, port: ServicePort) -> tuple[Endpoint, ...]:
    spec = entry.spec
    if spec.resolution == "NONE":
        return ()
    listed = spec.endpoints
    if not listed and spec.resolution != "STATIC":
        listed = (WorkloadEntry(address=host),)
    return tuple(
        sorted(
            (_endpoint(entry, item, item.ports.get(port.name) or port.target_port or port.number) for item in listed),
            key=lambda endpoint: (endpoint.address, endpoint.port),
        )
    )


def _endpoint(entry: Config[ServiceEntry], item: WorkloadEntry, port: int) -> Endpoint:
    return Endpoint(
        address=item.address,
        port=port,
        labels=item.labels,
        namespace=entry.namespace,
        service_account=item.service_account or "default",
        workload=entry.name,
        meshed=item.labels.get(TLS_MODE_LABEL) == "istio",
        ready=True,
        weight=item.weight or 1,
        locality=item.locality,
    )
