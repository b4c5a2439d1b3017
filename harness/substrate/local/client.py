"""`LocalWorld`: a handle on a world that lives in its supervisor. Any number of processes and threads may hold one."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket as sockets
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from harness.environment import (
    EnvironmentMissing,
    capability_requirement,
    kernel_requirements,
    program_requirement,
    root_requirement,
)
from harness.substrate.api import NODE, PodInfo, ServiceInfo, SubstrateError, Usage, Webhook
from harness.substrate.local import protocol, syscalls, traces
from harness.substrate.local.paths import WorldPaths
from manifests import Document, InvalidManifests

_START_SECONDS: Final = 30.0
_DOWN_SECONDS: Final = 10.0
NODE_IP: Final = "10.244.0.1"
# `LocalWorld.list` hides the type of that name within the class.
Names = list[str]
Pods = list[PodInfo]
Services = list[ServiceInfo]
Deployments = list[protocol.DeploymentInfo]
T = TypeVar("T")


class LocalWorld:
    """See `harness.substrate.api.World`; as a context manager it is taken down at the end."""

    node_ip: Final = NODE_IP

    def __init__(self, paths: WorldPaths, process: subprocess.Popen[bytes] | None = None) -> None:
        self._paths = paths
        self._process = process
        self._programs: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()
        info = self._call("info", timeout=_DOWN_SECONDS)
        self.supervisor_pid: int = info["pid"]
        self.launcher_pid: int = info["launcher"]
        self.attached: bool = info["attached"]

    # --- making and finding worlds

    @classmethod
    def create(cls, name: str, *, attached: bool) -> Self:
        """A new, empty world. Attached, it ends with this process (however that ends); detached, with `down`."""
        _need_environment()
        paths = WorldPaths(name)
        if traces.alive(paths):
            raise SubstrateError(
                f"world {name} is already there; take it down (meshproof down --world {name}) or use another name"
            )
        if paths.state.exists():
            traces.remove(paths)
        paths.make()
        try:
            process = _start(paths, attached)
        except BaseException as exc:
            shutil.rmtree(paths.state, ignore_errors=True)
            missing = [r for r in kernel_requirements() if not r.found] if isinstance(exc, SubstrateError) else []
            if missing:
                raise EnvironmentMissing(missing[0]) from exc
            raise
        return cls(paths, process)

    @classmethod
    def attach(cls, name: str) -> Self:
        """A handle on a world that is there."""
        paths = WorldPaths(name)
        if not traces.alive(paths):
            others = ", ".join(cls.list()) or "none"
            raise SubstrateError(f"there is no world {name}; worlds: {others}. Make one: meshproof up --world {name}")
        if not paths.socket.exists():
            raise SubstrateError(f"world {name} is just being made, or going down; try again")
        return cls(paths)

    @staticmethod
    def list() -> Names:
        """Names of the worlds that are running."""
        worlds = [WorldPaths(name) for name in traces.names()]
        return [paths.name for paths in worlds if traces.alive(paths) and paths.socket.exists()]

    @classmethod
    def down_all(cls) -> Names:
        """Take down every world and remove what crashed ones left; returns their names."""
        return [gone for name in traces.names() for gone in cls.remove(name)]

    @classmethod
    def remove(cls, name: str) -> Names:
        """Take down the world `name`, or remove what a crashed one left; its name, or nothing when there is none."""
        _need_environment()
        paths = WorldPaths(name)
        if name not in traces.names():
            return []
        if traces.alive(paths):
            try:
                cls(paths).down()
            except SubstrateError:
                _kill_holder(paths)
        if paths.state.exists():
            traces.remove(paths)
        return [name]

    def detach(self) -> None:
        """The world no longer ends with the process that made it, only by `down`."""
        self._call("detach")
        self.attached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.down()

    # --- World

    @property
    def name(self) -> str:
        return self._paths.name

    @property
    def state_dir(self) -> Path:
        return self._paths.state

    def apply(self, documents: Iterable[Document]) -> None:
        wire = [msgspec.to_builtins(protocol.WireDocument.of(document)) for document in documents]
        self._call("apply", documents=wire)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self._call("delete", kind=kind, namespace=namespace, name=name)

    def wait_ready(self, deadline: float = 30.0, namespace: str | None = None) -> None:
        self._call("wait_ready", deadline=deadline, namespace=namespace)

    def pods(self, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Pods:
        found = self._call("pods", namespace=namespace, labels=dict(labels or {}))
        return msgspec.convert(found, Pods)

    def pod(self, namespace: str, name: str) -> PodInfo:
        return msgspec.convert(self._call("pod", namespace=namespace, name=name), PodInfo)

    def services(self, namespace: str | None = None) -> Services:
        return msgspec.convert(self._call("services", namespace=namespace), Services, strict=False)

    def deployments(self, namespace: str | None = None) -> Deployments:
        """What is wanted: replicas of each Deployment, and why pods cannot be created, if so."""
        return msgspec.convert(self._call("deployments", namespace=namespace), Deployments)

    def add_webhook(self, webhook: Webhook) -> None:
        self._call("add_webhook", webhook=msgspec.to_builtins(webhook))

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        self._call("scale", namespace=namespace, deployment=deployment, replicas=replicas)

    def delete_pod(self, namespace: str, name: str) -> None:
        self._call("delete_pod", namespace=namespace, name=name)

    def restart(self, namespace: str, pod: str, container: str) -> None:
        self._call("restart", namespace=namespace, pod=pod, container=container)

    def kill(self, namespace: str, pod: str, container: str | None = None) -> None:
        self._call("kill", namespace=namespace, pod=pod, container=container)

    def pause(self, namespace: str, pod: str, container: str | None = None) -> None:
        self._call("pause", namespace=namespace, pod=pod, container=container)

    def resume(self, namespace: str, pod: str, container: str | None = None) -> None:
        self._call("resume", namespace=namespace, pod=pod, container=container)

    def logs(self, namespace: str, pod: str, container: str) -> str:
        return str(self._call("logs", namespace=namespace, pod=pod, container=container))

    def usage(self, namespace: str, pod: str) -> dict[str, Usage]:
        return msgspec.convert(self._call("usage", namespace=namespace, pod=pod), dict[str, Usage])

    def resolve(self, host: str, namespace: str = "default") -> str:
        return str(self._call("resolve", host=host, namespace=namespace))

    def rejected(self) -> int:
        return int(self._call("rejected"))

    def popen(self, argv: Sequence[str], *, source: PodInfo | str = NODE, **kwargs: Any) -> subprocess.Popen[bytes]:
        """Beside the network namespace, the program gets the world's names in /etc/hosts (as seen from namespace
        `default`) and its PID namespace; files are the host's. `kwargs` are `subprocess.Popen`'s."""
        with contextlib.ExitStack() as stack:
            net = _opened(stack, self.netns(source))
            mounts = _opened(stack, f"/proc/{self.launcher_pid}/ns/mnt")
            pids = _opened(stack, f"/proc/{self.launcher_pid}/ns/pid")
            here = Path.cwd()

            def start() -> subprocess.Popen[bytes]:
                # What follows is this thread's alone, and it ends with it.
                syscalls.unshare(syscalls.CLONE_FS)
                syscalls.setns(mounts, syscalls.CLONE_NEWNS)
                syscalls.setns(net, syscalls.CLONE_NEWNET)
                syscalls.setns(pids, syscalls.CLONE_NEWPID)
                kwargs.setdefault("cwd", here)
                return subprocess.Popen(argv, **kwargs)

            program = _in_thread(start)
        self._programs.add(program)
        return program

    def socket(
        self,
        source: PodInfo | str = NODE,
        family: int = sockets.AF_INET,
        type: int = sockets.SOCK_STREAM,
        proto: int = 0,
        *,
        uid: int | None = None,
    ) -> sockets.socket:
        path = self.netns(source)

        def make() -> sockets.socket:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(fd, syscalls.CLONE_NEWNET)
            finally:
                os.close(fd)
            if uid is not None:
                syscalls.setfsuid(uid)
            return sockets.socket(family, type, proto)

        try:
            return _in_thread(make)
        except FileNotFoundError:
            raise SubstrateError(f"{_shown(source)} is gone from world {self.name}") from None

    def connect(
        self, address: tuple[str, int], *, source: PodInfo | str = NODE, timeout: float = 5.0
    ) -> sockets.socket:
        host, port = address
        namespace = source.namespace if isinstance(source, PodInfo) else "default"
        ip = self.resolve(host, namespace)
        client = self.socket(source)
        try:
            client.settimeout(timeout)
            client.connect((ip, port))
        except BaseException:
            client.close()
            raise
        return client

    def netns(self, source: PodInfo | str = NODE) -> str:
        """Path of the network namespace of the node or of a pod, for `setns` and `nsenter --net=`."""
        if isinstance(source, PodInfo):
            if not source.netns:
                raise SubstrateError(f"{_shown(source)} has no network yet")
            return source.netns
        if source != NODE:
            raise SubstrateError(f"a source is a PodInfo or {NODE!r}, not {source!r}")
        return f"/proc/{self.supervisor_pid}/ns/net"

    def down(self) -> None:
        if traces.alive(self._paths):
            with contextlib.suppress(SubstrateError):
                self._call("down", timeout=_DOWN_SECONDS)
        deadline = time.monotonic() + _DOWN_SECONDS
        while traces.alive(self._paths):
            if time.monotonic() > deadline:
                _kill_holder(self._paths)
                break
            time.sleep(0.01)
        for program in list(self._programs):
            program.poll()  # a dead child is a zombie until its parent looks
        if self._process is not None:
            self._process.wait(_DOWN_SECONDS)
        if self._paths.state.exists() and not traces.alive(self._paths):
            traces.remove(self._paths)

    def _call(self, method: str, *, timeout: float | None = None, **params: Any) -> Any:
        request = protocol.Request(method=method, params=params)
        try:
            reply = protocol.call(str(self._paths.socket), request, timeout)
        except (OSError, EOFError) as exc:
            reason = str(exc) or "it hung up"
            raise SubstrateError(f"the supervisor of world {self.name} does not answer ({method}): {reason}") from None
        if reply.status == "invalid":
            raise InvalidManifests(reply.invalid)
        if reply.status == "error":
            raise SubstrateError(reply.message)
        return reply.value


def _need_environment() -> None:
    needed = [root_requirement(), capability_requirement()]
    needed += [program_requirement(name) for name in ("iptables-restore", "iptables-save")]
    if missing := [requirement for requirement in needed if not requirement.found]:
        raise EnvironmentMissing(*missing)


def _start(paths: WorldPaths, attached: bool) -> subprocess.Popen[bytes]:
    """Start the supervisor and wait until it says that the world is there."""
    ready, theirs = os.pipe2(os.O_CLOEXEC)
    argv = [sys.executable, "-m", "harness.substrate.local.supervisor", paths.name, "--ready", str(theirs)]
    if attached:
        argv += ["--attached", str(os.getpid())]
    try:
        with paths.log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs],
                start_new_session=True,
                cwd="/",
            )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(theirs)
    try:
        said = b""
        if select.select([ready], [], [], _START_SECONDS)[0]:
            said = os.read(ready, 1 << 16)
        if said != b"ready":
            why = said.decode(errors="replace") or paths.log.read_text(errors="replace")[-2000:] or "it said nothing"
            raise SubstrateError(f"world {paths.name} could not be made: {why}")
    except BaseException:
        process.kill()
        process.wait()
        traces.remove(paths)
        raise
    finally:
        os.close(ready)
    return process


def _in_thread(work: Callable[[], T]) -> T:
    """`work` on a thread of its own, which may enter namespaces and change its uid: nothing has to be put back."""
    result: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as exc:
            error.append(exc)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]


def _opened(stack: contextlib.ExitStack, path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SubstrateError(f"the namespace {path} is gone: its pod or its world has ended") from None
    stack.callback(os.close, fd)
    return fd


def _shown(source: PodInfo | str) -> str:
    return f"pod {source.namespace}/{source.name}" if isinstance(source, PodInfo) else source


def _kill_holder(paths: WorldPaths) -> None:
    """End a supervisor that does not answer."""
    holder = traces.holder(paths)
    if holder:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, 9)
    while traces.alive(paths):
        time.sleep(0.01)
