"""`virtualInbound`: what reaches the pod, and on which terms.

Each port has a chain for the mesh's TLS and, unless STRICT, one for plaintext. What matches no chain is closed without
an answer. Ports nobody declared follow the workload's own mode, so there is no way round STRICT.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.listener.v3.listener_pb2 import Listener

from mesh.compile import filters, tls
from mesh.compile.clusters import BLACK_HOLE, BUFFER_LIMIT, INBOUND_PASSTHROUGH
from mesh.compile.jwt import authentication
from mesh.compile.listener import (
    HTTP1_DETECTED,
    HTTP2_DETECTED,
    chain,
    http_inspector,
    original_destination,
    tls_inspector,
)
from mesh.compile.rbac import network_rules
from mesh.compile.telemetry import Reporter, Security, refused_connections
from mesh.compile.wire import TRUE, address, milliseconds, packed, u32
from mesh.model.authn import Mode
from mesh.model.authz import policies
from mesh.model.context import HTTP_PROTOCOLS, Context
from mesh.model.hosts import cluster_name
from mesh.settings import ALPN_TCP, INBOUND_PORT, MESH_ALPN, MESH_HTTP_ALPN, PEER_HEADER

VIRTUAL_INBOUND = "virtualInbound"

NETWORK_RBAC = "envoy.filters.network.rbac"

_STANDARD_HTTP_ALPN = ("h2", "http/1.1")


class _Port:
    """One destination port's chains."""

    def __init__(
        self,
        context: Context,
        reporter: Reporter,
        number: int | None,
        protocol: str,
        cluster: str,
        service: tuple[str, str, str],
    ) -> None:
        self._context = context
        self._reporter = reporter
        self.number = number
        self._protocol = protocol
        self._cluster = cluster
        self._service = service
        self._name = str(number) if number is not None else "any"
        self.mode: Mode = context.modes.of(context.view.namespace, context.labels).of(number or 0)

    def _http(self, security: Security) -> list[Any]:
        chain_filters = [
            authentication(),
            filters.authorization(filters.HTTP_RBAC_DENY),
            filters.authorization(filters.HTTP_RBAC_ALLOW),
        ]
        mutual = security == "mutual_tls"
        if mutual and self._context.settings.telemetry:
            chain_filters.insert(0, filters.peer_facts())
        protocol = "grpc" if self._protocol == "grpc" else "http"
        return [
            filters.http_manager(
                stat_prefix=f"inbound_{self._name}",
                route=self._cluster,
                filters=chain_filters,
                access_log=self._reporter.http_server(self._service, protocol, security),
                inbound=True,
                strip=() if mutual and self._context.settings.telemetry else (PEER_HEADER,),
            )
        ]

    def _tcp(self, security: Security) -> list[Any]:
        context = self._context
        held = policies(context)
        chain_filters = []
        for action, items in (("DENY", held.deny), ("ALLOW", held.allow)):
            if items:
                rules = network_rules(action, items, context.settings.trust_domain, "tcp.")  # type: ignore[arg-type]
                chain_filters.append(Filter(name=NETWORK_RBAC, typed_config=packed(rules)))
        log = self._reporter.tcp_server(self._service, security)
        return [*chain_filters, filters.tcp_proxy(f"inbound_{self._name}", [(self._cluster, 1)], log)]

    def chains(self) -> list[Any]:
        if self._protocol in HTTP_PROTOCOLS:
            return list(self._declared(self._http, tls.SERVER_ALPN_HTTP, other_tls=False))
        if self._protocol == "auto":
            return list(self._undeclared())
        return list(self._declared(self._tcp, tls.SERVER_ALPN_TCP, other_tls=True))

    def _secure(self, alpn: tuple[str, ...]) -> Any:
        return tls.mesh_server(self._context.settings, alpn)

    def _declared(self, build: Any, server_alpn: tuple[str, ...], other_tls: bool) -> Any:
        name, port = self._name, self.number
        if self.mode != "DISABLE":
            # STRICT takes every TLS connection to the handshake, where it must show a certificate of the mesh.
            alpn = () if self.mode == "STRICT" else MESH_ALPN
            yield chain(
                f"{name}-mtls",
                build("mutual_tls"),
                port=port,
                transport="tls",
                alpn=alpn,
                socket=self._secure(server_alpn),
            )
        if self.mode == "PERMISSIVE":
            yield chain(f"{name}-plain", build("none"), port=port, transport="raw_buffer")
            if other_tls:
                yield chain(f"{name}-app-tls", build("none"), port=port, transport="tls")
        if self.mode == "DISABLE":
            yield chain(f"{name}-plain", build("none"), port=port)

    def _undeclared(self) -> Any:
        """HTTP is known by ALPN inside the mesh's TLS, and by its first bytes outside."""
        name, port = self._name, self.number
        if self.mode != "DISABLE":
            strict = self.mode == "STRICT"
            http_alpn = (*MESH_HTTP_ALPN, *_STANDARD_HTTP_ALPN) if strict else MESH_HTTP_ALPN
            yield chain(
                f"{name}-mtls-http",
                self._http("mutual_tls"),
                port=port,
                transport="tls",
                alpn=http_alpn,
                socket=self._secure(tls.SERVER_ALPN_HTTP),
            )
            yield chain(
                f"{name}-mtls",
                self._tcp("mutual_tls"),
                port=port,
                transport="tls",
                alpn=() if strict else (ALPN_TCP,),
                socket=self._secure(tls.SERVER_ALPN_TCP),
            )
        if self.mode != "STRICT":
            yield chain(
                f"{name}-plain-http",
                self._http("none"),
                port=port,
                transport="raw_buffer",
                alpn=(*HTTP1_DETECTED, *HTTP2_DETECTED),
            )
            yield chain(f"{name}-plain", self._tcp("none"), port=port, transport="raw_buffer")
            yield chain(f"{name}-app-tls", self._tcp("none"), port=port, transport="tls")

    @property
    def inspects_tls(self) -> bool:
        return self.mode != "DISABLE" or self._protocol == "auto"

    @property
    def inspects_http(self) -> bool:
        return self.mode != "STRICT" and self._protocol == "auto"


