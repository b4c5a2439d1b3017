"""`meshproof status`: what runs, and whether it is ready."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshproof.exits import Exit

_PLAIN_WIDTH = 160
"""Columns when the output is no terminal, so that names are not cut for whoever reads it."""

if TYPE_CHECKING:
    from harness.substrate.local import LocalWorld


class PodStatus(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    name: str
    ip: str
    phase: str
    ready: bool
    meshed: bool
    restarts: int
    cpu_seconds: float
    rss_bytes: int
    netns: str
    """For `nsenter --net=`."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    name: str
    cluster_ip: str
    ports: dict[int, int | str]


class WorldStatus(msgspec.Struct, frozen=True, kw_only=True):
    world: str
    ready: bool
    attached: bool
    state_dir: str
    rejected_packets: int
    pods: list[PodStatus]
    services: list[ServiceStatus]
    problems: list[str]
    """Deployments short of pods, and why."""


def status(
    world: Annotated[str, typer.Option(metavar="NAME", help="One world; all of them when left out.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """What runs, and whether it is ready. Exit code 1 when something is not."""
    from harness.substrate.local import LocalWorld

    found = [overview(LocalWorld.attach(name)) for name in ([world] if world else LocalWorld.list())]
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    elif not found:
        print("no world is running; meshproof up starts one")
    else:
        for seen in found:
            print_overview(seen)
    return int(Exit.PASS if all(seen.ready for seen in found) else Exit.FAIL)


def overview(world: LocalWorld) -> WorldStatus:
    """Everything about `world` that `status` shows."""
    pods = world.pods()
    problems = []
    for deployment in world.deployments():
        ready = sum(pod.ready for pod in pods if (pod.namespace, pod.owner) == (deployment.namespace, deployment.name))
        if ready < deployment.replicas:
            reason = f": {deployment.problem}" if deployment.problem else ""
            problems.append(
                f"{deployment.namespace}/{deployment.name}: {ready} of {deployment.replicas} pods ready{reason}"
            )
    shown = []
    for pod in pods:
        usage = world.usage(pod.namespace, pod.name).values()
        shown.append(
            PodStatus(
                namespace=pod.namespace,
                name=pod.name,
                ip=pod.ip,
                phase=pod.phase,
                ready=pod.ready or pod.phase == "Succeeded",
                meshed=pod.meshed,
                restarts=sum(container.restarts for container in pod.containers),
                cpu_seconds=round(sum(one.cpu_seconds for one in usage), 3),
                rss_bytes=sum(one.rss_bytes for one in usage),
                netns=pod.netns,
            )
        )
    return WorldStatus(
        world=world.name,
        ready=not problems and all(pod.ready for pod in shown),
        attached=world.attached,
        state_dir=str(world.state_dir),
        rejected_packets=world.rejected(),
        pods=shown,
        services=[
            ServiceStatus(namespace=one.namespace, name=one.name, cluster_ip=one.cluster_ip, ports=one.ports)
            for one in world.services()
        ],
        problems=problems,
    )


def print_overview(seen: WorldStatus) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    refused = f", {seen.rejected_packets} packets to the outside refused" if seen.rejected_packets else ""
    verdict = "[green]ready[/]" if seen.ready else "[red]not ready[/]"
    console.print(f"[bold]{seen.world}[/]: {verdict}, {len(seen.pods)} pods{refused}   [dim]{seen.state_dir}[/]")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("namespace", "pod", "address", "state", "proxy", "restarts"):
        table.add_column(column, no_wrap=True)
    table.add_column("CPU s", justify="right")
    table.add_column("RSS MiB", justify="right")
    for pod in seen.pods:
        state = "ready" if pod.ready else f"[red]{pod.phase.lower()}, not ready[/]"
        restarts = str(pod.restarts) if pod.restarts else ""
        used = (f"{pod.cpu_seconds:.1f}", f"{pod.rss_bytes / 2**20:.0f}")
        table.add_row(pod.namespace, pod.name, pod.ip, state, "yes" if pod.meshed else "", restarts, *used)
    console.print(table)
    for problem in seen.problems:
        console.print(Text(problem, "red"))
