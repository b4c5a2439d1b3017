"""The faults: toxics and cuts on edges, and what can happen to pods.

Each is a context manager through `applied`, verified to bite and verified to heal by measurement, not by what an API
says alone. Toxiproxy's `toxicity` is a share of connections, not of requests: it is rolled when a connection begins,
once per direction, so over a few keep-alive connections it is all or nothing for each.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from chaos.bite import Finding, Reading, judge, needs_close, patience, read_edge
from chaos.edge import PROXY_UID
from chaos.session import READY_SECONDS, Fault, NotInjected, Session
from chaos.targets import EdgeSpec, Hop, Workload, pods_of
from chaos.toxiproxy import Toxic, ToxiproxyGone
from chaos.undo import AwaitReady, Handle, RestoreEdges, Resume, Scale, Undo
from harness.substrate.api import ContainerInfo, PodInfo, SubstrateError, World

MAX_TRIES = 40
"""Connections tried per hop until one with a partial toxic is slowed; at toxicity 0.1 one is missed in 70 runs."""

HOPS_READ = 16
"""Hops measured at most; of an edge with more, the first ones. All are verified by the server's own state."""

SEEN_SECONDS = 10.0
"""How long after it was done a change of pods may take to be seen; a pod has a grace period to end in."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "latency": ("latency", "jitter"),
    "bandwidth": ("rate",),
    "slow_close": ("delay",),
    "timeout": ("timeout",),
    "reset_peer": ("timeout",),
    "slicer": ("average_size", "size_variation", "delay"),
    "limit_data": ("bytes",),
}
"""Toxic type to its attributes: latency, jitter, timeout and slow_close's delay in ms, slicer's delay in µs, rate in
KB/s, sizes in bytes."""


@contextlib.contextmanager
def applied(session: Session, fault: Fault) -> Iterator[Fault]:
    """The fault is active, and seen to bite, inside; undone, and seen to be, on the way out however that is. Raises
    `NotInjected` when it does not bite, `HealError` when it cannot be undone."""
    session.apply(fault)
    try:
        finding = fault.bites(session)
        if not finding.ok:
            raise NotInjected(f"{fault.title} does not bite: {finding.detail}")
        yield fault
    finally:
        session.remove(fault)
    finding = fault.healed(session)
    if not finding.ok:
        raise SubstrateError(f"{fault.title} was undone, and still: {finding.detail}")


class EdgeFault:
    """A toxic on an edge, or (no toxic) the edge cut: connections refused, those open reset."""

    def __init__(self, edge: EdgeSpec, toxic: Toxic | None) -> None:
        self.edge = edge
        self.toxic = toxic
        self._before: dict[str, Reading] = {}
        self.probes = 0
        """Connections made to measure it while it was on; what the redirect counted beyond them is real traffic."""

    @property
    def title(self) -> str:
        if self.toxic is None:
            return f"cut {self.edge}"
        asked = ", ".join(f"{name} {value}" for name, value in self.toxic.attributes.items())
        part = f" on {self.toxic.toxicity:.0%} of connections" if self.toxic.toxicity < 1 else ""
        return f"{self.toxic.type} ({asked}) {self.toxic.stream} on {self.edge}{part}"

    @property
    def entry(self) -> Undo:
        return RestoreEdges()

    @property
    def edges(self) -> tuple[str, ...]:
        return (str(self.edge),)

    @property
    def kind(self) -> str:
        return "down" if self.toxic is None else self.toxic.type

    def prepare(self, session: Session) -> None:
        hops = session.edges.hops(self.edge)
        if not hops:
            # Raises with what there is instead.
            pods_of(session.world, self.edge.source)
            pods_of(session.world, self.edge.destination)
        self._before = self._read(session.world, hops, usual=True)
        mute = [f"{hop}: {reading}" for hop, reading in self._before.items() if not _speaks(reading, self.kind)]
        if mute:
            raise NotInjected(f"{self.title}: the edge does not answer even before the fault: {'; '.join(mute)}")

    def inject(self, session: Session) -> str:
        moved = session.edges.add(self.edge, self.toxic)
        return (
            f"{moved.idle + moved.forced} open connections moved to the fault in {moved.seconds:.2f} s, "
            f"{moved.forced} of them with a request under way"
        )

    def bites(self, session: Session) -> Finding:
        states = session.edges.states(self.edge)
        for state in states:
            wrong = state.enabled if self.toxic is None else not _has(state.toxic(self.toxic.name), self.toxic)
            if wrong:
                return Finding(ok=False, detail=f"Toxiproxy does not have it: {state}")
        if not states:
            return Finding(ok=False, detail="no proxy stands on the edge")
        hops = session.edges.hops(self.edge)
        found: list[str] = []
        for hop, during in self._read(session.world, hops, usual=False).items():
            before = self._before.get(hop)
            if before is None:
                continue  # a pod born since: its neighbours were measured
            finding = judge(self.kind, self._attributes, before, during)
            if not finding.ok:
                return Finding(ok=False, detail=f"{hop}: {finding.detail}")
            found.append(f"{hop}: {finding.detail}")
        return Finding(ok=bool(found), detail=_summary(found))

    def heal(self, session: Session) -> None:
        session.edges.remove(self.edge, self.toxic)

    def healed(self, session: Session) -> Finding:
        try:
            states = session.edges.states(self.edge)
        except ToxiproxyGone:
            states = []
        if states and not any(isinstance(f, EdgeFault) and f.edge == self.edge for f in session.faults):
            return Finding(ok=False, detail=f"proxies are left: {', '.join(state.name for state in states)}")
        found: list[str] = []
        for hop, after in self._read(session.world, session.edges.hops(self.edge), usual=True).items():
            before = self._before.get(hop)
            if before is None:
                continue
            # The same measure that had to see the fault must no longer see it.
            if not _speaks(after, self.kind) or judge(self.kind, self._attributes, before, after).ok:
                return Finding(ok=False, detail=f"{hop}: {before} -> {after}")
            found.append(f"{hop}: {before} -> {after}")
        return Finding(ok=True, detail=_summary(found))

    @property
    def _attributes(self) -> dict[str, int]:
        return self.toxic.attributes if self.toxic is not None else {}

    def _read(self, world: World, hops: tuple[Hop, ...], *, usual: bool) -> dict[str, Reading]:
        """Hop to a reading. `usual`: the best of three, for what the edge is like when it is well; otherwise, with a
        partial toxic, the first that shows it."""
        chosen = hops[:HOPS_READ]
        if not chosen:
            return {}
        with ThreadPoolExecutor(max_workers=len(chosen), thread_name_prefix="read-edge") as pool:
            readings = list(pool.map(partial(self._usual if usual else self._hit, world), chosen))
        return {str(hop): reading for hop, reading in zip(chosen, readings, strict=True)}

    def _usual(self, world: World, hop: Hop) -> Reading:
        readings = [self._once(world, hop, patience(self.kind, self._attributes, None)) for _ in range(3)]
        return min(readings, key=lambda reading: (not _speaks(reading, self.kind), reading.total))

    def _hit(self, world: World, hop: Hop) -> Reading:
        before = self._before.get(str(hop))

        def once() -> Reading:
            self.probes += 1
            return self._once(world, hop, patience(self.kind, self._attributes, before))

        toxicity = 1.0 if self.toxic is None else self.toxic.toxicity
        tries = 2 if toxicity >= 1 else min(MAX_TRIES, math.ceil(math.log(0.001) / math.log(1 - max(toxicity, 0.01))))
        reading = once()
        while (tries := tries - 1) > 0 and before and not judge(self.kind, self._attributes, before, reading).ok:
            reading = once()
        return reading

    def _once(self, world: World, hop: Hop, timeout: float) -> Reading:
        return read_edge(
            lambda: world.socket(hop.source, uid=PROXY_UID if hop.source.meshed else None),
            hop.endpoint,
            tls=hop.destination.meshed,
            timeout=timeout,
            until_closed=needs_close(self.kind),
        )


def _summary(found: list[str]) -> str:
    """The first of them stands for all: whoever wants each finds it in the exception of the one that differs."""
    if not found:
        return "no hop is left to measure"
    return f"{len(found)} hop(s), such as {found[0]}" if len(found) > 1 else found[0]


def _speaks(reading: Reading, kind: str) -> bool:
    return reading.outcome == "answered" or (kind == "slow_close" and reading.outcome == "closed")


def _has(seen: Toxic | None, wanted: Toxic) -> bool:
    return seen is not None and seen.matches(wanted)


def toxic_on(
    edge: EdgeSpec, kind: str, *, stream: str = "downstream", toxicity: float = 1.0, **attributes: int
) -> EdgeFault:
    """A toxic of `kind` on the edge. `stream` is the direction of what it delays: `downstream` answers, `upstream`
    requests. Raises `ValueError` for what Toxiproxy would not know or would silently ignore."""
    known = ATTRIBUTES.get(kind)
    if known is None:
        raise ValueError(f"{kind!r} is not a toxic; expected one of {', '.join(sorted(ATTRIBUTES))}")
    if strange := sorted(set(attributes) - set(known)):
        raise ValueError(f"a {kind} toxic has no {', '.join(strange)}; it has {', '.join(known)}")
    if negative := sorted(name for name, value in attributes.items() if value < 0):
        raise ValueError(f"{', '.join(negative)} of a {kind} toxic must not be negative")
    if stream not in ("downstream", "upstream"):
        raise ValueError(f"stream {stream!r} is not a direction; expected downstream (answers) or upstream (requests)")
    if not 0 < toxicity <= 1:
        raise ValueError(f"toxicity {toxicity} is not a share of connections; expected above 0, at most 1")
    detail = "_".join(f"{name}{value}" for name, value in sorted(attributes.items()))
    name = f"{kind}_{stream}_{detail}" if detail else f"{kind}_{stream}"
    return EdgeFault(edge, Toxic(name=name, type=kind, stream=stream, toxicity=toxicity, attributes=attributes))


def cut(edge: EdgeSpec) -> EdgeFault:
    """Connections of the edge are refused, and those open end with a reset. (For an edge that swallows what it is
    sent, use a `timeout` toxic of 0.)"""
    return EdgeFault(edge, None)


class PodFault:
    """What happens to the pods of a workload: `act` breaks one, `broken` sees it broken, `mend` undoes it."""

    def __init__(
        self,
        title: str,
        workload: Workload,
        *,
        act: Callable[[Session, PodInfo], None],
        broken: Callable[[PodInfo, PodInfo | None], bool],
        mend: Callable[[Session, PodInfo], None] | None = None,
        entry: Callable[[PodInfo], Undo] | None = None,
        container: str = "",
    ) -> None:
        self.title = title
        self.workload = workload
        self._act, self._broken, self._mend, self._entry = act, broken, mend, entry
        self._container = container
        self._pods: list[PodInfo] = []
        self._handles: list[Handle] = []

    @property
    def entry(self) -> Undo:
        return AwaitReady(namespace=self.workload.namespace)

    @property
    def edges(self) -> tuple[str, ...]:
        return ()

    def prepare(self, session: Session) -> None:
        self._pods = pods_of(session.world, self.workload)
        for pod in self._pods:
            if self._container and not any(one.name == self._container for one in pod.containers):
                names = ", ".join(one.name for one in pod.containers)
                raise NotInjected(f"{self.title}: pod {pod.name} has no container {self._container}; it has {names}")
        sick = [pod.name for pod in self._pods if not pod.ready]
        if sick:
            raise NotInjected(f"{self.title}: {', '.join(sick)} is not ready before the fault")

    def inject(self, session: Session) -> str:
        for pod in self._pods:
            if self._entry is not None:
                # Each pod's own undo, for another process; in this one `heal` does all of them.
                self._handles.append(session.undo.push(self._entry(pod), _nothing))
            self._act(session, pod)
        return f"{len(self._pods)} pod(s): {', '.join(pod.name for pod in self._pods)}"

    def bites(self, session: Session) -> Finding:
        deadline = time.monotonic() + SEEN_SECONDS
        while True:
            now = {pod.name: pod for pod in session.world.pods(self.workload.namespace)}
            whole = [pod.name for pod in self._pods if not self._broken(pod, now.get(pod.name))]
            if not whole or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        names = ", ".join(pod.name for pod in self._pods)
        return Finding(ok=not whole, detail=f"not affected: {', '.join(whole)}" if whole else f"affected: {names}")

    def heal(self, session: Session) -> None:
        for pod in self._pods:
            if self._mend is not None:
                self._mend(session, pod)
        session.world.wait_ready(READY_SECONDS, self.workload.namespace)
        for handle in self._handles:
            session.undo.undo(handle)
        self._handles.clear()

    def healed(self, session: Session) -> Finding:
        pods = pods_of(session.world, self.workload, needed=False)
        sick = [pod.name for pod in pods if not pod.ready]
        fine = len(pods) >= len(self._pods) and not sick
        return Finding(ok=fine, detail=f"{len(pods)} of {len(self._pods)} pods, not ready: {', '.join(sick) or 'none'}")


def _nothing() -> None:
    """`PodFault.heal` does it; the entry is for a process that cannot call that."""


def _container(pod: PodInfo, name: str) -> ContainerInfo | None:
    return next((one for one in pod.containers if one.name == name), None)


def _other_process(before: PodInfo, now: PodInfo | None, container: str) -> bool:
    """Whether the container's process is another one, or none, than before."""
    if now is None:
        return True
    names = [container] if container else [one.name for one in before.containers]
    for name in names:
        old, new = _container(before, name), _container(now, name)
        if old is not None and (new is None or new.pid != old.pid or new.restarts > old.restarts):
            return True
    return False


