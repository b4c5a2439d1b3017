"""Control groups of containers: `meshproof/<world>/<pod>/<container>` in every hierarchy that is used.

Three layouts of a machine are served by one list of hierarchies: version 2 alone, version 1 alone, and the hybrid
of both (version 2 mounted without controllers). Version 2 gives freezing, killing and CPU time even without
controllers; version 1 gives limits, and CPU time where there is no version 2.

Version 1's freezer is not used: a task frozen by it cannot be killed, so a supervisor that dies would leave
frozen processes behind. SIGSTOP to every process of the group does the same to the outside and yields to SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from harness.substrate.api import Usage

ROOT: Final = "meshproof"
_CONTROLLERS: Final = ("cpuacct", "cpu", "memory", "pids")
_PERIOD_MICROSECONDS: Final = 100_000
_SWEEPS: Final = 50
"""Passes over a group's processes until none forks any more; each pass outruns a generation."""
_SWEEP_PAUSE_SECONDS: Final = 0.001


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    cpus: float | None = None
    memory_bytes: int | None = None


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    unified: Path | None
    """Mount point of version 2."""
    v1: dict[str, Path]
    """Controller to mount point of its version 1 hierarchy."""
    controllers: frozenset[str] = frozenset()
    """Controllers that version 2 has."""

    @property
    def roots(self) -> list[Path]:
        places = list(dict.fromkeys(self.v1.values()))
        return [*places, self.unified] if self.unified else places

    def describe(self) -> str:
        if self.unified and self.v1:
            return "hybrid of versions 1 and 2"
        return "version 2" if self.unified else "version 1" if self.v1 else "none"


def layout(mounts: str | None = None) -> Layout:
    """How control groups are mounted; `mounts` has the format of `/proc/mounts`."""
    text = Path("/proc/mounts").read_text() if mounts is None else mounts
    unified: Path | None = None
    v1: dict[str, Path] = {}
    for line in text.splitlines():
        _, point, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" and unified is None:
            unified = Path(point)
        elif kind == "cgroup":
            for controller in set(options.split(",")) & set(_CONTROLLERS):
                v1.setdefault(controller, Path(point))
    found: frozenset[str] = frozenset()
    if unified is not None:
        with contextlib.suppress(OSError):
            found = frozenset((unified / "cgroup.controllers").read_text().split())
    return Layout(unified=unified, v1=v1, controllers=found)


