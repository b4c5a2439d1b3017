"""DestinationRule: which rule holds for a service, and what policy that gives a port or a subset.

The client's namespace is asked first, then the service's, then the root namespace; the first that has a rule for the
host ends the search. Inside it the most specific host wins; rules of one host merge: the first traffic policy holds,
new subsets are appended. A port-level setting replaces pool, outlier detection, load balancer and TLS whole; a subset
overrides field by field.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mesh.config.snapshot import Config, ConfigSnapshot
from mesh.config.types import DestinationRule
from mesh.config.types.istio_networking import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    LoadBalancerSettings,
    OutlierDetection,
    Subset,
    TrafficPolicy,
)
from mesh.model.hosts import most_specific, qualified
from mesh.model.visibility import exported
from mesh.settings import MeshSettings


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one cluster."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Every DestinationRule that holds for one service, merged."""

    policy: TrafficPolicy | None = None
    subsets: Mapping[str, Subset] = {}
    origins: tuple[str, ...] = ()

    def of(self, port: int, subset: str = "") -> Policy:
        """The policy of the service's `port`; of its `subset`, when one is named."""
        policy = _override(Policy(), self.policy, port)
        if subset:
            policy = _override(policy, self.subsets[subset].traffic_policy, port)
        return policy


NO_RULES = Rules()


def _override(base: Policy, over: TrafficPolicy | None, port: int) -> Policy:
    if over is None:
        return base
    for level in over.port_level_settings:
        if level.port.number == port:
            return Policy(
                load_balancer=level.load_balancer,
                connection_pool=level.connection_pool,
                outlier_detection=level.outlier_detection,
                tls=level.tls,
            )
    return Policy(
        load_balancer=over.load_balancer or base.load_balancer,
        connection_pool=over.connection_pool or base.connection_pool,
        outlier_detection=over.outlier_detection or base.outlier_detection,
        tls=over.tls or base.tls,
    )


class DestinationRules:
    """The rules one client namespace sees."""

    def __init__(self, config: ConfigSnapshot, namespace: str, settings: MeshSettings) -> None:
        self._client = namespace
        self._root = settings.root_namespace
        self._by_namespace: dict[str, dict[str, list[Config[DestinationRule]]]] = {}
        for item in config.destination_rules:
            if exported(item.spec.export_to, item.namespace, namespace):
                host = qualified(item.spec.host, item.namespace, settings.cluster_domain)
                self._by_namespace.setdefault(item.namespace, {}).setdefault(host, []).append(item)

    def of(self, host: str, service_namespace: str) -> Rules:
        for namespace in (self._client, service_namespace, self._root):
            hosts = self._by_namespace.get(namespace)
            if not hosts:
                continue
            pattern = host if host in hosts else most_specific(hosts, host)
            if pattern is not None:
                return _merge(hosts[pattern])
        return NO_RULES


def _merge(items: list[Config[DestinationRule]]) -> Rules:
    policy: TrafficPolicy | None = None
    subsets: dict[str, Subset] = {}
    for item in items:
        policy = policy or item.spec.traffic_policy
        for subset in item.spec.subsets:
            subsets.setdefault(subset.name, subset)
    return Rules(policy=policy, subsets=subsets, origins=tuple(item.ref for item in items))
