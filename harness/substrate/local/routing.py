"""Which pods stand behind a Service, what it is called and where it is: pure functions over Services and pods."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from typing import Final

import msgspec

from harness.substrate.api import ServiceInfo, SubstrateError
from harness.substrate.local import hosts
from harness.substrate.local.netfilter import ServicePortRule
from harness.substrate.local.network import SERVICE_NETWORK
from harness.substrate.local.pods import PodRunner
from manifests.kube import CoreObject, Service, ServicePort

HEADLESS: Final = "None"
_FIRST_SERVICE: Final = 10


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())


def endpoints(service: Service, pods: Iterable[PodRunner]) -> list[PodRunner]:
    """The pods that traffic to `service` may go to now."""
    if not service.spec.selector:
        return []
    return [
        pod
        for pod in pods
        if pod.namespace == service.metadata.namespace
        and pod.ip
        and selects(service.spec.selector, pod.pod.metadata.labels)
        and (pod.ready or (service.spec.publish_not_ready_addresses and not pod.deleting))
    ]


def target_port(port: ServicePort, pod: PodRunner) -> int | None:
    """The pod's port number behind a Service's port; None when the pod has no port of that name."""
    target = port.target_port if port.target_port is not None else port.port
    if isinstance(target, int):
        return target
    if target.isdigit():
        return int(target)
    for container in pod.pod.spec.containers:
        for declared in container.ports:
            if declared.name == target:
                return declared.container_port
    return None


def service_rules(services: Iterable[Service], pods: Iterable[PodRunner]) -> list[ServicePortRule]:
    everyone = list(pods)
    rules = []
    for service in services:
        if service.spec.cluster_ip == HEADLESS:
            continue
        behind = endpoints(service, everyone)
        for port in service.spec.ports:
            targets = [(pod.ip, target_port(port, pod)) for pod in behind]
            rules.append(
                ServicePortRule(
                    ip=service.spec.cluster_ip,
                    port=port.port,
                    endpoints=tuple(sorted((ip, number) for ip, number in targets if number is not None)),
                )
            )
    return sorted(rules, key=lambda rule: (rule.ip, rule.port))


def addresses(service: Service, pods: Iterable[PodRunner]) -> list[str]:
    """What the Service's name means: its own address, or those of its pods when it is headless."""
    if service.spec.cluster_ip != HEADLESS:
        return [service.spec.cluster_ip]
    return sorted(pod.ip for pod in endpoints(service, pods))


def host_lines(services: Iterable[Service], pods: Sequence[PodRunner], namespace: str) -> list[str]:
    """Lines of a hosts file for pods of `namespace`."""
    return [
        hosts.line(ip, hosts.service_names(service.metadata.name, service.metadata.namespace, namespace))
        for service in services
        for ip in addresses(service, pods)
    ]


def resolve(host: str, namespace: str, services: Sequence[Service], pods: Sequence[PodRunner]) -> str:
    try:
        return str(IPv4Address(host))
    except AddressValueError:
        pass
    names: dict[str, Service] = {}
    for service in services:
        for name in hosts.service_names(service.metadata.name, service.metadata.namespace, namespace):
            names[name] = service
    found = names.get(host.rstrip("."))
    if found is None:
        elsewhere = [name for name in names if name.partition(".")[0] == host and name.count(".") == 1]
        close = elsewhere or difflib.get_close_matches(host, names, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise SubstrateError(f"no Service is called {host!r} for pods of namespace {namespace}{hint}")
    places = addresses(found, pods)
    if not places:
        raise SubstrateError(f"{host} is headless and has no ready pod")
    return places[0]


def with_cluster_ip(service: Service, before: CoreObject | None, others: Iterable[Service]) -> Service:
    """`service` with an address: its own, the one it had, or the next free one."""
    if service.spec.cluster_ip:
        return service
    if isinstance(before, Service) and before.spec.cluster_ip not in {"", HEADLESS}:
        address = before.spec.cluster_ip
    else:
        used = {other.spec.cluster_ip for other in others}
        first = int(SERVICE_NETWORK.network_address) + _FIRST_SERVICE
        candidates = (str(IPv4Address(number)) for number in range(first, int(SERVICE_NETWORK.broadcast_address)))
        free = next((address for address in candidates if address not in used), None)
        if free is None:
            raise SubstrateError(f"no address is free in {SERVICE_NETWORK}")
        address = free
    spec = msgspec.structs.replace(service.spec, cluster_ip=address)
    return msgspec.structs.replace(service, spec=spec)


def service_info(service: Service) -> ServiceInfo:
    address = service.spec.cluster_ip
    return ServiceInfo(
        namespace=service.metadata.namespace,
        name=service.metadata.name,
        cluster_ip="" if address == HEADLESS else address,
        ports={
            port.port: port.target_port if port.target_port is not None else port.port for port in service.spec.ports
        },
    )
