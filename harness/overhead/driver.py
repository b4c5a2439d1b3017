"""Running the load generator: a process of its own, told by a file, watched through files.

Nothing is piped, so a reader that pauses cannot stall the generator, and a generator that hangs cannot stall the
reader. The generator ends when the process that started it does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
import pandas as pd

from harness.substrate.api import World
from loadtests import spec as load
from loadtests.spec import Arm, Health, LoadSpec, Second, WindowMark

LOG = "generator.log"
"""The generator's stderr: one JSON object per event, and a traceback should it have a defect."""
_POLL_SECONDS = 0.1
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


class LoadError(Exception):
    """The generator could not do what it was told; the message holds its own last words."""


def start_load(
    world: World | None, spec: LoadSpec | Mapping[str, Any], *, progress: Callable[[str], None] | None = None
) -> LoadRun:
    """Start a load run and return when its first arrival is due within moments. Hosts of arms that are not IPs are
    names of Services, resolved in `world` (`http://productpage.bookinfo:9080/`). `progress` gets one line per window
    while someone waits. Raises `LoadError`."""
    if isinstance(spec, Mapping):
        spec = load.decode_spec(msgspec.json.encode(spec, enc_hook=str))
    if world is not None:
        spec = msgspec.structs.replace(spec, arms=[_resolved(world, arm) for arm in spec.arms])
    if problems := spec.problems():
        raise LoadError("load spec: " + "; ".join(problems))
    out = spec.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for leftover in (load.SECONDS, load.WINDOWS, load.HEALTH, load.SAMPLES):
        (out / leftover).unlink(missing_ok=True)
    stop_file = spec.stop_file.absolute() if spec.stop_file is not None else out / "stop"
    stop_file.unlink(missing_ok=True)
    spec = msgspec.structs.replace(spec, out=out, stop_file=stop_file)
    run = LoadRun(spec, progress)
    run.wait_started()
    return run


def _resolved(world: World, arm: Arm) -> Arm:
    url = urllib.parse.urlsplit(arm.url)
    host = url.hostname or ""
    if not host or host.replace(".", "").isdigit():
        return arm
    address = world.resolve(host)
    netloc = f"{address}:{url.port}" if url.port else address
    return msgspec.structs.replace(arm, url=url._replace(netloc=netloc).geturl(), host=arm.host or url.netloc)


