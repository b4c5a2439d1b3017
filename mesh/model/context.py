"""What one compilation knows: the inputs, and what they mean for a namespace and for one view, worked out once."""

from __future__ import annotations

from functools import cached_property

from mesh.config.snapshot import ConfigSnapshot
from mesh.model.authn import PeerModeIndex
from mesh.model.destination_rules import DestinationRules, Rules
from mesh.model.hosts import cluster_name
from mesh.model.matching import selects
from mesh.model.visibility import Scope
from mesh.registry.types import Port, Registry, Service, Workload
from mesh.settings import MeshSettings
from mesh.view import ViewKey

HTTP_PROTOCOLS = frozenset({"http", "http2", "grpc"})


def speaks_http(port: Port) -> bool:
    """Declared HTTP. `auto` may turn out to be, on the wire."""
    return port.protocol in HTTP_PROTOCOLS


class NamespaceContext:
    """What is the same for every workload of a namespace: nothing here knows labels or accounts."""

    def __init__(self, config: ConfigSnapshot, registry: Registry, namespace: str, settings: MeshSettings) -> None:
        self.config = config
        self.registry = registry
        self.namespace = namespace
        self.settings = settings
        self.modes = PeerModeIndex(config, settings.root_namespace)
        self._rules = DestinationRules(config, namespace, settings)
        self._rules_of: dict[str, Rules] = {}

    def rules(self, service: Service) -> Rules:
        found = self._rules_of.get(service.hostname)
        if found is None:
            found = self._rules_of[service.hostname] = self._rules.of(service.hostname, service.namespace)
        return found

    @cached_property
    def _labelled(self) -> dict[tuple[str, str, str], list[Workload]]:
        """(namespace, label, value) to the pods that have it, so that a selector need not look at every pod."""
        found: dict[tuple[str, str, str], list[Workload]] = {}
        for workload in self.registry.workloads.values():
            for label, value in workload.labels.items():
                found.setdefault((workload.namespace, label, value), []).append(workload)
        return found

    def behind(self, service: Service) -> tuple[Workload, ...]:
        """The pods a Service selects, ready or not."""
        if not service.selector:
            return ()
        candidates = min(
            (self._labelled.get((service.namespace, label, value), []) for label, value in service.selector.items()),
            key=len,
        )
        return tuple(workload for workload in candidates if selects(service.selector, workload.labels))

    def reaches_proxies(self, service: Service) -> bool:
        """Whether anything behind the service has a proxy to talk to."""
        return not service.mesh_external and any(workload.meshed for workload in self.behind(service))


class Context:
    """What is known of one view."""

    def __init__(self, shared: NamespaceContext, view: ViewKey) -> None:
        if view.namespace != shared.namespace:
            raise ValueError(f"view of namespace {view.namespace!r} in the context of {shared.namespace!r}")
        self.shared = shared
        self.view = view
        self.config, self.registry, self.settings = shared.config, shared.registry, shared.settings
        self.modes = shared.modes
        self.labels = dict(view.labels)
        self.scope = Scope(self.config, self.registry, view, self.settings)

    def rules(self, service: Service) -> Rules:
        return self.shared.rules(service)

    def cluster(self, host: str, subset: str, port: int | None, listener_port: int) -> str | None:
        """Name of the cluster a destination means, or None when there is no such service, port or subset.

        A destination without a port means the service's only port, else the port the request was sent to.
        """
        service = self.scope.service(host)
        if service is None:
            return None
        numbers = {item.number for item in service.ports}
        if port is None:
            port = next(iter(numbers)) if len(numbers) == 1 else listener_port
        if port not in numbers or (subset and subset not in self.rules(service).subsets):
            return None
        return cluster_name("outbound", port, subset, host)

    @cached_property
    def own_services(self) -> tuple[Service, ...]:
        """Services that select this view's workload, oldest first."""
        found = [
            service
            for service in self.registry.services.values()
            if service.namespace == self.view.namespace and service.selector and selects(service.selector, self.labels)
        ]
        return tuple(sorted(found, key=lambda service: (service.created, service.hostname)))

    @cached_property
    def own_workloads(self) -> tuple[Workload, ...]:
        """The pods of this view, by name."""
        return tuple(
            workload
            for _, workload in sorted(self.registry.workloads.items())
            if workload.namespace == self.view.namespace
            and workload.service_account == self.view.service_account
            and tuple(sorted(workload.labels.items())) == self.view.labels
        )

    @cached_property
    def inbound_ports(self) -> tuple[tuple[int, Port, Service], ...]:
        """(container port, service port, service) of every port a Service sends to this view; when Services disagree on
        one container port, the oldest decides its protocol."""
        named: dict[str, int] = {}
        for workload in self.own_workloads:
            for name, number in workload.ports.items():
                named.setdefault(name, number)
        ports: dict[int, tuple[int, Port, Service]] = {}
        for service in self.own_services:
            for port in service.ports:
                target = port.target if isinstance(port.target, int) else named.get(port.target)
                if target is not None:
                    ports.setdefault(target, (target, port, service))
        return tuple(ports[number] for number in sorted(ports))
