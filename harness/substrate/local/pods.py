"""One pod: its network, volumes and containers, from creation to the last trace removed.

`run` is its life: set-up, init containers one after another, containers together, tear-down. `stop` ends it
gracefully. The Pod object that the rest of the world sees is `pod`, with its status up to date.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from harness.substrate.api import ContainerInfo, PodInfo, SubstrateError, Usage
from harness.substrate.local import cgroups, logfile, network, quantities, variables
from harness.substrate.local.cgroups import Group, Layout, Limits
from harness.substrate.local.containers import Program, Runner, base_environment, identity
from harness.substrate.local.hosts import HostsFile
from harness.substrate.local.network import Network, PodLink
from harness.substrate.local.paths import WorldPaths
from harness.substrate.local.processes import Launcher
from harness.substrate.local.rootfs import Bind, RootPlan
from harness.substrate.local.tokens import Issuer
from harness.substrate.local.volumes import Volumes
from manifests.kube import ConfigMap, Container, ContainerStatus, Pod, PodCondition, PodStatus

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

_REMOVALS: Final = 100
_REMOVAL_PAUSE_SECONDS: Final = 0.01


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod needs of its world."""

    paths: WorldPaths
    network: Network
    launcher: Launcher
    layout: Layout
    root: RootPlan
    issuer: Issuer
    config_maps: Callable[[str], Mapping[str, ConfigMap]]
    """ConfigMaps of a namespace, by name."""
    names: Callable[[str], list[str]]
    """Lines of the hosts file of a namespace's pods."""
    plumb: Callable[[PodLink, bool], None]
    """Add (or remove) the node's packet rule of a pod; runs on the network thread."""
    changed: Callable[[], None]
    """Something about a pod is different from before."""


