"""When a measurement may be called, and what it is called. Pure.

PASS when the interval lies wholly below the limit, FAIL when wholly above, INCONCLUSIVE otherwise, and always when the
measurement was not valid. Nothing is ever repeated until it is green: a run may be *extended*, at looks fixed before it
began, and every look pays for itself from one error budget.

The looks spend alpha = 2.5 % on either side as O'Brien and Fleming would: almost nothing early, nearly all at the end
(the Lan-DeMets spending function a(t) = 2 - 2 Phi(z(1 - alpha/2) / sqrt(t)) per side). Each look builds its interval at
the confidence of its boundary, so the chance that *any* look passes a mesh that is at the limit, or fails it, is 2.5 %
each. The boundaries are exact for a normal random walk, found by integrating its density from look to look (Armitage,
McPherson and Rowe 1969).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from harness.overhead.statistics import Floats
from reports.model import Verdict

ALPHA = 0.05
_NORMAL = NormalDist()
LOOKS = (0.5, 0.75, 1.0)
"""Shares of the planned windows at which the run may be called."""
FEWEST_WINDOWS = 8
"""Below this many windows no interval is trusted."""


class Look(NamedTuple):
    windows: int
    """Windows that must be complete."""
    confidence: float
    """Of the two-sided interval at this look."""


def plan_looks(windows: int) -> list[Look]:
    """The looks of a run of `windows` windows, the last at its end."""
    counts = sorted({max(math.ceil(share * windows), min(FEWEST_WINDOWS, windows)) for share in LOOKS})
    shares = tuple(count / windows for count in counts)
    return [
        Look(count, 2 * _NORMAL.cdf(bound) - 1) for count, bound in zip(counts, boundaries(shares, ALPHA), strict=True)
    ]


@functools.cache
def boundaries(shares: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    """Two-sided z-values of looks at these information shares (increasing, the last 1), which spend `alpha` in all."""
    quantile = _NORMAL.inv_cdf(1 - alpha / 4)
    spent = [4 * (1 - _NORMAL.cdf(quantile / math.sqrt(share))) for share in shares]
    bounds: list[float] = []
    # The walk's value is kept on a grid as a density that has not crossed so far. Its scale is sqrt(information).
    grid = np.linspace(-8.0, 8.0, 1601)
    step = grid[1] - grid[0]
    density = np.zeros_like(grid)
    before = 0.0
    for share, (spent_before, spent_now) in zip(shares, itertools.pairwise([0.0, *spent]), strict=True):
        spread = math.sqrt(share - before)
        if before == 0.0:
            density = _normal_density(grid, spread)
        else:
            inside = np.abs(grid) < bounds[-1] * math.sqrt(before)
            kernel = _normal_density(grid[:, None] - grid[None, inside], spread)
            density = kernel @ density[inside] * step
        bounds.append(_bound(grid, density, step, spent_now - spent_before) / math.sqrt(share))
        before = share
    return tuple(bounds)


def _normal_density(values: Floats, spread: float) -> Floats:
    density: Floats = np.exp(-0.5 * (values / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
    return density


def _bound(grid: Floats, density: Floats, step: float, mass: float) -> float:
    """Where both tails of a symmetric density together hold `mass`."""
    tail = np.cumsum(density[::-1])[::-1] * step
    upper = grid > 0
    # The tail falls with the grid; interpolation wants rising values.
    return float(np.interp(-mass / 2, -tail[upper], grid[upper] - step / 2))


def judge(low: float, high: float, limit: float) -> Verdict:
    """The verdict of an interval of the ratio."""
    if high < limit:
        return Verdict.PASS
    if low > limit:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE


# === validity ===

ERROR_LIMIT = 0.01
"""More failed requests than this in any arm, and its latency describes failures."""
ERROR_MIX_P = 1e-3
LATENESS_LIMIT = 0.01
"""Of the baseline's P99."""
LATENESS_EXPLAINED_LIMIT = 0.05
"""Up to this much lateness is tolerated when the verdict is the same for times that exclude it."""
ACHIEVED_LIMIT = 0.995
GENERATOR_CPU_LIMIT = 0.60
"""Of one core."""
OWN_CPU_LIMIT = 0.60
"""Of all cores, by what this run itself started: above it the arms queue for CPU behind each other."""
MACHINE_CPU_LIMIT = 0.90
"""Of all cores, whoever uses them."""
FOREIGN_CPU_LIMIT = 0.15
"""Of all cores, by what this run did not start. A mesh has more processes to be kept waiting than its twin, so
foreign load does not only blur the ratio, it raises it: +20 % and +27 % were read where a quiet machine read +8 %."""
STEAL_LIMIT = 0.05
DROPPED_LIMIT = 0.25
CONTROL_CONFIDENCE = 0.99
"""Of the A/A interval, which is true by construction: at 95 % one sound run in twenty would be thrown away."""
CONTROL_HALF_WIDTH = 0.02

WINDOW_STEAL_LIMIT = 0.10
WINDOW_MACHINE_CPU_LIMIT = 0.98
WINDOW_LATENESS_LIMIT_MS = 20.0


class Validity(NamedTuple):
    """One condition of a measurement, with its reading."""

    name: str
    ok: bool
    reading: str
    wrong: str = ""
    """What to say when it is not ok."""


def drop_window(*, steal_fraction: float, machine_cpu_fraction: float, lateness_p99_ms: float) -> bool:
    """Whether a window is left out: the machine was taken away, saturated, or the generator stalled. Fixed in advance,
    and of readings in which the arms cannot be told apart."""
    return (
        steal_fraction > WINDOW_STEAL_LIMIT
        or machine_cpu_fraction > WINDOW_MACHINE_CPU_LIMIT
        or lateness_p99_ms > WINDOW_LATENESS_LIMIT_MS
    )


def conclude(verdict: Verdict, validities: Sequence[Validity]) -> tuple[Verdict, str]:
    """The final verdict and, when a condition failed, why it is not the interval's."""
    wrong = [validity.wrong for validity in validities if not validity.ok]
    if wrong:
        return Verdict.INCONCLUSIVE, "not a valid measurement: " + "; ".join(wrong)
    return verdict, ""