def _ports(context: Context) -> list[_Port]:
    reporter = Reporter(context)
    view = context.view
    unknown = ("unknown", "InboundPassthroughCluster", view.namespace)
    ports = [
        _Port(
            context,
            reporter,
            number,
            port.protocol,
            cluster_name("inbound", number, "", ""),
            (service.hostname, service.name, service.namespace),
        )
        for number, port, service in context.inbound_ports
    ]
    declared = {port.number for port in ports}
    modes = context.modes.of(view.namespace, context.labels)
    ports += [
        _Port(context, reporter, number, "auto", INBOUND_PASSTHROUGH, unknown)
        for number in modes.ports
        if number not in declared
    ]
    ports.append(_Port(context, reporter, None, "auto", INBOUND_PASSTHROUGH, unknown))
    return ports


def virtual_inbound(context: Context) -> Any:
    ports = _ports(context)
    known = [port for port in ports if port.number is not None]
    listener_filters = [original_destination()]
    if any(port.inspects_tls for port in ports):
        listener_filters.append(tls_inspector([port.number for port in known if port.number and not port.inspects_tls]))
    if any(port.inspects_http for port in ports):
        listener_filters.append(
            http_inspector([port.number for port in known if port.number and not port.inspects_http])
        )
    itself = chain(
        "virtualInbound-blackhole", [filters.tcp_proxy("blackhole", [(BLACK_HOLE, 1)], ())], port=INBOUND_PORT
    )
    return Listener(
        name=VIRTUAL_INBOUND,
        address=address("0.0.0.0", INBOUND_PORT),
        traffic_direction=TrafficDirection.INBOUND,
        filter_chains=[itself, *(chain_ for port in ports for chain_ in port.chains())],
        listener_filters=listener_filters,
        listener_filters_timeout=milliseconds(context.settings.protocol_detection_timeout_ms),
        continue_on_listener_filters_timeout=True,
        per_connection_buffer_limit_bytes=u32(BUFFER_LIMIT),
        access_log=refused_connections(context),
        enable_reuse_port=TRUE,
    )


def origins(context: Context) -> tuple[str, ...]:
    held = context.modes.of(context.view.namespace, context.labels).origins
    return (*held, *policies(context).origins)


__all__ = ["VIRTUAL_INBOUND", "origins", "virtual_inbound"]
