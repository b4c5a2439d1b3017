"""One container of a pod: started, probed, restarted with back-off, stopped.

`run` is its life. A container is *waiting* (not yet started, or between instances), *running*, *paused* or
*terminated* (its restart policy wants no further instance, or the pod goes).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from harness.substrate.api import ContainerInfo, SubstrateError
from harness.substrate.local import logfile, probes
from harness.substrate.local.cgroups import Group
from harness.substrate.local.launcher import Launch
from harness.substrate.local.processes import Launcher, LaunchError, Process
from harness.substrate.local.rootfs import RootPlan
from manifests.kube import Container, PodSpec, Probe

APP_UID: Final = 1000
"""Who an app runs as when its manifest does not say."""
BACK_OFF_SECONDS: Final = 0.2
BACK_OFF_LIMIT_SECONDS: Final = 5.0
HEALTHY_SECONDS: Final = 10.0
"""An instance that ran this long starts the back-off anew."""
_FIRST_PROBE_SECONDS: Final = 0.05
_FIRST_PROBE_GROWTH: Final = 1.5
"""Until a container is ready for the first time it is asked more often than its period, so that start-up time is the
program's own."""

State = Literal["waiting", "running", "paused", "terminated"]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    uid: int
    gid: int
    privileged: bool


def identity(spec: PodSpec, container: Container) -> Identity:
    """Who `container` runs as: its own security context, then its pod's, then uid 1000 (root when privileged)."""
    own, pod = container.security_context, spec.security_context
    privileged = own is not None and own.privileged
    uid = next(
        (context.run_as_user for context in (own, pod) if context is not None and context.run_as_user is not None),
        0 if privileged else APP_UID,
    )
    gid = next(
        (context.run_as_group for context in (own, pod) if context is not None and context.run_as_group is not None),
        uid,
    )
    return Identity(uid=uid, gid=gid, privileged=privileged)


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to execute, resolved."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    root: RootPlan