def kill(workload: Workload, container: str = "") -> PodFault:
    """SIGKILL one container (or all) of every pod of the workload. The substrate restarts them."""
    what = f"kill {container or 'every container'} of {workload}"
    return PodFault(
        what,
        workload,
        act=lambda session, pod: session.world.kill(pod.namespace, pod.name, container or None),
        broken=lambda before, now: _other_process(before, now, container),
        container=container,
    )


def delete(workload: Workload) -> PodFault:
    """Delete every pod of the workload, gracefully; its Deployment replaces them with others."""
    return PodFault(
        f"delete the pods of {workload}",
        workload,
        act=lambda session, pod: session.world.delete_pod(pod.namespace, pod.name),
        broken=lambda before, now: now is None or not now.ready,
    )


def pause(workload: Workload, container: str = "") -> PodFault:
    """Freeze one container (or all) of every pod of the workload: sockets stay open, nothing answers."""

    def frozen(before: PodInfo, now: PodInfo | None) -> bool:
        names = [container] if container else [one.name for one in before.containers if one.state == "running"]
        states = [one.state for one in now.containers if one.name in names] if now else []
        return bool(states) and all(state == "paused" for state in states)

    def mend(session: Session, pod: PodInfo) -> None:
        if any(one.name == pod.name for one in session.world.pods(pod.namespace)):
            session.world.resume(pod.namespace, pod.name, container or None)

    return PodFault(
        f"pause {container or 'every container'} of {workload}",
        workload,
        act=lambda session, pod: session.world.pause(pod.namespace, pod.name, container or None),
        broken=frozen,
        mend=mend,
        entry=lambda pod: Resume(namespace=pod.namespace, pod=pod.name, container=container),
        container=container,
    )


