"""One view's whole resource set: clusters, endpoints, listeners and routes.

A pure function of its arguments: equal arguments give equal bytes. Every cluster and route a resource names is in the
same set, so a proxy that has all of it never meets a dangling name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.compile import clusters as cds
from mesh.compile.inbound_routes import inbound_route
from mesh.compile.inbound_routes import origins as inbound_route_origins
from mesh.compile.listeners_inbound import VIRTUAL_INBOUND, virtual_inbound
from mesh.compile.listeners_inbound import origins as inbound_origins
from mesh.compile.listeners_outbound import Outbound
from mesh.compile.outbound_routes import OutboundRoutes
from mesh.compile.upstreams import Upstreams
from mesh.config.snapshot import ConfigSnapshot
from mesh.model.context import HTTP_PROTOCOLS, Context, NamespaceContext
from mesh.model.routes import Hash
from mesh.model.virtual_services import VirtualServices
from mesh.registry.types import Registry
from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, ResourceSet, resource
from mesh.settings import MeshSettings
from mesh.view import ViewKey


class Compiler:
    """Compiles any view of one configuration and one registry; what the views of a namespace share, once."""

    def __init__(self, config: ConfigSnapshot, registry: Registry, settings: MeshSettings) -> None:
        self._config = config
        self._registry = registry
        self._settings = settings
        self._namespaces: dict[str, tuple[NamespaceContext, Upstreams]] = {}

    def _namespace(self, name: str) -> tuple[NamespaceContext, Upstreams]:
        found = self._namespaces.get(name)
        if found is None:
            context = NamespaceContext(self._config, self._registry, name, self._settings)
            found = self._namespaces[name] = context, Upstreams(context)
        return found

    def __call__(self, view: ViewKey) -> ResourceSet:
        """Everything a proxy of this view is served, by type URL and name."""
        shared, upstreams = self._namespace(view.namespace)
        context = Context(shared, view)
        virtual_services = VirtualServices(context)
        found: dict[str, dict[str, Resource]] = {CLUSTER: {}, ENDPOINT: {}, LISTENER: {}, ROUTE: {}}

        def put(
            type_url: str,
            message: Any,
            name: str,
            origins: Iterable[str] = (),
            references: Iterable[tuple[str, str]] = (),
        ) -> None:
            found[type_url][name] = resource(
                name, type_url, message, tuple(dict.fromkeys(origins)), tuple(sorted(set(references)))
            )

        hashes: dict[str, Hash] = {}
        for service in context.scope.services.values():
            for upstream in upstreams.of(service):
                name = upstream.cluster.name
                found[CLUSTER][name] = upstream.cluster
                if upstream.endpoints is not None:
                    found[ENDPOINT][name] = upstream.endpoints
                if upstream.hashes is not None:
                    hashes[name] = upstream.hashes
        found[CLUSTER].update((cluster.name, cluster) for cluster in upstreams.fixed)

        inbound_names, inbound_routes = [cds.INBOUND_PASSTHROUGH], [cds.INBOUND_PASSTHROUGH]
        for number, port, _ in context.inbound_ports:
            message = cds.inbound_cluster(shared, number)
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
                clusters = [(CLUSTER, cluster) for cluster in compiled.clusters]
                put(ROUTE, compiled.message, name, compiled.origins, clusters)
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