class Runner:
    """A container and whatever instance of it lives."""

    def __init__(
        self,
        spec: Container,
        who: Identity,
        *,
        launcher: Launcher,
        netns: int,
        hostname: str,
        group: Group,
        log: Path,
        restart: Literal["Always", "OnFailure", "Never"],
        grace: float,
        prepare: Callable[[Container], Program],
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.group = group
        self.log = log
        self.state: State = "waiting"
        self.ready = False
        self.restarts = 0
        self.last_exit = ""
        self.exit_code = 0
        self._who = who
        self._launcher = launcher
        self._netns = netns
        self._hostname = hostname
        self._policy = restart
        self._grace = grace
        self._prepare = prepare
        self._changed = changed
        self._process: Process | None = None
        self._program: Program | None = None
        self._stopping = False
        self._stop = asyncio.Event()
        self._at_once = False
        self._next_instance: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._verdict = ""
        """Why this world itself ended the present instance (a failed liveness probe)."""
        self._named_ports = {port.name: port.container_port for port in spec.ports if port.name}

    @property
    def info(self) -> ContainerInfo:
        return ContainerInfo(
            name=self.spec.name,
            state=self.state,
            pid=self._process.pid if self._process is not None else 0,
            restarts=self.restarts,
            ready=self.ready,
            last_exit=self.last_exit,
        )

    async def run(self) -> None:
        """Until no further instance is wanted."""
        delay = BACK_OFF_SECONDS
        loop = asyncio.get_running_loop()
        while not self._stopping:
            began = loop.time()
            await self._instance()
            if self._stopping or not self._wants_restart():
                break
            if loop.time() - began > HEALTHY_SECONDS:
                delay = BACK_OFF_SECONDS
            self._become("waiting")
            if not self._at_once:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), delay)
                delay = min(2 * delay, BACK_OFF_LIMIT_SECONDS)
            self._at_once = False
            self.restarts += 1
        self._become("terminated")
        self._next_instance.cancel()

    def _wants_restart(self) -> bool:
        if self._at_once or self._policy == "Always":
            return True
        return self._policy == "OnFailure" and self.exit_code != 0

    async def _instance(self) -> None:
        try:
            self._program = self._prepare(self.spec)
            output = logfile.open_log(self.log)
            # As container runtimes do: a program that opens /dev/stdout (Envoy's access log) opens this file by itself.
            os.fchown(output, self._who.uid, self._who.gid)
            process = await self._start(self._program.argv, self._program, output, root=self._program.root)
        except (OSError, KeyError, SubstrateError) as exc:
            self.exit_code = 128
            self.last_exit = f"could not start: {exc.args[0] if isinstance(exc, KeyError) else exc}"
            self._note(self.last_exit)
            return
        self._process = process
        if self._stopping:
            process.signal(signal.SIGKILL)  # told to stop while it was being started
        self._verdict = ""
        self._become("running", ready=self.spec.readiness_probe is None)
        self._next_instance.set_result(None)
        self._next_instance = asyncio.get_running_loop().create_future()
        watchers = [asyncio.create_task(self._liveness()), asyncio.create_task(self._readiness())]
        try:
            ended = await asyncio.shield(process.exited)
        finally:
            for watcher in watchers:
                watcher.cancel()
        self.group.note_peak(ended.peak_rss_bytes)
        self.exit_code = ended.code
        outcome = f"exit {ended.code}" if ended.code >= 0 else f"signal {-ended.code}"
        self.last_exit = f"{self._verdict}; {outcome}" if self._verdict else outcome
        self._process = None
        self.ready = False
        self.group.kill()  # what it left behind
        if self.state == "paused":
            self.group.thaw()

    async def _start(
        self, argv: tuple[str, ...], program: Program, output: int, *, root: RootPlan | None = None, join: int = 0
    ) -> Process:
        try:
            request = Launch(
                id=0,
                argv=argv,
                env=program.env,
                cwd=program.cwd,
                uid=self._who.uid,
                gid=self._who.gid,
                hostname=self._hostname,
                privileged=self._who.privileged,
                cgroups=self.group.joins,
                root=root,
                join=join,
            )
            return await self._launcher.launch(request, self._netns, output)
        finally:
            os.close(output)

    async def _exec(self, argv: tuple[str, ...]) -> int:
        """Run `argv` beside the container's process, as it and where it is; its exit code."""
        if self._process is None or self._program is None:
            return 1
        try:
            output = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            process = await self._start(argv, self._program, output, join=self._process.inner)
        except LaunchError as exc:
            self._note(f"exec probe: {exc}")
            return 126
        try:
            return (await asyncio.shield(process.exited)).code
        except asyncio.CancelledError:
            process.signal(signal.SIGKILL)
            raise

    def _note(self, text: str) -> None:
        """A line of ours in the container's log."""
        fd = logfile.open_log(self.log)
        try:
            os.write(fd, f"meshproof: {text}\n".encode(errors="replace"))
        finally:
            os.close(fd)

    def _become(self, state: State, *, ready: bool = False) -> None:
        self.state = state
        self.ready = ready
        self._changed()

    # --- probes

    async def _probe(self, probe: Probe) -> str:
        return await probes.check(probe, self._netns, self._named_ports, self._exec)

    async def _readiness(self) -> None:
        probe = self.spec.readiness_probe
        if probe is None:
            return
        await asyncio.sleep(probe.initial_delay_seconds)
        successes = failures = 0
        wait = _FIRST_PROBE_SECONDS
        ever = False
        while True:
            problem = await self._probe(probe)
            successes, failures = (successes + 1, 0) if not problem else (0, failures + 1)
            if not self.ready and successes >= probe.success_threshold:
                self.ready = ever = True
                self._changed()
            elif self.ready and failures >= probe.failure_threshold:
                self.ready = False
                self._changed()
            wait = probe.period_seconds if ever else min(wait * _FIRST_PROBE_GROWTH, probe.period_seconds)
            await asyncio.sleep(wait)

    async def _liveness(self) -> None:
        probe = self.spec.liveness_probe
        if probe is None:
            return
        await asyncio.sleep(max(probe.initial_delay_seconds, _FIRST_PROBE_SECONDS))
        failures = 0
        while True:
            # A paused container cannot answer, and a fault must last until it is healed.
            problem = await self._probe(probe) if self.state == "running" else ""
            if self.state == "running":
                failures = failures + 1 if problem else 0
            if failures >= probe.failure_threshold:
                self._verdict = f"liveness probe failed ({problem})"
                self._note(self._verdict)
                await self._end_process(self._grace)
                return
            await asyncio.sleep(probe.period_seconds)

    # --- orders from outside

    async def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; no further instance."""
        self._stopping = True
        self._stop.set()
        await self._end_process(grace)

    async def _end_process(self, grace: float) -> None:
        process = self._process
        if process is None:
            return
        if self.ready:
            self._become(self.state)
        process.signal(signal.SIGTERM)
        self.group.thaw()
        done, _ = await asyncio.wait([process.exited], timeout=grace)
        if not done:
            self.group.kill()
            process.signal(signal.SIGKILL)
            await asyncio.wait([process.exited])

    async def restart(self) -> None:
        """End this instance gracefully and start the next at once; returns when it runs."""
        process = self._process
        if process is None:
            raise SubstrateError(f"container {self.spec.name} is {self.state}: there is nothing to restart")
        self._at_once = True
        following = self._next_instance
        await self._end_process(self._grace)
        await asyncio.wait([following])
        if following.cancelled():
            raise SubstrateError(f"container {self.spec.name} was ended while it was to be restarted")

    async def kill(self) -> None:
        process = self._process
        if self.ready:
            self._become(self.state)
        self.group.kill()
        if process is not None:
            process.signal(signal.SIGKILL)
            await asyncio.wait([process.exited])

    def pause(self) -> None:
        if self._process is None:
            raise SubstrateError(f"container {self.spec.name} is {self.state}: it cannot be paused")
        self.group.freeze()
        self.state = "paused"
        self._changed()

    def resume(self) -> None:
        self.group.thaw()
        if self.state == "paused":
            self.state = "running"
            self._changed()


def base_environment(hostname: str) -> Mapping[str, str]:
    """What every program finds in its environment, wherever this process was started from."""
    standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": f"{Path(sys.executable).parent}:{standard}",
        "HOME": "/tmp",
        "HOSTNAME": hostname,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
