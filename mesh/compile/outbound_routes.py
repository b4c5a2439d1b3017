"""Routes of the outbound side: one RouteConfiguration per HTTP port number, and per port of undeclared protocol.

A service's virtual host holds what its VirtualService says, else its HTTPRoutes, else a plain route to it. The last
virtual host is for hosts nobody declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.route.v3.route_pb2 import RouteConfiguration
from msgspec.structs import replace

from mesh.compile.clusters import PASSTHROUGH
from mesh.compile.listeners_outbound import route_of_address
from mesh.compile.routes import virtual_host
from mesh.compile.telemetry import peer_header
from mesh.compile.wire import FALSE
from mesh.config.types.istio_networking import LoadBalancerSettings
from mesh.model import http_routes
from mesh.model.context import Context, speaks_http
from mesh.model.hosts import cluster_name, covers, short_names
from mesh.model.routes import DEFAULT_RETRY, Answer, Backend, Forward, Hash, Route, RouteMatch, VirtualHost
from mesh.model.virtual_services import VirtualServices
from mesh.registry.types import Port, Service
from mesh.settings import PEER_HEADER, RESERVED_PORTS

BLOCKED_STATUS = 502
"""Istio's answer to HTTP for a host nobody declared, when the policy is REGISTRY_ONLY."""


class Compiled:
    """A RouteConfiguration, the clusters it names and the objects it came from."""

    def __init__(self, message: Any, clusters: frozenset[str], origins: tuple[str, ...]) -> None:
        self.message = message
        self.clusters = clusters
        self.origins = origins


def hash_of(settings: LoadBalancerSettings | None) -> Hash | None:
    key = settings.consistent_hash if settings else None
    if key is None:
        return None
    if key.http_header_name:
        return Hash(kind="header", name=key.http_header_name)
    if key.http_cookie is not None:
        cookie = key.http_cookie
        return Hash(kind="cookie", name=cookie.name, path=cookie.path, ttl=cookie.ttl)
    if key.http_query_parameter_name:
        return Hash(kind="query", name=key.http_query_parameter_name)
    return Hash(kind="source_ip") if key.use_source_ip else None


class OutboundRoutes:
    def __init__(self, context: Context, virtual_services: VirtualServices, hashes: Mapping[str, Hash]) -> None:
        """`hashes`: cluster name to what its load balancer hashes."""
        self._context = context
        self._virtual_services = virtual_services
        self._hashes = hashes
        self._says = ((PEER_HEADER, peer_header(context)),) if context.settings.telemetry else ()

    def all(self) -> Mapping[str, Compiled]:
        by_port: dict[int, list[tuple[Service, Port]]] = {}
        found: dict[str, Compiled] = {}
        for service in sorted(self._context.scope.services.values(), key=lambda item: (item.created, item.hostname)):
            for port in service.ports:
                if port.number in RESERVED_PORTS:
                    continue
                if speaks_http(port):
                    by_port.setdefault(port.number, []).append((service, port))
                elif port.protocol == "auto":
                    host = self._host(service, port, ("*",))
                    found[route_of_address(service, port)] = self._compiled(
                        route_of_address(service, port), [host], port.number
                    )
        for number, members in sorted(by_port.items()):
            found[str(number)] = self._of_port(number, members)
        return found

    def _of_port(self, number: int, members: list[tuple[Service, Port]]) -> Compiled:
        taken: set[str] = {"*"}
        hosts = []
        for service, port in members:
            namespace, domain = self._context.view.namespace, self._context.settings.cluster_domain
            wanted = (*short_names(service.hostname, namespace, domain), *_addresses(service))
            domains = tuple(name for name in wanted if name not in taken)
            taken.update(domains)
            if domains:
                hosts.append(self._host(service, port, domains))
        known = set(self._context.registry.services)
        for name, item in sorted(self._virtual_services.hosts().items()):
            # A host that is no service, but has routes to some.
            if name not in taken and not any(covers(name, host) for host in known):
                taken.add(name)
                routes = self._hashed(self._virtual_services.routes(item, number))
                hosts.append(VirtualHost(name=f"{name}:{number}", domains=(name,), routes=routes))
        hosts.append(self._elsewhere())
        return self._compiled(str(number), hosts, number)

    def _host(self, service: Service, port: Port, domains: tuple[str, ...]) -> VirtualHost:
        return VirtualHost(
            name=f"{service.hostname}:{port.number}",
            domains=domains,
            routes=self._hashed(self._routes(service, port)),
            says=self._says if self._context.shared.reaches_proxies(service) else (),
        )

    def _routes(self, service: Service, port: Port) -> tuple[Route, ...]:
        item = self._virtual_services.of(service.hostname)
        if item is not None and item.spec.http:
            return self._virtual_services.routes(item, port.number)
        attached = http_routes.attached(self._context, service, port)
        if attached:
            return http_routes.routes(self._context, attached, port.number)
        backend = Backend(cluster=cluster_name("outbound", port.number, "", service.hostname))
        return (Route(name="default", match=RouteMatch(), action=Forward(backends=(backend,), retry=DEFAULT_RETRY)),)

    def _elsewhere(self) -> VirtualHost:
        action: Forward | Answer
        if self._context.scope.outbound_policy == "ALLOW_ANY":
            name, action = "allow_any", Forward(backends=(Backend(cluster=PASSTHROUGH),))
        else:
            name, action = "block_all", Answer(status=BLOCKED_STATUS)
        return VirtualHost(name=name, domains=("*",), routes=(Route(name=name, match=RouteMatch(), action=action),))

    def _hashed(self, routes: Iterable[Route]) -> tuple[Route, ...]:
        return tuple(self._with_hashes(route) for route in routes)

    def _with_hashes(self, route: Route) -> Route:
        if not isinstance(route.action, Forward):
            return route
        wanted = {self._hashes[item.cluster]: None for item in route.action.backends if item.cluster in self._hashes}
        return replace(route, action=replace(route.action, hashes=tuple(wanted))) if wanted else route

    def _compiled(self, name: str, hosts: list[VirtualHost], port: int) -> Compiled:
        clusters: set[str] = set()
        origins: dict[str, None] = {}
        for host in hosts:
            for route in host.routes:
                if route.origin:
                    origins[route.origin] = None
                if isinstance(route.action, Forward):
                    clusters.update(backend.cluster for backend in route.action.backends)
                    clusters.update(mirror.cluster for mirror in route.action.mirrors)
        message = RouteConfiguration(
            name=name,
            virtual_hosts=[virtual_host(host, port) for host in hosts],
            ignore_port_in_host_matching=True,
            validate_clusters=FALSE,
        )
        return Compiled(message, frozenset(clusters), tuple(origins))


def _addresses(service: Service) -> tuple[str, ...]:
    return tuple(address for address in service.addresses if "/" not in address)
