"""All mesh configuration at one instant, as immutable values.

Invariants: objects of a kind are in age order (the older wins a conflict); `digest` is a function of what the
objects say and of that order, not of files, times or generations, so two snapshots with one digest mean the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from mesh.config.types import (
    SPEC_TYPES,
    AuthorizationPolicy,
    DestinationRule,
    Gateway,
    HTTPRoute,
    PeerAuthentication,
    RequestAuthentication,
    ServiceEntry,
    Sidecar,
    VirtualService,
)

T = TypeVar("T", covariant=True)

ROOT_NAMESPACE = "istio-system"
"""Policies of this namespace without a selector apply to the whole mesh, as in Istio."""


class ConfigMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Where an object comes from, and its age."""

    created: str = ""
    """UTC, as `2026-01-31T12:00:00.000000Z`: sorts as text. Without a `creationTimestamp`, when it was first seen."""
    generation: int = 1
    """Counts changes of the object, from 1."""
    file: str = ""
    line: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Config(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One object. `spec` is of the type that `mesh.config.types` has for its kind."""

    kind: str
    namespace: str
    name: str
    spec: T
    meta: ConfigMeta = ConfigMeta()

    @property
    def ref(self) -> str:
        """`Kind/namespace/name`: how a resource's origin names it."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def age(self) -> tuple[str, str, str]:
        """Sort key, oldest first; equal times are settled by (namespace, name)."""
        return (self.meta.created, self.namespace, self.name)


class ConfigSnapshot:
    """Objects by kind, oldest first. Immutable, although nothing but convention stops a determined caller."""

    def __init__(self, configs: Iterable[Config[Any]] = ()) -> None:
        by_kind: dict[str, list[Config[Any]]] = {kind: [] for kind in SPEC_TYPES}
        for config in configs:
            by_kind[config.kind].append(config)
        self._by_kind = {kind: tuple(sorted(items, key=lambda config: config.age)) for kind, items in by_kind.items()}

    @property
    def all(self) -> tuple[Config[Any], ...]:
        """Every object: by kind, then oldest first."""
        return tuple(config for items in self._by_kind.values() for config in items)

    @cached_property
    def by_ref(self) -> dict[str, Config[Any]]:
        """`Kind/namespace/name` to the object."""
        return {config.ref: config for config in self.all}

    @property
    def virtual_services(self) -> tuple[Config[VirtualService], ...]:
        return self._by_kind["VirtualService"]

    @property
    def destination_rules(self) -> tuple[Config[DestinationRule], ...]:
        return self._by_kind["DestinationRule"]

    @property
    def service_entries(self) -> tuple[Config[ServiceEntry], ...]:
        return self._by_kind["ServiceEntry"]

    @property
    def gateways(self) -> tuple[Config[Gateway], ...]:
        return self._by_kind["Gateway"]

    @property
    def sidecars(self) -> tuple[Config[Sidecar], ...]:
        return self._by_kind["Sidecar"]

    @property
    def peer_authentications(self) -> tuple[Config[PeerAuthentication], ...]:
        return self._by_kind["PeerAuthentication"]

    @property
    def authorization_policies(self) -> tuple[Config[AuthorizationPolicy], ...]:
        return self._by_kind["AuthorizationPolicy"]

    @property
    def request_authentications(self) -> tuple[Config[RequestAuthentication], ...]:
        return self._by_kind["RequestAuthentication"]

    @property
    def http_routes(self) -> tuple[Config[HTTPRoute], ...]:
        return self._by_kind["HTTPRoute"]

    @cached_property
    def digest(self) -> str:
        hasher = hashlib.blake2b(digest_size=16)
        for config in self.all:
            said = [
                config.kind,
                config.namespace,
                config.name,
                config.meta.labels,
                config.meta.annotations,
                config.spec,
            ]
            hasher.update(msgspec.json.encode(said, enc_hook=float, order="deterministic"))
            hasher.update(b"\n")
        return hasher.hexdigest()

    def __len__(self) -> int:
        return sum(len(items) for items in self._by_kind.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigSnapshot) and self._by_kind == other._by_kind

    def __hash__(self) -> int:
        return hash(self.digest)


EMPTY = ConfigSnapshot()
