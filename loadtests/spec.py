"""What a load run is told, as one JSON file: `python -m loadtests.run spec.json`.

The run is open-loop: every arrival is fixed before the first request is sent, as a function of the spec alone.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

SEED_HEADER = "x-profile-seed"
"""Names the random draw of one request. Workloads take their service times from it and forward it, so two requests
with one seed cost the same in every arm (common random numbers)."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One of the things compared. Requests are made by sockets that live in `netns`, so a client sidecar there
    takes part, and the generator itself is the same process for every arm."""

    name: str
    url: str
    """Scheme, host as an IP, port and path, such as `http://10.96.0.7:9080/productpage`."""
    host: str = ""
    """Host header; the URL's own when empty."""
    netns: str = ""
    """Path for setns; the generator's own namespace when empty."""
    headers: dict[str, str] = {}


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    arms: list[Arm]
    rate: float
    """Arrivals per second and arm, Poisson."""
    window_seconds: float = 4.0
    windows: int = 10
    """Measured windows; the unit of analysis."""
    warmup_seconds: float = 3.0
    """Load of the same rate before the first window, not recorded."""
    users: int = 32
    seed: int = 1
    paired: bool = True
    """Within a window every arm receives the same multiset of profile seeds, in its own random order and at its own times."""
    timeout_seconds: float = 10.0
    out: Path = Path("out")
    """Folder for `samples.parquet`, `histograms.json`, `health.json`."""
    stop_file: Path | None = None
    """When this file appears the run ends after the window in progress (used to extend or end a run by verdict)."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The generator's own fitness; an unfit generator makes the run invalid, not the mesh slow."""

    target_rate: float
    achieved_rate: float
    lateness_p50_ms: float
    lateness_p99_ms: float
    cpu_fraction: float
    """CPU seconds of the generator per second of run; 1.0 is one core."""
    machine_cpu_fraction: float
    """Busy share of all cores while running."""
    steal_fraction: float
    requests: int
    errors: int


SAMPLE_COLUMNS = ("arm", "window", "seed", "intended_ns", "sent_ns", "done_ns", "status", "error", "bytes")
"""Columns of `samples.parquet`. Times are CLOCK_MONOTONIC nanoseconds. Latency is `done_ns - intended_ns`; service time
`done_ns - sent_ns`. `status` is 0 and `error` names the failure when no response came. `window` -1 is warm-up."""