class LoadRun:
    """A load run, in progress or over. A context manager: leaving it ends the generator."""

    def __init__(self, spec: LoadSpec, progress: Callable[[str], None] | None = None) -> None:
        self.spec = spec
        self.out = spec.out
        self._progress = progress or (lambda line: None)
        self._shown = 0
        self._ended = False
        self._tails = {load.SECONDS: 0, load.WINDOWS: 0}
        self._marks: list[WindowMark] = []
        path = self.out / "spec.json"
        path.write_bytes(load.encode_spec(spec))
        with (self.out / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loadtests.run", str(path), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the terminal is for whoever started this run; it decides what becomes of the load.
                start_new_session=True,
            )

    # === life ===

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def start_ns(self) -> int:
        """CLOCK_MONOTONIC when the run began, warm-up included; second `t` of the run ends at `start_ns + t * 1e9`."""
        started = self._event("started")
        if started is None:
            raise LoadError("the load has not started")
        return int(started["start_ns"])

    def wait_started(self, deadline: float = _START_SECONDS) -> None:
        until = time.monotonic() + deadline
        while self._event("started") is None:
            if not self.running:
                self._raise_if_failed(self._process.returncode or 1)
            if time.monotonic() > until:
                self.kill()
                raise LoadError(f"the load generator did not start within {deadline:.0f} s; see {self.out / LOG}")
            time.sleep(_POLL_SECONDS)

    def wait(self, timeout: float | None = None) -> Health:
        """Until the run is over. `LoadError` when it failed, `TimeoutError` when `timeout` seconds pass first."""
        until = None if timeout is None else time.monotonic() + timeout
        while self.running:
            self.windows()
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"the load still runs after {timeout:.0f} s")
            time.sleep(_POLL_SECONDS)
        self.windows()
        if not self._ended:
            self._raise_if_failed(self._process.returncode)
        return self.health()

    def wait_windows(self, count: int) -> None:
        """Until `count` measured windows are complete. `LoadError` when the run ended before."""
        while len(self.windows()) < count:
            if not self.running and len(self.windows()) < count:
                self._raise_if_failed(self._process.returncode)
                raise LoadError(f"the load ended after {len(self._marks)} of {count} windows; see {self.out / LOG}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> Health:
        """End it after the window in progress (the warm-up, when that is in progress) and wait."""
        assert self.spec.stop_file is not None
        self.spec.stop_file.touch()
        longest = max(self.spec.window_seconds, self.spec.warmup_seconds) + self.spec.timeout_seconds
        return self.wait(longest + _STOP_SECONDS)

    def end(self) -> Health:
        """End it now, keeping what was measured."""
        if self.running:
            self._ended = True
            self._process.send_signal(signal.SIGTERM)
        return self.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """End it without keeping anything. Idempotent."""
        if self.running:
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.running and kind is None:
            self.end()
        self.kill()

    # === what it finds ===

    def tail(self) -> list[Second]:
        """Seconds that ended since the last call, all arms."""
        return msgspec.json.decode(self._fresh(load.SECONDS), type=list[Second])

    def seconds(self) -> list[Second]:
        """All seconds so far, all arms."""
        path = self.out / load.SECONDS
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return msgspec.json.decode(_as_list(whole), type=list[Second])

    def windows(self) -> list[WindowMark]:
        """Measured windows that are complete so far."""
        self._marks += msgspec.json.decode(self._fresh(load.WINDOWS), type=list[WindowMark])
        for mark in self._marks[self._shown :]:
            errors = f", {mark.errors} errors" if mark.errors else ""
            self._progress(f"window {mark.window + 1} of {self.spec.windows}: {mark.requests} requests{errors}")
        self._shown = len(self._marks)
        return list(self._marks)

    def samples(self) -> pd.DataFrame:
        """Raw samples: of complete windows while the run is in progress, of everything that completed afterwards."""
        parts = [self.out / load.PARTS / mark.part for mark in self.windows()]
        whole = self.out / load.SAMPLES
        if not whole.exists():
            try:
                frames = [pd.read_parquet(part) for part in parts]
            except FileNotFoundError:
                # The run ended just now: the parts have become the whole.
                frames = [pd.read_parquet(whole)]
            return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(load.SAMPLE_COLUMNS))
        return pd.read_parquet(whole)

    def health(self) -> Health:
        """The generator's own fitness; only when the run is over."""
        try:
            return msgspec.json.decode((self.out / load.HEALTH).read_bytes(), type=Health)
        except FileNotFoundError:
            raise LoadError(f"the load generator left no {load.HEALTH}; see {self.out / LOG}") from None

    # === files ===

    def _fresh(self, name: str) -> bytes:
        """Whole lines of an append-only file that were not read before, as a JSON array."""
        path = self.out / name
        if not path.exists():
            return b"[]"
        with path.open("rb") as file:
            file.seek(self._tails[name])
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._tails[name] += len(whole) + 1
        return _as_list(whole)

    def _event(self, name: str) -> dict[str, Any] | None:
        for line in (self.out / LOG).read_bytes().splitlines():
            if line.startswith(b'{"event":"' + name.encode() + b'"'):
                event: dict[str, Any] = msgspec.json.decode(line)
                return event
        return None

    def _raise_if_failed(self, code: int) -> None:
        if code == 0:
            return
        for event in ("invalid", "failed"):
            if (found := self._event(event)) is not None:
                raise LoadError(f"load generator: {found['message']}")
        last = (self.out / LOG).read_text(errors="replace")[-2000:]
        raise LoadError(f"the load generator exited with {code}; its last words:\n{last}")


def _as_list(lines: bytes) -> bytes:
    return b"[" + lines.replace(b"\n", b",") + b"]"
