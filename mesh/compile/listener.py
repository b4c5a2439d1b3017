"""What inbound and outbound listeners are made of: listener filters and filter chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.listener.v3.listener_components_pb2 import (
    FilterChain,
    FilterChainMatch,
    ListenerFilter,
    ListenerFilterChainMatchPredicate,
)
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.type.v3.range_pb2 import Int32Range

from mesh.compile.wire import cidr, packed, u32

HTTP1_DETECTED = ("http/1.0", "http/1.1")
HTTP2_DETECTED = ("h2c",)
"""What the HTTP inspector calls what it saw."""


def original_destination() -> Any:
    return ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=packed(OriginalDst()))


def tls_inspector(except_on: Iterable[int] = ()) -> Any:
    return _except_on(
        ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=packed(TlsInspector())), except_on
    )


def http_inspector(except_on: Iterable[int] = ()) -> Any:
    return _except_on(
        ListenerFilter(name="envoy.filters.listener.http_inspector", typed_config=packed(HttpInspector())), except_on
    )


def _except_on(message: Any, ports: Iterable[int]) -> Any:
    """Not on these destination ports: an inspector waits for the client's first bytes, which on a port where the server
    speaks first never come."""
    predicates = [
        ListenerFilterChainMatchPredicate(destination_port_range=Int32Range(start=port, end=port + 1))
        for port in sorted(ports)
    ]
    if len(predicates) == 1:
        message.filter_disabled.CopyFrom(predicates[0])
    elif predicates:
        message.filter_disabled.or_match.rules.extend(predicates)
    return message


def chain(
    name: str,
    filters: Sequence[Any],
    *,
    port: int | None = None,
    transport: str = "",
    alpn: Sequence[str] = (),
    server_names: Sequence[str] = (),
    prefixes: Sequence[str] = (),
    socket: Any = None,
) -> Any:
    return FilterChain(
        name=name,
        filters=filters,
        transport_socket=socket,
        filter_chain_match=FilterChainMatch(
            destination_port=u32(port) if port is not None else None,
            transport_protocol=transport,
            application_protocols=alpn,
            server_names=server_names,
            prefix_ranges=[cidr(prefix) for prefix in prefixes],
        ),
    )
