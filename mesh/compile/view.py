"""One view's whole resource set: clusters, endpoints, listeners and routes.

A pure function of its arguments: equal arguments give equal bytes. Every cluster and route a resource names is in the
same set, so a proxy that has all of it never meets a dangling name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.compile import clusters as cds
from mesh.compile.endpoints import load_assignment, of_subset
from mesh.compile.inbound_routes import inbound_route
from mesh.compile.inbound_routes import origins as inbound_route_origins
from mesh.compile.listeners_inbound import VIRTUAL_INBOUND, virtual_inbound
from mesh.compile.listeners_inbound import origins as inbound_origins
from mesh.compile.listeners_outbound import Outbound
from mesh.compile.outbound_routes import OutboundRoutes, hash_of
from mesh.config.snapshot import ConfigSnapshot
from mesh.model.context import HTTP_PROTOCOLS, Context
from mesh.model.hosts import cluster_name
from mesh.model.routes import Hash
from mesh.model.virtual_services import VirtualServices
from mesh.registry.types import Port, Registry, Service
from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, ResourceSet, resource
from mesh.settings import MeshSettings
from mesh.view import ViewKey


def compile_view(config: ConfigSnapshot, registry: Registry, view: ViewKey, settings: MeshSettings) -> ResourceSet:
    """Everything a proxy of this view is served, by type URL and name."""
    context = Context(config, registry, view, settings)
    virtual_services = VirtualServices(context)
    found: dict[str, dict[str, Resource]] = {CLUSTER: {}, ENDPOINT: {}, LISTENER: {}, ROUTE: {}}

    def put(
        type_url: str, message: Any, name: str, origins: Iterable[str] = (), references: Iterable[tuple[str, str]] = ()
    ) -> None:
        found[type_url][name] = resource(
            name, type_url, message, tuple(dict.fromkeys(origins)), tuple(sorted(set(references)))
        )

    hashes: dict[str, Hash] = {}
    for service, port, subset in _outbound(context):
        policy = context.rules(service).of(port.number, subset)
        message = cds.outbound_cluster(context, service, port, subset, policy)
        hashed = hash_of(policy.load_balancer)
        if hashed is not None:
            hashes[message.name] = hashed
        uses_eds = message.type == cds.EDS
        references = [(ENDPOINT, message.name)] if uses_eds else []
        put(CLUSTER, message, message.name, context.rules(service).origins, references)
        if uses_eds:
            assignment = _endpoints(context, service, port, subset)
            put(ENDPOINT, assignment, message.name, context.rules(service).origins)
    for message in cds.fixed_clusters(context):
        put(CLUSTER, message, message.name)

    inbound_names, inbound_routes = [cds.INBOUND_PASSTHROUGH], [cds.INBOUND_PASSTHROUGH]
    for number, port, _ in context.inbound_ports:
        message = cds.inbound_cluster(context, number)
        inbound_names.append(message.name)
        if port.protocol == "auto" or port.protocol in HTTP_PROTOCOLS:
            # A proxy never asks for a route that no filter chain uses, and would be waited for.
            inbound_routes.append(message.name)
        put(CLUSTER, message, message.name)
    for name in inbound_routes:
        put(ROUTE, inbound_route(context, name), name, inbound_route_origins(context), [(CLUSTER, name)])

    outbound = Outbound(context, virtual_services)
    asked_for: set[tuple[str, str]] = set()
    for name, message in outbound.listeners().items():
        put(LISTENER, message, name, outbound.origins_of(name), outbound.references_of(name))
        asked_for.update(outbound.references_of(name))
    for name, compiled in OutboundRoutes(context, virtual_services, hashes).all().items():
        if (ROUTE, name) in asked_for:
            put(ROUTE, compiled.message, name, compiled.origins, [(CLUSTER, cluster) for cluster in compiled.clusters])
    put(
        LISTENER,
        virtual_inbound(context),
        VIRTUAL_INBOUND,
        inbound_origins(context),
        [
            *((ROUTE, name) for name in inbound_routes),
            (CLUSTER, cds.BLACK_HOLE),
            *((CLUSTER, n) for n in inbound_names),
        ],
    )
    return found


def compile_endpoints(
    config: ConfigSnapshot, registry: Registry, view: ViewKey, settings: MeshSettings
) -> dict[str, Resource]:
    """Only the ClusterLoadAssignments of `compile_view`: enough when nothing but endpoints changed, and no service
    account appeared or went (clusters list those)."""
    context = Context(config, registry, view, settings)
    found: dict[str, Resource] = {}
    for service, port, subset in _outbound(context):
        policy = context.rules(service).of(port.number, subset)
        if cds.is_eds(service, policy):
            assignment = _endpoints(context, service, port, subset)
            name = assignment.cluster_name
            found[name] = resource(name, ENDPOINT, assignment, context.rules(service).origins)
    return found


def _outbound(context: Context) -> Iterable[tuple[Service, Port, str]]:
    """(service, port, subset) of every outbound cluster; the empty subset is the service itself."""
    for service in context.scope.services.values():
        for port in service.ports:
            yield service, port, ""
            for subset in context.rules(service).subsets:
                yield service, port, subset


def _endpoints(context: Context, service: Service, port: Port, subset: str) -> Any:
    labels = context.rules(service).subsets[subset].labels if subset else {}
    name = cluster_name("outbound", port.number, subset, service.hostname)
    return load_assignment(context, name, service, of_subset(context, service, port.number, labels))