class Group:
    """One container's group, in all hierarchies. Lives as long as its pod, over all restarts."""

    def __init__(self, layout: Layout, path: str, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self._layout = layout
        self._folders = _folders(layout, path)
        self._unified = layout.unified / ROOT / path if layout.unified else None
        self._peak = 0
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        if self._unified is not None:
            self._delegate(path)
        self._limit(limits)

    def _delegate(self, path: str) -> None:
        """Hand version 2's controllers down to this group, level by level."""
        assert self._layout.unified is not None
        wanted = " ".join(f"+{name}" for name in ("cpu", "memory", "pids") if name in self._layout.controllers)
        folder = self._layout.unified
        for part in ("", ROOT, *path.split("/")[:-1]):
            folder = folder / part
            if wanted:
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(wanted)

    def _limit(self, limits: Limits) -> None:
        if limits.cpus is not None:
            quota = str(int(limits.cpus * _PERIOD_MICROSECONDS))
            if "cpu" in self._layout.v1:
                (self._v1("cpu") / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
                (self._v1("cpu") / "cpu.cfs_quota_us").write_text(quota)
            elif self._unified is not None:
                (self._unified / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")
        if limits.memory_bytes is not None:
            if "memory" in self._layout.v1:
                (self._v1("memory") / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
            elif self._unified is not None:
                (self._unified / "memory.max").write_text(str(limits.memory_bytes))

    def _v1(self, controller: str) -> Path:
        root = self._layout.v1[controller]
        return self._folders[self._layout.roots.index(root)]

    @property
    def joins(self) -> tuple[str, ...]:
        return tuple(str(folder / "cgroup.procs") for folder in self._folders)

    def pids(self) -> list[int]:
        """Host pids of every process in the group."""
        if not self._folders:
            return []
        try:
            return [int(pid) for pid in (self._folders[-1] / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    def kill(self) -> None:
        """SIGKILL every process of the group, frozen or not; what they held is remembered as a peak."""
        self.usage()
        if self._unified is not None:
            try:
                (self._unified / "cgroup.kill").write_text("1")
            except OSError:
                pass  # before Linux 5.14
            else:
                return
        _sweep(self.pids, signal.SIGKILL, _gone)

    def freeze(self) -> None:
        if self._unified is not None:
            events = self._unified / "cgroup.events"
            (self._unified / "cgroup.freeze").write_text("1")
            _until(lambda: "frozen 1" in events.read_text())
        else:
            _sweep(self.pids, signal.SIGSTOP, _stopped)

    def thaw(self) -> None:
        if self._unified is not None:
            (self._unified / "cgroup.freeze").write_text("0")
        else:
            for pid in self.pids():
                _signal(pid, signal.SIGCONT)

    def note_peak(self, peak_rss_bytes: int) -> None:
        """Note a high-water mark; the kernel forgets it with the process."""
        self._peak = max(self._peak, peak_rss_bytes)

    def usage(self) -> Usage:
        rss = peak = 0
        for pid in self.pids():
            now, high = _resident(pid)
            rss += now
            peak += high
        self.note_peak(peak)
        cpu, throttled = self._cpu()
        return Usage(
            cpu_seconds=cpu,
            rss_bytes=rss,
            peak_rss_bytes=self._peak,
            throttled_periods=throttled,
        )

    def _cpu(self) -> tuple[float, int]:
        throttled = 0
        if "cpu" in self._layout.v1:
            throttled = _flat(self._v1("cpu") / "cpu.stat").get("nr_throttled", 0)
        if self._unified is not None:
            stat = _flat(self._unified / "cpu.stat")
            if "usage_usec" in stat:
                return stat["usage_usec"] / 1e6, stat.get("nr_throttled", throttled)
        if "cpuacct" in self._layout.v1:
            return int((self._v1("cpuacct") / "cpuacct.usage").read_text()) / 1e9, throttled
        return 0.0, throttled


def remove(folder: Path) -> bool:
    """Remove a group and all groups below it; whether nothing is left. Processes in them are not touched."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    return not folder.exists()


def _folders(layout: Layout, path: str) -> list[Path]:
    return [root / ROOT / path for root in layout.roots]


def remove_group(layout: Layout, path: str) -> bool:
    left = [path for path in _folders(layout, path) if not remove(path)]
    return not left


def kill_below(folder: Path) -> None:
    """SIGKILL every process in the groups at and below `folder`, thawed first."""
    for path, _, _ in os.walk(folder):
        group = Path(path)
        with contextlib.suppress(OSError):
            (group / "cgroup.freeze").write_text("0")
        with contextlib.suppress(OSError, ValueError):
            for pid in (group / "cgroup.procs").read_text().split():
                _signal(int(pid), signal.SIGKILL)


def _flat(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}


def _resident(pid: int) -> tuple[int, int]:
    """VmRSS and VmHWM in bytes; zero for a process that has ended."""
    rss = high = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                rss = int(line.split()[1]) * 1024
            elif line.startswith("VmHWM:"):
                high = int(line.split()[1]) * 1024
    return rss, high


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _stopped(pid: int) -> bool:
    return _state(pid) in {"", "T", "t", "Z", "X"}


def _gone(pid: int) -> bool:
    return _state(pid) in {"", "Z", "X"}


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _sweep(pids: Callable[[], list[int]], number: int, done: Callable[[int], bool]) -> None:
    """Signal every process until all are `done`, those that were forked meanwhile too."""
    for _ in range(_SWEEPS):
        left = [pid for pid in pids() if not done(pid)]
        if not left:
            return
        for pid in left:
            _signal(pid, number)
        time.sleep(_SWEEP_PAUSE_SECONDS)


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(_SWEEPS):
        if condition():
            return
        time.sleep(_SWEEP_PAUSE_SECONDS)
