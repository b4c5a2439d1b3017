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
    """Within a window every arm receives the same multiset of profile seeds, in its own random order and at its own
    times."""
    timeout_seconds: float = 10.0
    out: Path = Path("out")
    """Folder for `samples.parquet`, `histograms.json`, `health.json`, and while running `seconds.ndjson` and
    `windows.ndjson` (see `Second`, `WindowMark`)."""
    stop_file: Path | None = None
    """When this file appears the run ends after the window in progress (used to extend or end a run by verdict)."""

    def problems(self) -> list[str]:
        """What is wrong with the values, one sentence each; empty when nothing is."""
        names = [arm.name for arm in self.arms]
        checks = [
            (bool(names), "arms: at least one is needed"),
            (all(names), "arms: every arm needs a name"),
            (len(set(names)) == len(names), f"arms: names must differ, got {names}"),
            (self.rate > 0, f"rate: must be above 0, got {self.rate}"),
            (self.window_seconds > 0, f"window_seconds: must be above 0, got {self.window_seconds}"),
            (self.windows >= 1, f"windows: must be at least 1, got {self.windows}"),
            (self.warmup_seconds >= 0, f"warmup_seconds: must not be negative, got {self.warmup_seconds}"),
            (self.users >= 1, f"users: must be at least 1, got {self.users}"),
            (self.seed >= 0, f"seed: must not be negative, got {self.seed}"),
            (self.timeout_seconds > 0, f"timeout_seconds: must be above 0, got {self.timeout_seconds}"),
        ]
        return [problem for fine, problem in checks if not fine]


def encode_spec(spec: LoadSpec) -> bytes:
    """The spec as the JSON that `decode_spec` reads."""
    return msgspec.json.encode(spec, enc_hook=str)


def decode_spec(document: bytes) -> LoadSpec:
    """Raises `msgspec.DecodeError`, which names the field."""
    return msgspec.json.decode(document, type=LoadSpec, dec_hook=lambda kind, value: kind(value))


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The generator's own fitness; an unfit generator makes the run invalid, not the mesh slow."""

    target_rate: float
    """Arrivals per second and arm that the schedule holds for the windows measured, drawn from `LoadSpec.rate`."""
    achieved_rate: float
    """Requests per second and arm that were sent and completed; less than the target when the generator fell behind."""
    lateness_p50_ms: float
    lateness_p99_ms: float
    cpu_fraction: float
    """CPU seconds of the generator per second of run; 1.0 is one core."""
    machine_cpu_fraction: float
    """Busy share of all cores while running."""
    steal_fraction: float
    requests: int
    errors: int
    reopened: int = 0
    """Requests that found their idle keep-alive connection closed by the peer, got no byte of a response, and were sent
    again on a new one (RFC 9110, section 9.2.2). Counted apart from errors."""
    windows: int = 0
    """Windows that were measured to their end."""
    interrupted: bool = False


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `seconds.ndjson`: what completed for one arm within one second of the run, warm-up included.
    Written as soon as the second is over, for those who must act while the load runs."""

    t: float
    """Seconds from the run's start to this second's end."""
    ns: int
    """CLOCK_MONOTONIC at this second's end."""
    arm: str
    requests: int
    """Completed, errors included."""
    errors: int
    p50_ms: float
    """Of all completed requests, errors included; 0 when none completed."""
    p99_ms: float
    pending: int
    """Due but not completed yet: in flight, or waiting because every user is busy."""


class WindowMark(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `windows.ndjson`: a measured window whose requests have all completed. Its samples are readable in
    `parts/` until the run ends, in `samples.parquet` afterwards. The readings know nothing of arms, so a rule that
    drops windows by them is blind to the arm."""

    window: int
    start_ns: int
    end_ns: int
    requests: int
    errors: int
    lateness_p99_ms: float
    cpu_fraction: float
    machine_cpu_fraction: float
    steal_fraction: float
    part: str
    """File name below `parts/`."""


SAMPLES = "samples.parquet"
HISTOGRAMS = "histograms.json"
HEALTH = "health.json"
SECONDS = "seconds.ndjson"
WINDOWS = "windows.ndjson"
PARTS = "parts"

SAMPLE_COLUMNS = ("arm", "window", "seed", "intended_ns", "sent_ns", "done_ns", "status", "error", "bytes")
"""Columns of `samples.parquet`. Times are CLOCK_MONOTONIC nanoseconds. Latency is `done_ns - intended_ns`; service time
`done_ns - sent_ns`. `status` is 0 and `error` names the failure when no response came. `window` -1 is warm-up.

Latency counts from the intended start so that a stall which delays later requests is billed to them as well (no
coordinated omission). `sent_ns - intended_ns` is the generator's lateness: its timer is a timerfd, so on an idle
machine it is about 0.1 ms, the same for every arm; both numbers are kept so that a doubter can use the other."""
