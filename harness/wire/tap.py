"""A tap on a world's wire: start it before the traffic, ask it at any time, stop it into the bundle.

Start it before the workloads, ideally right after the world: a connection that was open before the tap cannot be
vouched for and counts as unknown, and proxies keep connections for as long as they can. For a world that is already
busy, restart the proxies (or let them drain) after `start`; there is no way to read a handshake that is over.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from harness.substrate.api import NODE, PodInfo, ServiceInfo, SubstrateError, World
from harness.wire.coverage import coverage, places
from harness.wire.table import Table
from reports.bundle import Bundle
from reports.model import WireResult

_START_SECONDS = 15.0
_ANSWER_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_FINISH_SECONDS = 1.0
"""What a handshake under way gets to finish before it is judged."""
CAPTURE_FILE = "wire/capture.pcap"
FLOWS_FILE = "wire/flows.json"


class Wire(Protocol):
    """What the tap asks of a mesh: how its traffic is known. `harness.meshes.api.Mesh` has it."""

    @property
    def alpn(self) -> frozenset[str]: ...

    @property
    def control_namespace(self) -> str: ...


class CaptureError(Exception):
    """The capture did not start or did not answer; the message holds what it said."""


class WireTap:
    """`with WireTap(world, mesh) as tap: ...; result = tap.stop(bundle, namespaces=["bookinfo"])`"""

    def __init__(self, world: World, mesh: Wire, *, namespaces: Collection[str] = (), ring_megabytes: int = 32) -> None:
        self._world = world
        self._mesh = mesh
        self._namespaces = frozenset(namespaces)
        self._ring = ring_megabytes
        self._origin = time.time()
        self._cleanup = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._pods: dict[str, PodInfo] = {}
        self._services: dict[str, ServiceInfo] = {}
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._taken = 0

    def start(self) -> Self:
        """Returns once packets are being captured."""
        if self._process is not None:
            raise CaptureError("this tap is running already")
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="meshproof-wire-")))
        argv = [sys.executable, "-m", "harness.wire.capture", "--pcap", str(self._folder / "capture.pcap")]
        argv += ["--ring-megabytes", str(self._ring)]
        with self._complaints.open("wb") as complaints:
            process = self._world.popen(
                argv, source=NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
            )
        self._process = process
        self._cleanup.callback(_end, process)
        answer = self._answer(_START_SECONDS)
        if not answer.startswith("ready"):
            error = self._error("did not start", answer)
            self.close()
            raise error
        watcher = threading.Thread(target=self._watch, name="wire-tap", daemon=True)
        self._cleanup.callback(watcher.join, 10.0)
        self._cleanup.callback(self._ending.set)
        watcher.start()
        return self

    def snapshot(self, namespaces: Collection[str] = (), *, since: float = 0.0) -> WireResult:
        """What was seen so far. `namespaces` replaces those given at the start; `since` (seconds since the epoch)
        leaves out connections that began earlier."""
        until = time.time()
        table = self._ask("snapshot", until)
        return self._result(table, namespaces, since, until)

    def stop(self, out: Bundle | None = None, namespaces: Collection[str] = (), *, since: float = 0.0) -> WireResult:
        """Ends the capture. With a bundle, the packets and the flows of the whole world go into it as evidence."""
        until = time.time()
        table = self._ask("stop", until)
        result = self._result(table, namespaces, since, until)
        if out is not None:
            out.write(CAPTURE_FILE, (self._folder / "capture.pcap").read_bytes())
            out.write(FLOWS_FILE, msgspec.json.format(msgspec.json.encode(table), indent=1))
            result.capture_file = CAPTURE_FILE
        self.close()
        return result

    def close(self) -> None:
        """Ends the capture if it still runs. Idempotent."""
        self._cleanup.close()
        self._process = None

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _result(self, table: Table, namespaces: Collection[str], since: float, until: float) -> WireResult:
        wanted = frozenset(namespaces) or self._namespaces
        if not wanted:
            raise ValueError("name the namespaces whose traffic is to be judged")
        with self._lock:
            where = places(self._pods.values(), self._services.values())
        return coverage(
            table.flows,
            where,
            frozenset(table.addresses),
            namespaces=wanted,
            alpn=self._mesh.alpn,
            control_namespace=self._mesh.control_namespace,
            origin=self._origin,
            since=since,
            until=until,
            dropped=table.dropped,
        )

    def _ask(self, command: str, until: float) -> Table:
        if self._process is None or self._process.stdin is None:
            raise CaptureError("the tap is not running")
        time.sleep(max(0.0, until + _FINISH_SECONDS - time.time()))
        self._look()
        self._taken += 1
        path = self._folder / f"flows-{self._taken}.json"
        try:
            self._process.stdin.write(f"{command} {path}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._error("has ended by itself", "") from None
        answer = self._answer(_ANSWER_SECONDS)
        if answer != f"ok {path}":
            raise self._error(f"did not answer `{command}`", answer)
        table = msgspec.json.decode(path.read_bytes(), type=Table)
        path.unlink()
        return table

    @property
    def _complaints(self) -> Path:
        return self._folder / "stderr"

    def _error(self, what: str, answer: str) -> CaptureError:
        said = answer or self._complaints.read_text(errors="replace")[-2000:].strip() or "it said nothing"
        return CaptureError(f"the capture {what}: {said}")

    def _answer(self, seconds: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        said = b""
        while not said.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
            if select.select([output], [], [], left)[0]:
                chunk = os.read(output, 1 << 16)
                if not chunk:
                    break
                said += chunk
        return said.decode(errors="replace").strip()

    def _watch(self) -> None:
        """Remember who had which address: pods come and go while the tap runs."""
        while not self._ending.wait(_LOOK_SECONDS):
            try:
                self._look()
            except SubstrateError:
                continue  # asked again at the next look, and in `_ask`, where it counts

    def _look(self) -> None:
        pods, services = self._world.pods(), self._world.services()
        with self._lock:
            self._pods.update({pod.ip: pod for pod in pods if pod.ip})
            self._services.update({service.cluster_ip: service for service in services})


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # a command it did not live to read
                stream.close()
    try:
        process.wait(2.0)  # it ends with its standard input
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
