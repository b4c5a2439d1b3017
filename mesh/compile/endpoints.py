"""ClusterLoadAssignments: who stands behind a cluster, grouped by locality, marked with how to reach them.

An endpoint that takes the mesh's TLS carries `tlsMode: istio`, so one cluster can hold both kinds while a service
migrates. Workload facts ride along as metadata for the client's telemetry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.core.v3.base_pb2 import Locality, Metadata
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint as EnvoyEndpoint
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from mesh.compile.wire import address, u32
from mesh.model.context import NamespaceContext
from mesh.model.matching import selects
from mesh.registry.types import Endpoint, Service

TLS_MODE = "tlsMode"
MATCH_KEY = "envoy.transport_socket_match"
PEER_KEY = "istio"


def takes_mesh_tls(context: NamespaceContext, endpoint: Endpoint) -> bool:
    """A sidecar is there, and its PeerAuthentication does not forbid TLS on that port."""
    return endpoint.meshed and context.modes.of(endpoint.namespace, endpoint.labels).of(endpoint.port) != "DISABLE"


def of_subset(
    context: NamespaceContext, service: Service, port: int, labels: Mapping[str, str]
) -> tuple[Endpoint, ...]:
    """Endpoints of the service's port that carry the subset's labels."""
    found = context.registry.endpoints.get((service.hostname, port), ())
    return tuple(endpoint for endpoint in found if selects(labels, endpoint.labels))


def _lb_endpoint(context: NamespaceContext, service: Service, endpoint: Endpoint) -> Any:
    message = LbEndpoint(
        endpoint=EnvoyEndpoint(address=address(endpoint.address, endpoint.port)),
        load_balancing_weight=u32(max(1, endpoint.weight)),
    )
    metadata = Metadata()
    if not service.mesh_external and takes_mesh_tls(context, endpoint):
        metadata.filter_metadata[MATCH_KEY].fields[TLS_MODE].string_value = "istio"
    if endpoint.workload:
        facts = metadata.filter_metadata[PEER_KEY].fields
        labels = endpoint.labels
        app = labels.get("app", "")
        facts["workload"].string_value = endpoint.workload
        facts["namespace"].string_value = endpoint.namespace
        facts["app"].string_value = app or "unknown"
        facts["version"].string_value = labels.get("version", "") or "unknown"
        facts["canonical_service"].string_value = canonical_service(labels, endpoint.workload)
        facts["canonical_revision"].string_value = canonical_revision(labels)
    if metadata.filter_metadata:
        message.metadata.CopyFrom(metadata)
    return message


def canonical_service(labels: Mapping[str, str], workload: str) -> str:
    keys = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
    return next((labels[key] for key in keys if labels.get(key)), workload)


def canonical_revision(labels: Mapping[str, str]) -> str:
    keys = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
    return next((labels[key] for key in keys if labels.get(key)), "latest")


def load_assignment(context: NamespaceContext, name: str, service: Service, endpoints: Iterable[Endpoint]) -> Any:
    """An empty one is said explicitly: it is how a cluster is drained."""
    by_locality: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_locality.setdefault(endpoint.locality, []).append(endpoint)
    groups = []
    for locality, members in sorted(by_locality.items()):
        region, _, rest = locality.partition("/")
        zone, _, sub_zone = rest.partition("/")
        groups.append(
            LocalityLbEndpoints(
                locality=Locality(region=region, zone=zone, sub_zone=sub_zone),
                lb_endpoints=[
                    _lb_endpoint(context, service, endpoint)
                    for endpoint in sorted(members, key=lambda item: (item.address, item.port))
                ],
                load_balancing_weight=u32(sum(max(1, member.weight) for member in members)),
            )
        )
    return ClusterLoadAssignment(cluster_name=name, endpoints=groups)