class PodRunner:
    def __init__(self, pod: Pod, around: Surroundings, *, owner: str = "", template: str = "") -> None:
        self.pod = pod
        self.owner = owner
        """Name of the Deployment, empty for a bare pod."""
        self.template = template
        """Hash of the template it was made from."""
        self.deleting = False
        self.problem = ""
        """Why it cannot go on at present, for whoever waits for it."""
        self.gone = asyncio.Event()
        self._around = around
        self._folder = around.paths.pods / pod.metadata.uid
        self._netns = self._folder / "netns"
        self._link: PodLink | None = None
        self._volumes = Volumes(self._folder, pod, around.issuer)
        self._hosts: HostsFile | None = None
        self._init: list[Runner] = []
        self._containers: list[Runner] = []
        self._phase: Phase = "Pending"
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # --- what others see

    @property
    def namespace(self) -> str:
        return self.pod.metadata.namespace

    @property
    def name(self) -> str:
        return self.pod.metadata.name

    @property
    def ip(self) -> str:
        return self._link.ip if self._link is not None else ""

    @property
    def ready(self) -> bool:
        return (
            self._phase == "Running"
            and not self.deleting
            and bool(self._containers)
            and all(container.ready for container in self._containers)
        )

    @property
    def runners(self) -> list[Runner]:
        return [*self._init, *self._containers]

    @property
    def info(self) -> PodInfo:
        link = self._link
        return PodInfo(
            namespace=self.namespace,
            name=self.name,
            ip=self.ip,
            labels=dict(self.pod.metadata.labels),
            service_account=self.pod.spec.service_account_name,
            phase=self._phase,
            ready=self.ready,
            containers=self._container_infos(),
            interface=link.interface if link is not None else "",
            netns=str(self._netns) if link is not None else "",
            owner=self.owner,
        )

    def _container_infos(self) -> tuple[ContainerInfo, ...]:
        if self._containers:
            return tuple(runner.info for runner in self._containers)
        return tuple(ContainerInfo(name=spec.name, state="waiting") for spec in self.pod.spec.containers)

    def observe(self) -> Pod:
        """The Pod object, its status as things stand."""
        ready: Literal["True", "False"] = "True" if self.ready else "False"
        initialised: Literal["True", "False"] = "True" if self._phase != "Pending" else "False"
        status = PodStatus(
            phase=self._phase,
            pod_ip=self.ip,
            conditions=[
                PodCondition(type="Initialized", status=initialised),
                PodCondition(type="ContainersReady", status=ready),
                PodCondition(type="Ready", status=ready),
            ],
            container_statuses=[
                ContainerStatus(name=runner.spec.name, ready=runner.ready, restart_count=runner.restarts)
                for runner in self._containers
            ],
        )
        self.pod = msgspec.structs.replace(self.pod, status=status)
        return self.pod

    def update_metadata(self, pod: Pod) -> None:
        """Take over labels and annotations; the rest of a pod never changes."""
        metadata = msgspec.structs.replace(
            self.pod.metadata, labels=pod.metadata.labels, annotations=pod.metadata.annotations
        )
        self.pod = msgspec.structs.replace(self.pod, metadata=metadata)

    def describe(self) -> str:
        """Why it is not ready, with the last lines it said."""
        lines = [f"{self.namespace}/{self.name} ({self.ip or 'no address'}): {self._phase}"]
        if self.problem:
            lines.append(f"  {self.problem}")
        for runner in self.runners:
            if runner.ready or (runner in self._init and runner.state == "terminated" and runner.exit_code == 0):
                continue
            state = f"  container {runner.spec.name}: {runner.state}, not ready, {runner.restarts} restarts"
            lines.append(state + (f", last ended with {runner.last_exit}" if runner.last_exit else ""))
            lines += [f"    | {line}" for line in logfile.tail(runner.log, 10)]
        return "\n".join(lines)

    def declared(self, container: str) -> None:
        """Raises `SubstrateError` when the pod has no such container, started or not."""
        names = [spec.name for spec in (*self.pod.spec.init_containers, *self.pod.spec.containers)]
        if container not in names:
            place = f"{self.namespace}/{self.name}"
            raise SubstrateError(f"pod {place} has no container {container!r}; it has: {', '.join(names)}")

    def runner(self, container: str) -> Runner:
        self.declared(container)
        for runner in self.runners:
            if runner.spec.name == container:
                return runner
        raise SubstrateError(f"pod {self.namespace}/{self.name} is being set up; it has no containers yet")

    def usage(self) -> dict[str, Usage]:
        nothing = Usage(cpu_seconds=0.0, rss_bytes=0, peak_rss_bytes=0)
        found = {runner.spec.name: runner.group.usage() for runner in self._containers}
        return {spec.name: found.get(spec.name, nothing) for spec in self.pod.spec.containers}

    def trim_logs(self) -> None:
        for runner in self.runners:
            logfile.trim(runner.log)

    def refresh(self) -> None:
        """Replace tokens that are due and files of ConfigMaps that changed."""
        if self._link is not None and not self.deleting:
            self._volumes.refresh_tokens()

    def write_config(self) -> None:
        if self._link is not None and not self.deleting:
            self._volumes.write_config(self._around.config_maps(self.namespace))

    def update_hosts(self, lines: list[str]) -> None:
        if self._hosts is not None:
            self._hosts.update([*lines, f"{self.ip} {self._hostname}"])

    @property
    def _hostname(self) -> str:
        return self.pod.spec.hostname or self.name

    # --- its life

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def abandon(self) -> None:
        """Stop looking after the pod, because its world ends."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._set_up()
            if await self._initialise():
                await self._live()
                if not self._stop.is_set():
                    self._around.changed()
            await self._stop.wait()
        except Exception as exc:
            self.problem = f"{type(exc).__name__}: {exc}"
            self._phase = "Failed"
            self._around.changed()
            await self._stop.wait()
        # Not in a `finally`: when the world goes, its pods are cancelled and the kernel clears up after all of them.
        await self._tear_down()
        self.gone.set()
        self._around.changed()

    async def _set_up(self) -> None:
        around = self._around
        self._folder.mkdir(parents=True)
        self._volumes.make(around.config_maps(self.namespace))
        self._hosts = HostsFile(self._folder / "hosts")
        link = await around.network.add(around.network.allocate())
        self._link = link
        self.update_hosts(around.names(self.namespace))
        # A name that is never given to another pod, unlike the descriptor's number.
        self._netns.symlink_to(f"/proc/{os.getpid()}/fd/{link.netns}")
        await around.network.run(lambda: around.plumb(link, True))
        self.pod = self.observe()
        self._init = [self._make_runner(spec, "OnFailure") for spec in self.pod.spec.init_containers]
        self._containers = [self._make_runner(spec, self.pod.spec.restart_policy) for spec in self.pod.spec.containers]
        self._around.changed()

    def _make_runner(self, spec: Container, restart: Literal["Always", "OnFailure", "Never"]) -> Runner:
        assert self._link is not None
        paths = self._around.paths
        limits = spec.resources.limits if spec.resources is not None else {}
        group = Group(
            self._around.layout,
            f"{paths.name}/{self.namespace}.{self.name}/{spec.name}",
            Limits(
                cpus=quantities.quantity(limits["cpu"]) if "cpu" in limits else None,
                memory_bytes=int(quantities.quantity(limits["memory"])) if "memory" in limits else None,
            ),
        )
        return Runner(
            spec,
            identity(self.pod.spec, spec),
            launcher=self._around.launcher,
            netns=self._link.netns,
            hostname=self._hostname,
            group=group,
            log=paths.logs / f"{self.namespace}.{self.name}.{spec.name}.log",
            restart=restart,
            grace=self.pod.spec.termination_grace_period_seconds,
            prepare=self._prepare,
            changed=self._around.changed,
        )

    def _prepare(self, container: Container) -> Program:
        around = self._around
        config_maps = around.config_maps(self.namespace)
        env = variables.environment(self.pod, container, config_maps, base_environment(self._hostname), network.NODE_IP)
        assert self._hosts is not None
        files = {"/etc/hosts": str(self._hosts.path), **around.paths.resolver_files}
        binds = [Bind(source=source, target=target, read_only=True) for target, source in files.items()]
        binds += self._volumes.binds(container)
        return Program(
            argv=variables.command_line(container, env),
            env=env,
            cwd=container.working_dir or "/",
            root=msgspec.structs.replace(around.root, binds=tuple(binds)),
        )

    async def _initialise(self) -> bool:
        """Run the init containers in order; whether the pod is to go on."""
        for runner in self._init:
            if self._stop.is_set():
                return False
            await runner.run()
            if runner.exit_code != 0:
                if not self._stop.is_set():
                    self._phase = "Failed"
                    self.problem = f"init container {runner.spec.name} ended with {runner.last_exit}"
                    self._around.changed()
                return False
        return not self._stop.is_set()

    async def _live(self) -> None:
        self._phase = "Running"
        self._around.changed()
        async with asyncio.TaskGroup() as group:
            for runner in self._containers:
                group.create_task(runner.run())
        self._phase = "Succeeded" if all(runner.exit_code == 0 for runner in self._containers) else "Failed"

    async def stop(self, grace: float | None = None) -> None:
        """SIGTERM to all containers together, SIGKILL after the grace period; returns when no trace is left."""
        self.deleting = True
        self._stop.set()
        limit = self.pod.spec.termination_grace_period_seconds if grace is None else grace
        await asyncio.gather(*(runner.stop(limit) for runner in self.runners))
        await self.gone.wait()

    async def _tear_down(self) -> None:
        for runner in self.runners:
            runner.group.kill()
        if self._link is not None:
            link, self._link = self._link, None
            self._netns.unlink(missing_ok=True)
            await self._around.network.run(lambda: self._around.plumb(link, False))
            await self._around.network.remove(link)
        shutil.rmtree(self._folder, ignore_errors=True)
        group = f"{self._around.paths.name}/{self.namespace}.{self.name}"
        for _ in range(_REMOVALS):
            if cgroups.remove_group(self._around.layout, group):
                break
            await asyncio.sleep(_REMOVAL_PAUSE_SECONDS)  # killed processes take a moment to be gone
