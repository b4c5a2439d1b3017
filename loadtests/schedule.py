"""When every request of a load run is sent, to whom and with which seed: a pure function of the spec.

Model: per arm the arrivals are a Poisson process of `spec.rate`, in windows of `spec.window_seconds`. A Poisson process
over a window is a Poisson number of points, each uniform on the window, so that is how it is drawn. Warm-up is window
-1.

Invariants
- The schedule is fixed before the first request is sent (open loop): no answer, late or lost, moves any arrival.
- Each window has a random stream of its own, so a run with more windows begins like the run with fewer.
- The order of arms within a window is a random permutation: whatever happens to the machine meets each arm alike.
- Paired (common random numbers): in one window every arm has the same number of arrivals and the same multiset of
  profile seeds, each arm in a random order of its own. Marginally every arm is still exactly Poisson.
- Arrivals are sorted by time, hence by window.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from loadtests.spec import LoadSpec

WARMUP = -1
"""The window number of arrivals before the first measured window."""

_LARGEST_SEED = 2**31 - 1
# Fits the signed 32-bit integers of any language a workload may be written in.


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Arrivals as parallel arrays, sorted by `offset_ns`: nanoseconds from the run's start, which is warm-up's."""

    offset_ns: npt.NDArray[np.int64]
    arm: npt.NDArray[np.int16]
    window: npt.NDArray[np.int32]
    seed: npt.NDArray[np.int64]
    windows: int
    warmup_ns: int
    window_ns: int

    def __len__(self) -> int:
        return len(self.offset_ns)

    def slice_of(self, window: int) -> slice:
        """The arrivals of one window; `WARMUP` is one too."""
        first, last = np.searchsorted(self.window, [window, window + 1])
        return slice(int(first), int(last))

    def start_ns(self, window: int) -> int:
        """Where a window begins, from the run's start; `windows` itself gives the end of the run."""
        return 0 if window == WARMUP else self.warmup_ns + window * self.window_ns

    def window_at(self, offset_ns: int) -> int:
        """The window that an instant of the run lies in, never past the last."""
        if offset_ns < self.warmup_ns:
            return WARMUP
        return min((offset_ns - self.warmup_ns) // self.window_ns, self.windows - 1)


def schedule(spec: LoadSpec) -> Schedule:
    """All arrivals of the run that `spec` describes."""
    warmup_ns = round(spec.warmup_seconds * 1e9)
    window_ns = round(spec.window_seconds * 1e9)
    drawn = [_draw(spec, WARMUP, 0, warmup_ns)] if warmup_ns else []
    drawn += [_draw(spec, index, warmup_ns + index * window_ns, window_ns) for index in range(spec.windows)]
    offset, arm, window, seed = (np.concatenate(column) for column in zip(*drawn, strict=True))
    return Schedule(offset, arm, window, seed, spec.windows, warmup_ns, window_ns)


_Drawn = tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], npt.NDArray[np.int32], npt.NDArray[np.int64]]


def _draw(spec: LoadSpec, window: int, start_ns: int, length_ns: int) -> _Drawn:
    random = np.random.default_rng([spec.seed, window + 1])
    arms = len(spec.arms)
    mean = spec.rate * length_ns / 1e9
    if spec.paired:
        counts = np.full(arms, random.poisson(mean))
        shared = random.integers(1, _LARGEST_SEED, size=counts[0])
        seeds = [random.permutation(shared) for _ in range(arms)]
    else:
        counts = random.poisson(mean, size=arms)
        seeds = [random.integers(1, _LARGEST_SEED, size=count) for count in counts]
    total = int(counts.sum())
    # The instants are drawn for all arms at once and dealt out at random. Rounding to whole nanoseconds may make ties,
    # which a stable sort leaves in the order drawn.
    offset = start_ns + random.integers(0, length_ns, size=total)
    arm = np.repeat(np.arange(arms, dtype=np.int16), counts)
    seed = np.concatenate(seeds)
    order = np.argsort(offset, kind="stable")
    return offset[order], arm[order], np.full(total, window, dtype=np.int32), seed[order]
