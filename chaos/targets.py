"""Names of an experiment to what they mean in a world now: pods, addresses, ports.

An edge is written `[namespace/]source->[namespace/]destination[:port]`. A name is, in this order, an `app` label, a
Deployment, or a pod; so `reviews` is every reviews pod and `reviews-v2` those of one version. Pods come and go;
what is resolved here holds for the moment it was resolved.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from chaos.sockets import Endpoint
from harness.substrate.api import PodInfo, World

_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_SIDE = re.compile(rf"(?:(?P<namespace>{_NAME})/)?(?P<name>{_NAME})")
_DESTINATION = re.compile(rf"(?:(?P<namespace>{_NAME})/)?(?P<name>{_NAME})(?::(?P<port>[0-9]{{1,5}}))?")


class UnknownTarget(Exception):
    """A name that means nothing in this world; the message says what there is."""


class Workload(msgspec.Struct, frozen=True):
    """A name in a namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class EdgeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one workload to another, on one port or on all ports of its Services."""

    source: Workload
    destination: Workload
    port: int = 0
    """0: every port that a Service of the destination leads to."""

    def __str__(self) -> str:
        return f"{self.source}->{self.destination}" + (f":{self.port}" if self.port else "")


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a Service, as packets know it."""

    address: Endpoint
    backends: tuple[Endpoint, ...]
    """Ready endpoints, in the order of their addresses."""


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One source pod and one destination address of an edge."""

    source: PodInfo
    destination: PodInfo
    port: int

    @property
    def endpoint(self) -> Endpoint:
        return (self.destination.ip, self.port)

    def __str__(self) -> str:
        return f"{self.source.namespace}/{self.source.name}->{self.destination.namespace}/{self.destination.name}"


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge is now."""

    hops: tuple[Hop, ...]
    services: tuple[Service, ...]
    """Service ports that lead to a destination of the edge."""


def parse_workload(text: str, namespace: str) -> Workload:
    """`[namespace/]name`. Raises `ValueError`."""
    match = _SIDE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a workload; expected [namespace/]name, such as bookinfo/reviews-v2")
    return Workload(match["namespace"] or namespace, match["name"])


def parse_edge(text: str, namespace: str = "default") -> EdgeSpec:
    """`[namespace/]source->[namespace/]destination[:port]`. Raises `ValueError`."""
    source, arrow, rest = text.partition("->")
    match = _DESTINATION.fullmatch(rest.strip())
    if not arrow or match is None:
        raise ValueError(
            f"{text!r} is not an edge; expected [namespace/]source->[namespace/]destination[:port], "
            "such as reviews->ratings"
        )
    port = int(match["port"] or 0)
    if port > 65535:
        raise ValueError(f"{text!r} names port {port}; expected at most 65535")
    return EdgeSpec(
        source=parse_workload(source, namespace),
        destination=Workload(match["namespace"] or namespace, match["name"]),
        port=port,
    )


def pods_of(world: World, workload: Workload, *, needed: bool = True) -> list[PodInfo]:
    """The workload's pods, by name. Raises `UnknownTarget` when there are none and some are needed."""
    pods = world.pods(workload.namespace)
    for chosen in (
        [pod for pod in pods if pod.labels.get("app") == workload.name],
        [pod for pod in pods if pod.owner == workload.name],
        [pod for pod in pods if pod.name == workload.name],
    ):
        if chosen:
            return sorted(chosen, key=lambda pod: pod.name)
    if not needed:
        return []
    names = sorted({name for pod in pods for name in (pod.labels.get("app"), pod.owner, pod.name) if name})
    guess = difflib.get_close_matches(workload.name, names, 1)
    raise UnknownTarget(
        f"no pod of {workload} runs; "
        + (f"did you mean {guess[0]}? " if guess else "")
        + f"namespace {workload.namespace} has {', '.join(names) or 'no pods'}"
    )


def resolve(world: World, edge: EdgeSpec, *, needed: bool = True) -> Resolved:
    """The edge's hops and Service addresses now. With `needed`, raises `UnknownTarget` when a side has no pod, or
    no port is known; without, such an edge has no hops (its pods may be on their way)."""
    sources = [pod for pod in pods_of(world, edge.source, needed=needed) if pod.ip]
    destinations = [pod for pod in pods_of(world, edge.destination, needed=needed) if pod.ip]
    for pod in (*sources, *destinations):
        if not pod.netns or not pod.interface:
            raise UnknownTarget(
                f"pod {pod.namespace}/{pod.name} has no node-side interface; faults on edges need the local substrate"
            )
    everyone = world.pods(edge.destination.namespace)
    ports: set[tuple[str, int]] = {(pod.ip, edge.port) for pod in destinations if edge.port}
    services: list[Service] = []
    addresses = {pod.ip for pod in destinations}
    for service in world.services(edge.destination.namespace):
        selector = _selector(world, service.namespace, service.name)
        members = [pod for pod in everyone if selector and selector.items() <= pod.labels.items() and pod.ip]
        if not any(pod.ip in addresses for pod in members):
            continue
        for number, target in service.ports.items():
            backends = [(pod, port) for pod in members if (port := _port(world, pod, target))]
            if edge.port and edge.port not in {port for _, port in backends}:
                continue
            ports |= {(pod.ip, port) for pod, port in backends if pod.ip in addresses}
            if service.cluster_ip:
                ready = sorted((pod.ip, port) for pod, port in backends if pod.ready)
                services.append(Service(address=(service.cluster_ip, number), backends=tuple(ready)))
    if needed and not ports:
        raise UnknownTarget(
            f"no Service leads to {edge.destination}, so its port is not known; write it: {edge}:<port>"
        )
    by_ip = {pod.ip: pod for pod in destinations}
    hops = [
        Hop(source=source, destination=by_ip[ip], port=port)
        for source in sources
        for ip, port in sorted(ports)
        if ip != source.ip  # what a pod sends to itself never passes the node
    ]
    return Resolved(hops=tuple(hops), services=tuple(services))


def _cluster_object(world: World, kind: str, namespace: str, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(
            (world.state_dir / "cluster" / f"{kind}.{namespace}.{name}.json").read_bytes()
        )
    except FileNotFoundError:
        return {}
    return found


def _selector(world: World, namespace: str, name: str) -> dict[str, str]:
    return dict(_cluster_object(world, "Service", namespace, name).get("spec", {}).get("selector") or {})


def _port(world: World, pod: PodInfo, target: int | str) -> int:
    """A target port's number in one pod; 0 when the pod has no port of that name."""
    if isinstance(target, int):
        return target
    containers: Iterable[dict[str, Any]] = (
        _cluster_object(world, "Pod", pod.namespace, pod.name).get("spec", {}).get("containers", [])
    )
    for container in containers:
        for port in container.get("ports", []):
            if port.get("name") == target:
                return int(port["containerPort"])
    return 0
