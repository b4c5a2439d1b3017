"""The bench a check works at: a mesh, an echo fleet, and a record of what was done and seen.

Invariants: what a check applies is removed when it ends, and the config digest is then what it was before, or the
check is an error (isolation is proved, not slept for). Convergence (`until`) is awaited and recorded apart from the
assertions that follow it, which are made once and never repeated until they hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from harness.conformance.fleet import Fleet
from harness.meshes.api import Mesh, Receipt
from harness.substrate.api import PodInfo, World
from harness.workloads.echo import client as echo
from harness.workloads.echo.protocol import CallResult, Received
from manifests import Document, load_text
from reports.model import Evidence

T = TypeVar("T")

CONVERGENCE_BUDGET = 5.0
"""Seconds from the last ACK until the behaviour is seen everywhere; a mesh slower than that fails the check."""

MAX_EVIDENCE = 200
"""Pieces of evidence kept per check."""


class NotConverged(AssertionError):
    """A change was accepted and acknowledged but its effect was not seen within the budget."""


class Lab:
    """Made anew for each check by the `lab` fixture."""

    def __init__(self, world: World, mesh: Mesh, fleet: Fleet) -> None:
        self.world = world
        self.mesh = mesh
        self.fleet = fleet
        self.budget = CONVERGENCE_BUDGET
        self.evidence: list[Evidence] = []
        self.convergence_ms: list[float] = []
        self._applied: list[Document] = []
        self._undo: list[Callable[[], object]] = []

    # --- configuration

    def apply(self, text: str) -> Receipt:
        """Apply mesh configuration (YAML; `$NS` is the fleet's namespace) until every proxy has ACKed it.
        It is removed when the check ends."""
        documents = self.documents(text)
        self._applied = [d for d in self._applied if _key(d) not in {_key(n) for n in documents}] + documents
        receipt = self.mesh.apply(documents)
        self.convergence_ms.append(receipt.elapsed_ms)
        self.note(f"applied; {receipt.acked} of {receipt.proxies} proxies ACKed in {receipt.elapsed_ms:.0f} ms", text)
        assert receipt.complete, f"not every proxy accepted the change: {receipt}"
        return receipt

    def delete(self, text: str) -> Receipt:
        """Delete what `text` names before the check ends."""
        documents = self.documents(text)
        self._applied = [d for d in self._applied if _key(d) not in {_key(n) for n in documents}]
        return self.mesh.delete(documents)

    def documents(self, text: str) -> list[Document]:
        return load_text(text.replace("$NS", self.fleet.namespace), file=f"<{self.fleet.namespace}>")

    def on_exit(self, undo: Callable[[], object]) -> None:
        """Run `undo` when the check ends, however it ends, last one first."""
        self._undo.append(undo)

    def clean(self) -> None:
        """Undo everything."""
        while self._undo:
            self._undo.pop()()
        if self._applied:
            documents, self._applied = self._applied, []
            self.mesh.delete(documents)

    # --- traffic

    def call(
        self,
        to: str = "server",
        path: str = "/",
        *,
        client: str = "client",
        port: int | None = None,
        protocol: str = "http1",
        count: int = 1,
        **how: Any,
    ) -> list[CallResult]:
        """`count` calls by the app of pod `client` to `to` (a Service name, an FQDN or an IP); every result."""
        results = self.fleet.call(client, to, path, port=port, protocol=protocol, count=count, **how)
        self.note(f"{client} → {to}{path} ×{count} ({protocol})", summary(results))
        return results

    def get(self, path: str = "/", **how: Any) -> CallResult:
        """One call."""
        return self.call(path=path, count=1, **how)[0]

    def status(self, path: str = "/", **how: Any) -> int:
        """The status of one call; 0 when no HTTP answer came."""
        return self.get(path, **how).status

    def version(self, path: str = "/", **how: Any) -> str:
        """The version of the instance that answered one call; the status in words when none did."""
        return version_of(self.get(path, **how))

    def received(self, token: str) -> dict[str, list[Received]]:
        """What each version of the server received of the calls made with `token`."""
        return {v: echo.requests(self.world, pod, token=token) for v, pod in self.fleet.servers().items()}

    @contextmanager
    def control_plane_down(self) -> Iterator[None]:
        """The mesh's control plane is killed, and frozen as soon as it is started again, while entered. Afterwards it
        serves again, and every proxy is connected."""
        namespace = self.mesh.control_namespace
        pods = self.world.pods(namespace)
        assert pods, f"no control plane found in namespace {namespace}"
        before = {pod.name: _pids(pod) for pod in pods}
        for pod in pods:
            self.world.kill(namespace, pod.name)
        try:
            for pod in pods:
                self.until(
                    lambda name=pod.name: _pids(self.world.pod(namespace, name)) - before[name],  # type: ignore[misc]
                    "the control plane is started again",
                )
                self.world.pause(namespace, pod.name)
            yield
        finally:
            for pod in pods:
                self.world.resume(namespace, pod.name)
            self.world.wait_ready()
            self.mesh.settled(20.0)

    # --- judgement

    def until(self, seen: Callable[[], T], what: str, budget: float | None = None) -> T:
        """Wait until `seen()` is true: the change has taken effect. Raises `NotConverged` after `budget` seconds (the
        lab's own by default)."""
        budget = self.budget if budget is None else budget
        began = time.monotonic()
        while True:
            result = seen()
            took = time.monotonic() - began
            if result:
                self.note(f"converged: {what}", f"{took * 1000:.0f} ms after the last ACK")
                return result
            if took > budget:
                raise NotConverged(f"{what}: not seen within {budget:g} s of the last ACK; last seen: {result!r}")
            time.sleep(0.02)

    def note(self, title: str, text: str = "") -> None:
        """Keep a piece of evidence."""
        if len(self.evidence) < MAX_EVIDENCE:
            self.evidence.append(Evidence(title=title, text=text[:20_000]))


def _pids(pod: PodInfo) -> set[int]:
    return {container.pid for container in pod.containers if container.pid}


def version_of(result: CallResult) -> str:
    if result.echo is not None:
        return result.echo.instance.version
    return f"status {result.status}" if result.status else f"error {result.error}"


def summary(results: list[CallResult]) -> str:
    """Many results in a few lines; one result in full."""
    if len(results) == 1:
        return msgspec.json.format(msgspec.json.encode(results[0]), indent=1).decode()
    counts: dict[str, int] = {}
    for result in results:
        key = f"{result.status or result.error}: {version_of(result)}"
        counts[key] = counts.get(key, 0) + 1
    return "\n".join(f"{n:6d} × {key}" for key, n in sorted(counts.items()))


def _key(document: Document) -> tuple[str, str, str]:
    return document.kind, document.namespace, document.name


@contextmanager
def isolated(lab: Lab) -> Iterator[Lab]:
    """Run a check: afterwards everything it did is undone, and the config digest proves it."""
    before = lab.mesh.digest()
    try:
        yield lab
    finally:
        lab.clean()
    lab.mesh.settled()
    after = lab.mesh.digest()
    if before != after:
        raise RuntimeError(f"the check left the mesh changed: config digest {before} before, {after} after")
