"""How two arms of one load run compare. Pure: arrays in, numbers out, every random draw seeded.

The window is the unit of analysis, not the request: requests that share a second share its noise, so their number
says little about precision. Within a window both arms met the same noise and the same multiset of service times, so the
ratio of the arms' quantiles is taken per window, and windows are averaged on the log scale: the statistic is the
*geometric mean of window ratios*.

Its interval is a bootstrap over windows, studentised (bootstrap-t) rather than percentile or BCa. With 10 to 30 windows
the percentile interval of a mean is too narrow (its spread has a divisor n where n - 1 belongs, and it uses the
normal's quantiles where Student's belong), and BCa, which corrects its ends for bias and skew, starts from that same
width. Bootstrap-t resamples the t statistic itself, so both are right to second order. It still undercovers when single
windows are wild (90 % instead of 95 % when one in ten is five times as noisy), where Student's own interval is
conservative, and Student's undercovers when ratios are skewed, where bootstrap-t does not. So on either side the
farther of the two bounds is taken: at least 93 % in every case that `tests/overhead` simulates.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 10_000
# Enough for the 0.1 % tail that the earliest look of a sequential run asks for.


class Estimate(NamedTuple):
    value: float
    low: float
    high: float
    confidence: float


def window_quantiles(latency: Floats, window: Ints, windows: Ints, quantile: float) -> Floats:
    """The quantile of each of `windows`, in that order. NaN where a window has no sample."""
    order = np.argsort(window, kind="stable")
    latency, window = latency[order], window[order]
    first = np.searchsorted(window, windows)
    last = np.searchsorted(window, windows, side="right")
    return np.array(
        [
            np.quantile(latency[start:stop], quantile) if stop > start else math.nan
            for start, stop in zip(first, last, strict=True)
        ]
    )


def mean_interval(values: Floats, confidence: float, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Mean of `values` (one per window) and its two-sided interval: on either side the farther of bootstrap-t's and
    Student's bounds. Fewer than three values give an interval without bounds: nothing can be said."""
    count = len(values)
    mean = float(values.mean()) if count else math.nan
    if count < 3:
        return Estimate(mean, -math.inf, math.inf, confidence)
    error = values.std(ddof=1) / math.sqrt(count)
    if error == 0:
        return Estimate(mean, mean, mean, confidence)
    drawn = values[np.random.default_rng(seed).integers(0, count, size=(resamples, count))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(count)
    # A resample of one value again and again has no spread; it says "infinitely far away", on the side it lies.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((drawn.mean(axis=1) - mean) / errors, nan=0.0, posinf=np.inf, neginf=-np.inf)
    tail = (1 - confidence) / 2
    low, high = np.quantile(t, [tail, 1 - tail], method="inverted_cdf")
    student = student_quantile(1 - tail, count - 1)
    reach_down, reach_up = max(float(high), student), max(float(-low), student)
    return Estimate(mean, float(mean - reach_down * error), float(mean + reach_up * error), confidence)


@functools.cache
def student_quantile(p: float, degrees: int) -> float:
    """The quantile (p >= 0.5) of Student's t. With t = sqrt(degrees) * tan(angle) its density is that of
    cos(angle) ** (degrees - 1), which is integrated."""
    angles = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(p - 0.5, mass / (2 * mass[-1]), angles)
    return math.sqrt(degrees) * math.tan(float(angle))


def geometric_mean_ratio(
    numerator: Floats, denominator: Floats, confidence: float, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """Geometric mean over windows of `numerator / denominator`, the arms' quantiles window by window."""
    logs = mean_interval(np.log(numerator / denominator), confidence, seed, resamples)
    return Estimate(math.exp(logs.value), math.exp(logs.low), _exp(logs.high), confidence)


class Pool:
    """All samples of one arm, ready to give a quantile of any weighting of windows: for quantiles too far out for a
    single window, such as P99.9."""

    def __init__(self, latency: Floats, window: Ints, windows: Ints) -> None:
        keep = np.isin(window, windows)
        latency, window = latency[keep], window[keep]
        order = np.argsort(latency)
        self._latency = latency[order]
        self._window = np.searchsorted(windows, window[order])

    def quantile(self, weights: Ints, quantile: float) -> float:
        """The quantile when window i counts `weights[i]` times; NaN when that leaves nothing."""
        cumulated = np.cumsum(weights[self._window])
        if not len(cumulated) or cumulated[-1] == 0:
            return math.nan
        at = int(np.searchsorted(cumulated, quantile * cumulated[-1]))
        return float(self._latency[min(at, len(self._latency) - 1)])


def pooled_ratio(
    numerator: Pool,
    denominator: Pool,
    windows: int,
    quantile: float,
    confidence: float,
    seed: int,
    resamples: int = 1000,
) -> tuple[Estimate, Estimate]:
    """Ratio and difference of the arms' quantiles over all windows together, with percentile intervals of a bootstrap
    over windows (whole windows are drawn, the same for both arms)."""
    nothing = Estimate(math.nan, -math.inf, math.inf, confidence)
    if windows == 0:
        return nothing, nothing
    random = np.random.default_rng(seed)
    weights = random.multinomial(windows, np.full(windows, 1 / windows), size=resamples)
    pairs = np.array([(numerator.quantile(row, quantile), denominator.quantile(row, quantile)) for row in weights])
    whole = np.ones(windows, dtype=np.int64)
    top, bottom = numerator.quantile(whole, quantile), denominator.quantile(whole, quantile)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if not len(pairs) or not math.isfinite(top / bottom):
        return nothing, nothing
    ratio_low, ratio_high = np.quantile(pairs[:, 0] / pairs[:, 1], tails)
    delta_low, delta_high = np.quantile(pairs[:, 0] - pairs[:, 1], tails)
    return (
        Estimate(top / bottom, float(ratio_low), float(ratio_high), confidence),
        Estimate(top - bottom, float(delta_low), float(delta_high), confidence),
    )


def percentile_curve(latency: Floats, points: int = 120) -> list[tuple[float, float]]:
    """(quantile, latency) for a percentile curve on a log-nines axis: evenly spaced in -log10(1 - q), from the fastest
    sample to the last quantile that more than one sample lies beyond."""
    if not len(latency):
        return []
    nines = np.linspace(0.0, max(math.log10(len(latency)), 1.0), points)
    quantiles = 1 - 10.0**-nines
    return list(zip(quantiles.tolist(), np.quantile(latency, quantiles).tolist(), strict=True))


def break_even_ms(delta_ms: float, limit: float) -> float:
    """The service time at which an increase of `delta_ms` is exactly the limit; 0 when there is no increase."""
    return max(delta_ms, 0.0) / (limit - 1)


def fisher_exact(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Two-sided p-value that two arms' (good, bad) counts come from one distribution."""
    good, bad = first[0] + second[0], first[1] + second[1]
    size, total = sum(first), first[0] + first[1] + second[0] + second[1]
    lowest, highest = max(0, size - good), min(bad, size)

    def log_probability(bad_in_first: int) -> float:
        return _log_choose(bad, bad_in_first) + _log_choose(good, size - bad_in_first) - _log_choose(total, size)

    observed = log_probability(first[1])
    # Only tables that are no more likely than the observed one count; the margin absorbs rounding.
    terms = [log_probability(count) for count in range(lowest, highest + 1)]
    return min(1.0, sum(math.exp(term) for term in terms if term <= observed + 1e-9))


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
