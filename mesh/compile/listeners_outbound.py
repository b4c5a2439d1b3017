"""Outbound listeners: what the app sends, by the address it sent it to.

`virtualOutbound` takes every captured connection and hands it to the listener of its original destination. HTTP ports
share one listener per port number and are told apart by Host; TCP has a listener per service address; a port of
undeclared protocol has both, decided by the first bytes. Whatever nobody declared passes through or is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_pb2 import Listener

from mesh.compile import filters
from mesh.compile.clusters import BLACK_HOLE, BUFFER_LIMIT, PASSTHROUGH
from mesh.compile.listener import (
    HTTP1_DETECTED,
    HTTP2_DETECTED,
    chain,
    http_inspector,
    original_destination,
    tls_inspector,
)
from mesh.compile.telemetry import Reporter
from mesh.compile.tls import CLIENT_ALPN
from mesh.compile.wire import FALSE, TRUE, address, milliseconds, u32
from mesh.model.context import Context, speaks_http
from mesh.model.hosts import cluster_name
from mesh.model.virtual_services import VirtualServices
from mesh.registry.types import Port, Service
from mesh.resource import CLUSTER, ROUTE
from mesh.settings import OUTBOUND_PORT, RESERVED_PORTS

VIRTUAL_OUTBOUND = "virtualOutbound"
WILDCARD = "0.0.0.0"


def route_of_address(service: Service, port: Port) -> str:
    """Name of the routes of one service's port of undeclared protocol."""
    return f"{service.hostname}:{port.number}"


