"""One process's hold on one world for faults: the lock, the undo stack, Toxiproxy, the faulted edges.

Entering takes the lock and refuses a world in which an earlier game day left something; leaving undoes everything.
Toxiproxy is started when the first edge needs it and ends with the session.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Protocol, Self

from chaos.bite import Finding
from chaos.edge import EdgeFaults, restore_edges
from chaos.lock import engaged, stop_holder
from chaos.toxiproxy import Client
from chaos.undo import (
    AwaitReady,
    Handle,
    HealError,
    RestoreEdges,
    Resume,
    Scale,
    StopCompanion,
    Undo,
    UndoStack,
    read_journal,
    write_journal,
)
from harness.services.toxiproxy import ToxiproxyProcess, end_marked
from harness.substrate.api import NODE, SubstrateError, World

READY_SECONDS = 30.0


class Leftovers(Exception):
    """An earlier game day did not undo everything; the message says what, and the command that does."""


class NotInjected(Exception):
    """The fault could not be made, or it does not bite. Whatever it did has been undone."""


class Fault(Protocol):
    """Something that breaks a part of a world, and can be undone. `chaos.faults` has them."""

    @property
    def title(self) -> str:
        """Such as `latency 300 ms on bookinfo/reviews->bookinfo/ratings`."""

    @property
    def entry(self) -> Undo:
        """How another process undoes it."""

    @property
    def edges(self) -> tuple[str, ...]:
        """Edges it touches, as declared."""

    def prepare(self, session: Session) -> None:
        """Find its targets and measure them while they are well. Changes nothing."""

    def inject(self, session: Session) -> str:
        """Break it. Returns what that did to what was under way, in a sentence, or nothing."""

    def bites(self, session: Session) -> Finding:
        """Whether it shows, measured now."""

    def heal(self, session: Session) -> None:
        """Undo it. Idempotent, and right also when `inject` ended half-way."""

    def healed(self, session: Session) -> Finding:
        """Whether all is as it was, measured now."""


class Session:
    """Use as a context manager."""

    def __init__(self, world: World, *, log: Path | None = None) -> None:
        self.world = world
        self.folder = folder_of(world)
        self._log = log or world.state_dir / "logs" / "toxiproxy.log"
        self._resources = contextlib.ExitStack()
        self._undo: UndoStack | None = None
        self._edges: EdgeFaults | None = None
        self._handles: list[tuple[Fault, Handle]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(engaged(self.folder))
            left = read_journal(self.folder)
            if left:
                raise Leftovers(
                    f"an earlier game day left {len(left)} fault(s) in world {self.world.name} "
                    f"({', '.join(sorted({type(entry).__name__ for entry in left}))}); "
                    f"undo them with: meshproof heal --world {self.world.name}"
                )
            self._undo = stack.enter_context(UndoStack(self.folder))
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.heal()
        finally:
            self._resources.close()
            self._edges = None

    @property
    def undo(self) -> UndoStack:
        if self._undo is None:
            raise RuntimeError("the session has not been entered")
        return self._undo

    @property
    def edges(self) -> EdgeFaults:
        """Edge faults of this world; starts Toxiproxy the first time."""
        if self._edges is None:
            server = ToxiproxyProcess(self.world, log=self._log, mark=f"{os.getpid()}-{uuid.uuid4().hex}")
            stop = StopCompanion(mark=server.mark, port=server.reserve())
            self.undo.push(stop, server.close)
            server.__enter__()
            edges = EdgeFaults(self.world, client_of(self.world, stop))
            self.undo.push(RestoreEdges(), edges.close)
            self._edges = edges
        return self._edges

    def apply(self, fault: Fault) -> str:
        """Measure, note the undo, break. Raises `NotInjected` when it could not be made; it has been undone then."""
        fault.prepare(self)
        handle = self.undo.push(fault.entry, lambda: fault.heal(self))
        self._handles.append((fault, handle))
        try:
            return fault.inject(self)
        except Exception as exc:
            self.remove(fault)
            raise NotInjected(f"{fault.title}: {exc}") from exc

    def remove(self, fault: Fault) -> None:
        """Undo one fault. Idempotent."""
        for one, handle in self._handles.copy():
            if one is fault:
                self.undo.undo(handle)
                self._handles.remove((one, handle))

    def heal(self) -> None:
        """Undo every fault, newest first. Raises `HealError` after all have been tried."""
        failures: list[str] = []
        for fault, _ in reversed(self._handles.copy()):
            try:
                self.remove(fault)
            except Exception as exc:
                failures.append(f"{fault.title}: {type(exc).__name__}: {exc}")
        if failures:
            raise HealError("not every fault could be undone: " + "; ".join(failures))

    @property
    def trouble(self) -> str:
        """What keeps a fault from being what was asked for; empty when all is well."""
        return self._edges.trouble if self._edges is not None else ""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Active faults, oldest first."""
        return tuple(fault for fault, _ in self._handles)


def folder_of(world: World) -> Path:
    return world.state_dir / "chaos"


def client_of(world: World, companion: StopCompanion) -> Client:
    """A client of the Toxiproxy that listens in the world's node namespace."""
    return Client(
        ("127.0.0.1", companion.port),
        dial=lambda address, timeout: world.connect(address, source=NODE, timeout=timeout),
    )


def heal_world(world: World) -> list[str]:
    """Undo whatever game days left in the world, and end one that runs. Returns what was done, a line each; empty when
    there was nothing. Raises `HealError` with everything that failed, after all has been tried."""
    done: list[str] = []
    folder = folder_of(world)
    if pid := stop_holder(folder):
        done.append(f"ended the game day of pid {pid}")
    if not folder.exists():
        return done
    with engaged(folder):
        left = read_journal(folder)
        failures: list[str] = []
        servers = [entry for entry in left if isinstance(entry, StopCompanion)]
        for entry in reversed(left.copy()):
            try:
                done.append(perform(world, entry, servers))
            except Exception as exc:
                failures.append(f"{entry}: {type(exc).__name__}: {exc}")
            else:
                left.remove(entry)
                write_journal(folder, left)
        if failures:
            raise HealError("not everything could be undone: " + "; ".join(failures))
    return done


def perform(world: World, entry: Undo, servers: list[StopCompanion]) -> str:
    """Undo one entry of a journal, whoever wrote it. Idempotent. Returns what was done."""
    match entry:
        case RestoreEdges():
            drained = restore_edges(world, client_of(world, servers[-1]) if servers else None)
            return f"edges are direct again; {drained.idle + drained.forced} connections moved"
        case StopCompanion(mark=mark):
            pids = end_marked(mark)
            return f"ended Toxiproxy ({', '.join(map(str, pids))})" if pids else "Toxiproxy had ended"
        case Resume(namespace=namespace, pod=pod, container=container):
            if any(one.name == pod for one in world.pods(namespace)):
                world.resume(namespace, pod, container or None)
                return f"resumed {namespace}/{pod}"
            return f"{namespace}/{pod} is gone; nothing to resume"
        case Scale(namespace=namespace, deployment=deployment, replicas=replicas):
            world.scale(namespace, deployment, replicas)
            world.wait_ready(READY_SECONDS, namespace)
            return f"scaled {namespace}/{deployment} back to {replicas}"
        case AwaitReady(namespace=namespace):
            world.wait_ready(READY_SECONDS, namespace)
            return f"every pod of {namespace} is ready"
    raise SubstrateError(f"no way is known to undo {entry}")
