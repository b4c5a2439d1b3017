"""Who may see what: `exportTo` and the `Sidecar` egress scope.

Invariant: what a workload cannot see is in none of its resources, so it can neither route to it nor learn of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.config.snapshot import Config, ConfigSnapshot
from mesh.config.types import Sidecar, VirtualService
from mesh.model.hosts import covers, qualified
from mesh.model.matching import selects
from mesh.registry.types import Registry, Service
from mesh.settings import MeshSettings
from mesh.view import ViewKey


def exported(export_to: Iterable[str], owner: str, client: str) -> bool:
    """Whether an object of namespace `owner` is there for namespace `client`. `*` dominates, `~` hides; none is `*`."""
    targets = tuple(export_to) or ("*",)
    if "*" in targets:
        return True
    if "~" in targets:
        return False
    return client in targets or ("." in targets and client == owner)


def sidecar_of(config: ConfigSnapshot, view: ViewKey, settings: MeshSettings) -> Config[Sidecar] | None:
    """The one Sidecar that governs the workload: selected > its namespace's > the root namespace's; oldest of each."""
    labels = dict(view.labels)
    default: Config[Sidecar] | None = None
    root: Config[Sidecar] | None = None
    for item in config.sidecars:
        selector = item.spec.workload_selector.labels if item.spec.workload_selector else {}
        if item.namespace == view.namespace and selector and selects(selector, labels):
            return item
        if not selector and item.namespace == view.namespace:
            default = default or item
        elif not selector and item.namespace == settings.root_namespace:
            root = root or item
    return default or root


class Scope:
    """What one view may reach: services by hostname, in host order, and what becomes of everything else."""

    def __init__(self, config: ConfigSnapshot, registry: Registry, view: ViewKey, settings: MeshSettings) -> None:
        self.view = view
        self.exported = {
            host: service
            for host, service in sorted(registry.services.items())
            if exported(service.export_to, service.namespace, view.namespace)
        }
        """Everything exported to the view's namespace: what a route may name as its destination."""
        self.virtual_services = tuple(
            item
            for item in config.virtual_services
            if exported(item.spec.export_to, item.namespace, view.namespace)
            and (not item.spec.gateways or "mesh" in item.spec.gateways)
        )
        self.sidecar = sidecar_of(config, view, settings)
        egress = self._egress()
        if egress is None:
            self.services = self.exported
        else:
            wanted = {host for host, service in self.exported.items() if _reaches(egress, service.namespace, host)}
            self.virtual_services = tuple(
                item
                for item in self.virtual_services
                if any(
                    _reaches(egress, item.namespace, self._qualified(item, host, settings)) for host in item.spec.hosts
                )
            )
            for item in self.virtual_services:
                wanted.update(self._qualified(item, host, settings) for host in destination_hosts(item.spec))
            self.services = {host: service for host, service in self.exported.items() if host in wanted}
        self.outbound_policy = settings.outbound_policy
        if self.sidecar and self.sidecar.spec.outbound_traffic_policy:
            self.outbound_policy = self.sidecar.spec.outbound_traffic_policy.mode

    @staticmethod
    def _qualified(item: Config[VirtualService], host: str, settings: MeshSettings) -> str:
        return qualified(host, item.namespace, settings.cluster_domain)

    def _egress(self) -> list[tuple[str, str]] | None:
        """(namespace, host pattern) pairs, or None for no limit."""
        if self.sidecar is None or not self.sidecar.spec.egress:
            return None
        pairs = []
        for listener in self.sidecar.spec.egress:
            for entry in listener.hosts:
                namespace, _, host = entry.partition("/")
                pairs.append((self.view.namespace if namespace == "." else namespace, host))
        return pairs

    def service(self, host: str) -> Service | None:
        return self.services.get(host)


def _reaches(egress: list[tuple[str, str]], namespace: str, host: str) -> bool:
    return any(ns in ("*", namespace) and covers(pattern, host) for ns, pattern in egress if ns != "~")


def destination_hosts(spec: VirtualService) -> set[str]:
    """Every host the VirtualService may send traffic to, as written."""
    hosts: set[str] = set()
    for http in spec.http:
        hosts.update(entry.destination.host for entry in http.route)
        hosts.update(entry.destination.host for entry in http.mirrors)
        if http.mirror:
            hosts.add(http.mirror.host)
    for tcp in spec.tcp:
        hosts.update(entry.destination.host for entry in tcp.route)
    return hosts
