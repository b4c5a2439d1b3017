"""A small world of services, as the registry would describe it, and configuration from YAML text."""

from __future__ import annotations

from typing import Any

from manifests import load_text
from mesh.compile import Compiler
from mesh.config.checks import check_object
from mesh.config.checks.findings import Findings
from mesh.config.decode import decode_config
from mesh.config.snapshot import ConfigSnapshot
from mesh.registry.types import Endpoint, Port, Registry, Service, Workload
from mesh.resource import Resource, ResourceSet
from mesh.settings import MeshSettings
from mesh.view import ViewKey, view_key

NAMESPACE = "bookinfo"


def host(name: str, namespace: str = NAMESPACE) -> str:
    return f"{name}.{namespace}.svc.cluster.local"


class World:
    """Grows by `service` and `pod`; `registry` is the result."""

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self._workloads: dict[tuple[str, str], Workload] = {}

    def service(
        self,
        name: str,
        *ports: Port,
        namespace: str = NAMESPACE,
        address: str | None = None,
        selector: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Service:
        if address is None:
            address = f"10.96.0.{len(self._services) + 1}"
        service = Service(
            hostname=kwargs.pop("hostname", host(name, namespace)),
            namespace=namespace,
            name=name,
            ports=ports or (Port(number=9080, name="http", protocol="http", target=9080),),
            addresses=(address,) if address else (),
            resolution=kwargs.pop("resolution", "endpoints"),
            selector={"app": name} if selector is None else selector,
            created=("2026-01-01T00:00:00Z", namespace, name),
            **kwargs,
        )
        self._services[service.hostname] = service
        return service

    def pod(
        self,
        name: str,
        address: str,
        labels: dict[str, str] | None = None,
        namespace: str = NAMESPACE,
        meshed: bool = True,
        ready: bool = True,
        service_account: str = "",
    ) -> Workload:
        labels = labels or {"app": name}
        workload = Workload(
            namespace=namespace,
            name=name,
            address=address,
            labels=labels,
            service_account=service_account or f"{NAMESPACE}-{labels.get('app', name)}",
            meshed=meshed,
            ready=ready,
        )
        self._workloads[namespace, name] = workload
        return workload

    @property
    def registry(self) -> Registry:
        endpoints: dict[tuple[str, int], tuple[Endpoint, ...]] = {}
        for service in self._services.values():
            for port in service.ports:
                endpoints[service.hostname, port.number] = tuple(
                    Endpoint(
                        address=pod.address,
                        port=port.target if isinstance(port.target, int) else pod.ports[port.target],
                        labels=pod.labels,
                        namespace=pod.namespace,
                        service_account=pod.service_account,
                        workload=pod.name,
                        meshed=pod.meshed,
                        ready=pod.ready,
                    )
                    for pod in self._workloads.values()
                    if pod.ready
                    and pod.namespace == service.namespace
                    and service.selector
                    and all(pod.labels.get(key) == value for key, value in service.selector.items())
                )
        namespaces = {pod.namespace: {} for pod in self._workloads.values()}
        return Registry(services=self._services, endpoints=endpoints, workloads=self._workloads, namespaces=namespaces)

    def view(self, name: str, namespace: str = NAMESPACE) -> ViewKey:
        pod = self._workloads[namespace, name]
        return view_key(namespace, dict(pod.labels), pod.service_account)

    def compile(self, name: str, config: str = "", settings: MeshSettings | None = None) -> ResourceSet:
        return self.compile_for(self.view(name), config, settings)

    def compile_for(self, view: ViewKey, config: str = "", settings: MeshSettings | None = None) -> ResourceSet:
        return Compiler(snapshot(config), self.registry, settings or MeshSettings())(view)


def bookinfo() -> World:
    world = World()
    for name in ("productpage", "details", "reviews", "ratings"):
        world.service(name)
    world.pod("client", "10.244.0.2")
    world.pod("productpage-v1", "10.244.0.3", {"app": "productpage", "version": "v1"})
    world.pod("details-v1", "10.244.0.4", {"app": "details", "version": "v1"})
    world.pod("ratings-v1", "10.244.0.5", {"app": "ratings", "version": "v1"})
    for number in (1, 2, 3):
        labels = {"app": "reviews", "version": f"v{number}"}
        world.pod(f"reviews-v{number}", f"10.244.0.{5 + number}", labels)
    return world


def snapshot(text: str) -> ConfigSnapshot:
    """Configuration as the mesh reads it; later objects are younger. Objects it would refuse fail the test."""
    configs = []
    for number, document in enumerate(load_text(text, "test.yaml") if text.strip() else ()):
        config = decode_config(document, created=f"2026-01-01T00:00:{number:02d}.000000Z")
        findings = Findings(document)
        check_object(config, findings)
        assert not findings.errors, findings.errors
        configs.append(config)
    return ConfigSnapshot(configs)


def message(resource: Resource, kind: Any) -> Any:
    return kind.FromString(resource.body)