class Outbound:
    """All outbound listeners of one view, what each refers to, and which objects shaped it."""

    def __init__(self, context: Context, virtual_services: VirtualServices) -> None:
        self._context = context
        self._virtual_services = virtual_services
        self._reporter = Reporter(context)
        allowed = context.scope.outbound_policy == "ALLOW_ANY"
        self._elsewhere = PASSTHROUGH if allowed else BLACK_HOLE
        self._origins: dict[str, list[str]] = {}
        self._references: dict[str, set[tuple[str, str]]] = {}
        self._current = ""

    def origins_of(self, listener: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._origins.get(listener, ())))

    def references_of(self, listener: str) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(self._references.get(listener, ())))

    def _refers(self, type_url: str, name: str) -> None:
        self._references.setdefault(self._current, set()).add((type_url, name))

    def listeners(self) -> Mapping[str, Any]:
        self._current = VIRTUAL_OUTBOUND
        found: dict[str, Any] = {VIRTUAL_OUTBOUND: self._virtual()}
        services = sorted(self._context.scope.services.values(), key=lambda item: (item.created, item.hostname))
        http_ports = {
            port.number
            for service in services
            for port in service.ports
            if speaks_http(port) and port.number not in RESERVED_PORTS
        }
        for number in sorted(http_ports):
            name = self._current = f"{WILDCARD}_{number}"
            found[name] = self._listener(name, WILDCARD, number, [chain(name, [self._http(str(number))])])
        wildcard_tcp: dict[int, list[Any]] = {}
        for service in services:
            for port in service.ports:
                if speaks_http(port) or port.number in RESERVED_PORTS:
                    continue
                for host, number in self._addresses(service, port):
                    name = f"{host}_{number}"
                    if name not in found:
                        self._current = name
                        found[name] = self._for_address(name, host, number, service, port)
                if port.number not in http_ports:
                    self._current = f"{WILDCARD}_{port.number}"
                    wildcard_tcp.setdefault(port.number, []).extend(self._without_address(service, port))
        for number, chains in sorted(wildcard_tcp.items()):
            if chains:
                name = self._current = f"{WILDCARD}_{number}"
                found[name] = self._listener(
                    name, WILDCARD, number, _distinct(chains), [tls_inspector()], default=self._tcp_elsewhere()
                )
        return dict(sorted(found.items()))

    def _virtual(self) -> Any:
        self._refers(CLUSTER, BLACK_HOLE)
        itself = chain(
            "virtualOutbound-blackhole", [filters.tcp_proxy("blackhole", [(BLACK_HOLE, 1)], ())], port=OUTBOUND_PORT
        )
        return Listener(
            name=VIRTUAL_OUTBOUND,
            address=address(WILDCARD, OUTBOUND_PORT),
            traffic_direction=TrafficDirection.OUTBOUND,
            use_original_dst=TRUE,
            listener_filters=[original_destination()],
            filter_chains=[itself],
            default_filter_chain=self._tcp_elsewhere(),
            per_connection_buffer_limit_bytes=u32(BUFFER_LIMIT),
            enable_reuse_port=TRUE,
        )

    def _tcp_elsewhere(self) -> Any:
        log = self._reporter.tcp_client
        self._refers(CLUSTER, self._elsewhere)
        return chain("elsewhere", [filters.tcp_proxy(self._elsewhere, [(self._elsewhere, 1)], log)])

    def _http(self, route: str, alpn: Sequence[str] = ()) -> Any:
        self._refers(ROUTE, route)
        chain_filters = [filters.fault()]
        if alpn:
            chain_filters.insert(0, filters.upstream_alpn(alpn))
        return filters.http_manager(
            stat_prefix=f"outbound_{route}",
            route=route,
            filters=chain_filters,
            access_log=self._reporter.http_client,
            inbound=False,
        )

    def _listener(
        self,
        name: str,
        host: str,
        port: int,
        chains: Sequence[Any],
        listener_filters: Sequence[Any] = (),
        default: Any = None,
    ) -> Any:
        message = Listener(
            name=name,
            address=address(host, port),
            bind_to_port=FALSE,
            traffic_direction=TrafficDirection.OUTBOUND,
            filter_chains=chains,
            listener_filters=listener_filters,
            default_filter_chain=default,
            per_connection_buffer_limit_bytes=u32(BUFFER_LIMIT),
        )
        if listener_filters:
            message.listener_filters_timeout.CopyFrom(
                milliseconds(self._context.settings.protocol_detection_timeout_ms)
            )
            message.continue_on_listener_filters_timeout = True
        return message

    def _addresses(self, service: Service, port: Port) -> Iterable[tuple[str, int]]:
        """Where the app sends traffic meant for this service: its own addresses, or its pods' when it is headless."""
        hosts = [host for host in service.addresses if "/" not in host]
        if hosts:
            return [(host, port.number) for host in hosts]
        if service.resolution == "endpoints":
            members = self._context.registry.endpoints.get((service.hostname, port.number), ())
            return sorted({(member.address, member.port) for member in members})
        return []

    def _shares(self, service: Service, port: Port) -> tuple[tuple[str, int], ...]:
        shares, origins = self._virtual_services.tcp(service.hostname, port.number)
        self._origins.setdefault(self._current, []).extend(origins)
        if shares is None:
            shares = ((cluster_name("outbound", port.number, "", service.hostname), 1),)
        shares = shares or ((BLACK_HOLE, 1),)
        for name, _ in shares:
            self._refers(CLUSTER, name)
        return shares

    def _tcp(self, service: Service, port: Port) -> list[Any]:
        shares = self._shares(service, port)
        prefix = cluster_name("outbound", port.number, "", service.hostname)
        policy = self._context.rules(service).of(port.number)
        pool = policy.connection_pool.tcp if policy.connection_pool else None
        hashing = policy.load_balancer.consistent_hash if policy.load_balancer else None
        return [
            filters.tcp_proxy(
                prefix,
                shares,
                self._reporter.tcp_client,
                idle=pool.idle_timeout if pool else None,
                max_duration=pool.max_connection_duration if pool else None,
                by_source=bool(hashing and hashing.use_source_ip),
            )
        ]

    def _for_address(self, name: str, host: str, number: int, service: Service, port: Port) -> Any:
        tcp = self._tcp(service, port)
        if port.protocol != "auto":
            return self._listener(name, host, number, [chain(name, tcp)])
        route = route_of_address(service, port)
        chains = [
            chain(f"{name}-http", [self._http(route, CLIENT_ALPN["http"])], alpn=HTTP1_DETECTED),
            chain(f"{name}-h2", [self._http(route, CLIENT_ALPN["http2"])], alpn=HTTP2_DETECTED),
        ]
        return self._listener(name, host, number, chains, [http_inspector()], default=chain(name, tcp))

    def _without_address(self, service: Service, port: Port) -> Iterable[Any]:
        """TCP to services that have no address of their own: by range, by SNI, or by port alone."""
        ranges = [host for host in service.addresses if "/" in host]
        name = cluster_name("outbound", port.number, "", service.hostname)
        if not ranges and (service.addresses or service.resolution == "endpoints"):
            return []
        tcp = self._tcp(service, port)
        if ranges:
            return [chain(name, tcp, prefixes=ranges)]
        if port.protocol in ("tls", "https"):
            return [chain(name, tcp, transport="tls", server_names=[service.hostname])]
        return [chain(name, tcp)]


def _distinct(chains: Sequence[Any]) -> list[Any]:
    """Two chains that match the same would have Envoy refuse the listener; the older service's stays."""
    kept: dict[bytes, Any] = {}
    for item in chains:
        kept.setdefault(item.filter_chain_match.SerializeToString(deterministic=True), item)
    return list(kept.values())
