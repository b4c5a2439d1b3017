"""What the mesh knows of services and of what stands behind them, from whatever source. Immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec


class Port(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    name: str
    protocol: Literal["http", "http2", "grpc", "tcp", "tls", "https", "auto"]
    """From `appProtocol`, else the name's prefix up to `-` as Istio does; `auto` when neither says: detect on the
    wire."""
    target: int | str


class Service(msgspec.Struct, frozen=True, kw_only=True):
    hostname: str
    """Fully qualified: `reviews.bookinfo.svc.cluster.local`, or a ServiceEntry's host."""
    namespace: str
    name: str
    ports: tuple[Port, ...]
    addresses: tuple[str, ...]
    """Cluster IP or ServiceEntry addresses; empty for headless."""
    resolution: Literal["endpoints", "static", "dns", "none"]
    """Where endpoints come from: selected pods, listed, DNS, or the original destination."""
    mesh_external: bool = False
    export_to: tuple[str, ...] = ("*",)
    selector: Mapping[str, str] = {}
    created: tuple[str, str, str] = ("", "", "")
    """Age order: creation time, namespace, name."""
    subject_alt_names: tuple[str, ...] = ()


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    port: int
    labels: Mapping[str, str]
    namespace: str
    service_account: str
    workload: str
    meshed: bool
    """A sidecar terminates the mesh's TLS there (Istio's tlsMode=istio)."""
    ready: bool
    weight: int = 1
    locality: str = ""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One pod."""

    namespace: str
    name: str
    address: str
    labels: Mapping[str, str]
    service_account: str
    meshed: bool
    ready: bool
    ports: Mapping[str, int] = {}
    """Named container ports."""


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one instant."""

    services: Mapping[str, Service]
    """By hostname."""
    endpoints: Mapping[tuple[str, int], tuple[Endpoint, ...]]
    """By (hostname, service port), sorted; not-ready endpoints are absent."""
    workloads: Mapping[tuple[str, str], Workload]
    """By (namespace, name)."""
    namespaces: Mapping[str, Mapping[str, str]]
    """Name to labels."""
