"""What an experiment would touch, found without touching it."""

from __future__ import annotations

import msgspec

from chaos.context import during
from chaos.experiment import Experiment, normal
from chaos.faults import EdgeFault, PodFault, ScaleToZero
from chaos.session import Fault, NotInjected
from chaos.targets import Workload, parse_edge, parse_workload, pods_of, resolve
from harness.substrate.api import PodInfo, World
from loadtests.spec import Second


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One fault and what it would hit now."""

    title: str
    hops: list[str]
    """Pod to pod, or pods."""


class _Dry:
    """A game day in which faults are noted and not made."""

    def __init__(self, world: World, namespace: str) -> None:
        self.namespace = namespace
        self._world = world
        self.faults: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        self.faults.append(fault)

    def heal(self) -> None:
        """Nothing was done."""

    def traffic(self, window: float) -> list[Second]:
        return []

    def pods(self, workload: Workload) -> list[PodInfo]:
        return pods_of(self._world, workload, needed=False)


def plan(world: World, experiment: Experiment) -> list[Target]:
    """The faults of the method in order. Raises `UnknownTarget` for what is not in the world, `NotInjected` for what
    is outside the blast radius."""
    dry = _Dry(world, experiment.settings.namespace)
    with during(dry):
        for step in experiment.method:
            if step.type == "action":
                step.provider.call()
    targets: list[Target] = []
    for fault in dry.faults:
        check(experiment, fault)
        targets.append(Target(title=fault.title, hops=_hops(world, fault)))
    return targets


def _hops(world: World, fault: Fault) -> list[str]:
    if isinstance(fault, EdgeFault):
        return [str(hop) for hop in resolve(world, fault.edge).hops]
    workload = _workload(fault)
    if workload is None:
        return []
    return [f"{pod.namespace}/{pod.name}" for pod in pods_of(world, workload)]


def _workload(fault: Fault) -> Workload | None:
    if isinstance(fault, PodFault):
        return fault.workload
    return fault.deployment if isinstance(fault, ScaleToZero) else None


def check(experiment: Experiment, fault: Fault) -> None:
    """Raises `NotInjected` when the fault reaches beyond what the experiment declares."""
    settings = experiment.settings
    edges = normal(settings.blast_radius.edges, parse_edge, settings.namespace)
    outside = [edge for edge in fault.edges if edge not in edges]
    workload = _workload(fault)
    if workload is not None and str(workload) not in normal(
        settings.blast_radius.workloads, parse_workload, settings.namespace
    ):
        outside.append(str(workload))
    if outside:
        raise NotInjected(f"{fault.title}: {', '.join(outside)} is outside the blast radius")