class ScaleToZero:
    """Every replica of a Deployment gone, and back again."""

    def __init__(self, deployment: Workload) -> None:
        self.deployment = deployment
        self._replicas = 0

    @property
    def title(self) -> str:
        return f"scale {self.deployment} to zero"

    @property
    def entry(self) -> Undo:
        return Scale(
            namespace=self.deployment.namespace, deployment=self.deployment.name, replicas=max(1, self._replicas)
        )

    @property
    def edges(self) -> tuple[str, ...]:
        return ()

    def _pods(self, session: Session) -> list[PodInfo]:
        pods = session.world.pods(self.deployment.namespace)
        return [pod for pod in pods if pod.owner == self.deployment.name]

    def prepare(self, session: Session) -> None:
        self._replicas = len(self._pods(session))
        if not self._replicas:
            owners = sorted({pod.owner for pod in session.world.pods(self.deployment.namespace) if pod.owner})
            raise NotInjected(f"{self.title}: no such Deployment with pods; there is {', '.join(owners) or 'none'}")

    def inject(self, session: Session) -> str:
        session.world.scale(self.deployment.namespace, self.deployment.name, 0)
        return f"{self._replicas} pod(s) removed"

    def bites(self, session: Session) -> Finding:
        deadline = time.monotonic() + SEEN_SECONDS
        while (left := self._pods(session)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return Finding(ok=not left, detail=f"{len(left)} pods left")

    def heal(self, session: Session) -> None:
        session.world.scale(self.deployment.namespace, self.deployment.name, self._replicas)
        session.world.wait_ready(READY_SECONDS, self.deployment.namespace)

    def healed(self, session: Session) -> Finding:
        ready = [pod for pod in self._pods(session) if pod.ready]
        return Finding(ok=len(ready) == self._replicas, detail=f"{len(ready)} of {self._replicas} pods ready")
