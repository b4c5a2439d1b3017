"""Everything that is connected, and what each of them is to run: the meeting point of configuration and streams.

`publish` makes a new generation and wakes every stream; each computes for itself what it lacks. Nothing is queued per
proxy: a slow one costs a reference to what it has, and catches up in one step. A `Waiter` follows who has yet to answer
for a generation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from mesh.identity.tokens import Identity
from mesh.resource import SECRET, Resource, ResourceSet
from mesh.view import ViewKey
from mesh.xds.views import Compile, Uncompilable, Views, digest

if TYPE_CHECKING:
    from mesh.xds.stream import Stream

Patch = Callable[[ResourceSet], ResourceSet]


class Observer(Protocol):
    """What is counted of the streams; `mesh.admin.metrics` is the one in production."""

    def compiled(self, seconds: float) -> None: ...

    def pushed(self, type_url: str, size: int) -> None: ...

    def acked(self, type_url: str, seconds: float) -> None: ...

    def nacked(self, type_url: str) -> None: ...

    def connected(self, count: int) -> None: ...

    def generation(self, number: int) -> None: ...


class Unobserved:
    def compiled(self, seconds: float) -> None: ...

    def pushed(self, type_url: str, size: int) -> None: ...

    def acked(self, type_url: str, seconds: float) -> None: ...

    def nacked(self, type_url: str) -> None: ...

    def connected(self, count: int) -> None: ...

    def generation(self, number: int) -> None: ...


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs a generation."""

    generation: int
    proxies: int
    acked: int
    nacked: dict[str, str]
    missing: tuple[str, ...]
    elapsed: float
    """Seconds until the last answer, or until the deadline."""


class Waiter:
    """Follows a generation until every connected proxy has answered for it."""

    def __init__(self, generation: int, *, clean: bool) -> None:
        self.generation = generation
        self.clean = clean
        self.behind: set[Stream] = set()
        self.done = asyncio.Event()

    def satisfied_by(self, stream: Stream) -> bool:
        return (stream.clean_generation if self.clean else stream.live_generation) >= self.generation

    def look(self, stream: Stream) -> None:
        if self.satisfied_by(stream):
            self.behind.discard(stream)
            if not self.behind:
                self.done.set()


class Hub:
    def __init__(
        self,
        *,
        view_of: Callable[[Identity], ViewKey | None],
        secrets: Callable[[Identity], Mapping[str, Resource]],
        all_views: Callable[[], set[ViewKey]] = set,
        observer: Observer | None = None,
    ) -> None:
        self.observer = observer or Unobserved()
        self.view_of = view_of
        self.secrets = secrets
        self.views = Views(self.observer.compiled)
        self._all_views = all_views
        self._streams: dict[str, Stream] = {}
        self._waiters: list[Waiter] = []
        self._patch: Patch | None = None
        self._patched: dict[int, ResourceSet] = {}
        self._changed = asyncio.Event()

    @property
    def generation(self) -> int:
        return self.views.generation

    @property
    def streams(self) -> list[Stream]:
        return list(self._streams.values())

    # === state ===

    def publish(self, compile_: Compile) -> int:
        """What every view is made of has changed."""
        generation = self.views.publish(compile_)
        self.views.retain(self._all_views() | {s.view for s in self.streams if s.view is not None})
        self._patched.clear()
        self.observer.generation(generation)
        self._wake_all()
        return generation

    def patch(self, patch: Patch | None) -> int:
        """Transform what is served from now on (a mutant), or stop doing so. What `patch` raises is raised here, and
        then nothing has changed."""
        if patch is not None:
            for stream in self.streams:
                if stream.view is not None and (resources := self._compiled(stream.view)) is not None:
                    patch(resources)
        self._patch = patch
        self._patched.clear()
        return self.publish(self.views.compile)

    def resources(self, view: ViewKey) -> ResourceSet:
        """What proxies of this view are to run, secrets aside."""
        resources = self.views.get(view).resources
        if self._patch is None:
            return resources
        patched = self._patched.get(id(resources))
        if patched is None:
            patched = self._patched[id(resources)] = self._patch(resources)
        return patched

    def served_secrets(self, identity: Identity) -> Mapping[str, Resource]:
        secrets = self.secrets(identity)
        return secrets if self._patch is None else self._patch({SECRET: secrets})[SECRET]

    def secrets_changed(self) -> None:
        self._wake_all()

    def digest(self) -> str:
        """Over all views: those of the registry's workloads, connected or not."""
        keys = self._all_views() | {s.view for s in self.streams if s.view is not None}
        return digest({key: self._compiled(key) for key in keys})

    def _compiled(self, view: ViewKey) -> ResourceSet | None:
        try:
            return self.resources(view)
        except Uncompilable:
            return None

    def problem(self, view: ViewKey) -> str:
        """Why this view is not what the present generation says; empty when it is."""
        try:
            return self.views.get(view).error
        except Uncompilable as exc:
            return str(exc)

    # === streams ===

    def add(self, stream: Stream) -> Stream | None:
        """Register; returns the older stream of the same proxy, which this one replaces (a reconnect that overlaps)."""
        older = self._streams.pop(stream.proxy, None)
        if older is not None:
            self._left(older)
        self._streams[stream.proxy] = stream
        for waiter in self._waiters:
            if not waiter.satisfied_by(stream):
                waiter.behind.add(stream)
        self.observer.connected(len(self._streams))
        self._notify()
        return older

    def remove(self, stream: Stream) -> None:
        if self._streams.get(stream.proxy) is stream:
            del self._streams[stream.proxy]
        self._left(stream)
        self.observer.connected(len(self._streams))
        self._notify()

    def has(self, stream: Stream) -> bool:
        return self._streams.get(stream.proxy) is stream

    def advanced(self, stream: Stream) -> None:
        for waiter in self._waiters:
            if stream in waiter.behind:
                waiter.look(stream)

    def _left(self, stream: Stream) -> None:
        for waiter in self._waiters:
            waiter.behind.discard(stream)
            if not waiter.behind:
                waiter.done.set()

    def _wake_all(self) -> None:
        for stream in self._streams.values():
            stream.wake()
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Until a proxy comes or goes, or a generation is published."""
        await self._changed.wait()

    # === answers ===

    async def answers(self, generation: int, *, deadline: float, clean: bool = False) -> Answers:
        """Wait until every connected proxy has answered for `generation` (with `clean`: also has nothing left that the
        generation lacks), at most `deadline` seconds."""
        started = time.monotonic()
        waiter = Waiter(generation, clean=clean)
        waiter.behind = {stream for stream in self.streams if not waiter.satisfied_by(stream)}
        self._waiters.append(waiter)
        try:
            if waiter.behind:
                async with asyncio.timeout(deadline):
                    await waiter.done.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.remove(waiter)
        streams = self.streams
        nacked = {stream.proxy: stream.refused for stream in streams if stream.refused}
        missing = tuple(sorted(stream.proxy for stream in waiter.behind))
        return Answers(
            generation=generation,
            proxies=len(streams),
            acked=sum(1 for s in streams if s not in waiter.behind and not s.refused),
            nacked=nacked,
            missing=missing,
            elapsed=time.monotonic() - started,
        )

    def refusals(self) -> Iterator[tuple[str, str, str]]:
        """(origin `Kind/namespace/name`, proxy, what it said) of everything refused now."""
        for stream in self.streams:
            for refusal in stream.planner.refusals():
                for origin in refusal.resource.origins or ("",):
                    yield origin, stream.proxy, stream.describe(refusal)
