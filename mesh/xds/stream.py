"""One ADS stream: a reader that feeds the state machine and a writer that sends what it wants sent.

There is no queue between them. The reader changes state and wakes the writer; the writer asks the planner, sends, and
sleeps. What is sent is computed when it can be sent, so a slow proxy is never behind by more than one step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import grpc
import msgspec

from mesh.identity.tokens import Identity
from mesh.resource import SHORT_NAMES, ResourceSet
from mesh.view import ViewKey
from mesh.xds.hub import Hub
from mesh.xds.ordering import Planner, Timing, with_secrets
from mesh.xds.subscription import Outcome, Refusal
from mesh.xds.views import Uncompilable
from mesh.xds.wire import Malformed, Node, Push, Request, Writer, parse_delta, parse_sotw

log = logging.getLogger("mesh.xds")

MAX_NAMES = 100_000
"""Names one client may subscribe to, per type: more is a defect or an attack."""


class TypeStatus(msgspec.Struct, kw_only=True):
    """What came of what one proxy was sent of one type."""

    error: str = ""
    """Of the last NACK; empty once something later was accepted and nothing is refused any more."""
    pushes: int = 0
    nacks: int = 0
    sent_at: float = 0.0
    ack_ms: float = 0.0


class Stream:
    def __init__(
        self, hub: Hub, identity: Identity, context: Any, *, delta: bool, writer: Writer, timing: Timing | None = None
    ) -> None:
        self.hub = hub
        self.identity = identity
        self.proxy = identity.proxy
        self.delta = delta
        self.node = Node(id="")
        self.view: ViewKey | None = None
        self.planner = Planner(delta=delta, timing=timing)
        self.status: dict[str, TypeStatus] = {}
        self.connected_at = time.time()
        self.live_generation = 0
        """The newest generation the proxy has answered for."""
        self.clean_generation = 0
        """The newest generation of which it also has no leftovers."""
        self._context = context
        self._writer = writer
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        self._awake.set()

    def close(self) -> None:
        """End the stream; the proxy keeps what it runs, and connects again."""
        if self._task is not None:
            self._task.cancel()

    @property
    def refused(self) -> str:
        """What the proxy would not take, for people; empty when it took everything."""
        problem = self.hub.problem(self.view) if self.view is not None else ""
        parts = [f"its configuration cannot be compiled: {problem}"] if problem else []
        parts += [self.describe(refusal) for refusal in self.planner.refusals()]
        parts += [f"{name}: {why}" for name, why in sorted(self.planner.held.items())]
        return "; ".join(parts)

    def describe(self, refusal: Refusal) -> str:
        r = refusal.resource
        origin = f" (from {', '.join(r.origins)})" if r.origins else ""
        return f"{SHORT_NAMES.get(r.type_url, r.type_url)} {r.name}{origin}: {refusal.error}"

    async def run(self, first: Request) -> None:
        """Until the proxy goes, or its token ends."""
        self._task = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(first))
        limit = self.identity.expires - time.time() if self.identity.expires else None
        try:
            done, _ = await asyncio.wait({self._task, reader}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                await self._context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired: connect again")
            for task in done:
                if not task.cancelled():
                    task.result()
        finally:
            for task in (self._task, reader):
                task.cancel()
            await asyncio.gather(self._task, reader, return_exceptions=True)

    # === reading ===

    async def _read(self, first: Request) -> None:
        parse = parse_delta if self.delta else parse_sotw
        request = first
        while True:
            await self._receive(request)
            data = await self._context.read()
            if not isinstance(data, bytes):  # end of the client's requests
                return
            try:
                request, _ = parse(data)
            except Malformed as exc:
                await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))

    async def _receive(self, request: Request) -> None:
        sub = self.planner.subscriptions.get(request.type_url)
        if sub is None:
            log.info("%s asks for %s, which is not served", self.proxy, request.type_url)
            return
        outcome = self.planner.receive(request)
        if len(sub.names) > MAX_NAMES:
            await self._context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_NAMES} names subscribed")
        status = self.status.setdefault(request.type_url, TypeStatus())
        if outcome is Outcome.ACK:
            status.ack_ms = (time.monotonic() - status.sent_at) * 1000
            if not sub.refused:
                status.error = ""
            self.hub.observer.acked(request.type_url, status.ack_ms / 1000)
        elif outcome is Outcome.NACK:
            status.nacks += 1
            status.error = request.error or ""
            self.hub.observer.nacked(request.type_url)
            log.warning("%s refuses %s: %s", self.proxy, SHORT_NAMES[request.type_url], request.error)
        self.wake()

    # === writing ===

    def target(self) -> ResourceSet | None:
        """Everything the proxy is to have; None when its pod is gone from the registry."""
        view = self.hub.view_of(self.identity)
        if view is None:
            return None
        self.view = view
        return with_secrets(self.hub.resources(view), self.hub.served_secrets(self.identity))

    async def _write(self) -> None:
        while True:
            self._awake.clear()
            generation = self.hub.generation
            now = time.monotonic()
            try:
                target = self.target()
            except Uncompilable:
                # It keeps what it has, and whoever waits for it is told why it does not answer.
                await self._sleep(now)
                continue
            if target is None:
                # The pod is gone while its proxy still drains: it keeps what it has, and nobody waits for it.
                self.hub.remove(self)
            else:
                if not self.hub.has(self):
                    return  # another stream of the same proxy has taken its place
                for push in self.planner.plan(target, now):
                    await self._send(push)
                self._account(target, generation, now)
            await self._sleep(now)

    async def _send(self, push: Push) -> None:
        data = self._writer.delta(push) if self.delta else self._writer.sotw(push)
        status = self.status.setdefault(push.type_url, TypeStatus())
        status.sent_at = time.monotonic()
        status.pushes += 1
        self.hub.observer.pushed(push.type_url, len(data))
        await self._context.write(data)

    def _account(self, target: ResourceSet, generation: int, now: float) -> None:
        if not self.planner.converged(target, now):
            return
        clean = self.planner.clean(target)
        if self.live_generation < generation or (clean and self.clean_generation < generation):
            self.live_generation = generation
            if clean:
                self.clean_generation = generation
            self.hub.advanced(self)

    async def _sleep(self, now: float) -> None:
        wake_at = self.planner.wake_at
        try:
            async with asyncio.timeout(None if wake_at is None else max(0.0, wake_at - now)):
                await self._awake.wait()
        except TimeoutError:
            pass
