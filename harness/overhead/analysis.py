"""From the samples of one paired load run to what is reported about it. Pure.

Two twins of a workload, one direct and one meshed, are each called under two labels: four arms of the same rate.

    direct, control            -> the direct twin
    meshed, meshed-control     -> the meshed twin

An effect is estimated from both labels of each twin. The control is `control / direct`: same twin, same windows, so
its true ratio is 1, and an interval that excludes 1 says that the environment, or this program, cannot be trusted.
Splitting *both* twins keeps their load the same; a control on one side alone would give that twin twice the requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.overhead import statistics as stats
from harness.overhead import verdict as rules
from harness.overhead.statistics import Estimate, Floats, Ints
from harness.overhead.verdict import Validity
from loadtests.spec import Health, WindowMark
from reports.model import ArmSummary, Interval, RatioEstimate, Verdict

DIRECT = ("direct", "control")
MESHED = ("meshed", "meshed-control")
ARMS = DIRECT + MESHED

JUDGED = 0.99
"""The quantile the verdict is about."""
WINDOW_QUANTILES = (0.5, 0.9, 0.99)
POOLED_QUANTILES = (0.999,)
"""Too far out for one window's samples: estimated over all windows together."""
_SHOWN_CONFIDENCE = 0.95


class Kept(NamedTuple):
    windows: Ints
    dropped: int


def keep_windows(marks: Sequence[WindowMark]) -> Kept:
    """The windows that count, by rules that cannot tell the arms apart."""
    kept = [
        mark.window
        for mark in marks
        if not rules.drop_window(
            steal_fraction=mark.steal_fraction,
            machine_cpu_fraction=mark.machine_cpu_fraction,
            lateness_p99_ms=mark.lateness_p99_ms,
        )
    ]
    return Kept(np.array(kept, dtype=np.int64), len(marks) - len(kept))


class Twin(NamedTuple):
    """The samples of one or more arms that have a response, in the windows that count."""

    latency: Floats
    """Milliseconds."""
    window: Ints

    @classmethod
    def of(cls, samples: pd.DataFrame, arms: Sequence[str], windows: Ints, since: str = "intended_ns") -> Twin:
        chosen = samples[samples["arm"].isin(arms) & samples["window"].isin(windows) & (samples["status"] > 0)]
        latency = (chosen["done_ns"].to_numpy(np.int64) - chosen[since].to_numpy(np.int64)) / 1e6
        return cls(latency, chosen["window"].to_numpy(np.int64))


def ratio_of(top: Twin, bottom: Twin, windows: Ints, quantile: float, confidence: float, seed: int) -> RatioEstimate:
    """Geometric mean of the windows' ratios, and the mean of their differences in ms, each with its interval."""
    above = stats.window_quantiles(top.latency, top.window, windows, quantile)
    below = stats.window_quantiles(bottom.latency, bottom.window, windows, quantile)
    both = np.isfinite(above) & np.isfinite(below)
    above, below = above[both], below[both]
    ratio = stats.geometric_mean_ratio(above, below, confidence, seed)
    delta = stats.mean_interval(above - below, confidence, seed)
    return _estimate(quantile, ratio, delta, (above / below).tolist())


def pooled_ratio_of(
    top: Twin, bottom: Twin, windows: Ints, quantile: float, confidence: float, seed: int
) -> RatioEstimate:
    pools = [stats.Pool(twin.latency, twin.window, windows) for twin in (top, bottom)]
    ratio, delta = stats.pooled_ratio(pools[0], pools[1], len(windows), quantile, confidence, seed)
    return _estimate(quantile, ratio, delta, [])


def _estimate(quantile: float, ratio: Estimate, delta: Estimate, windows: list[float]) -> RatioEstimate:
    return RatioEstimate(
        quantile=quantile,
        ratio=ratio.value,
        interval=Interval(low=ratio.low, high=ratio.high, confidence=ratio.confidence),
        delta_ms=delta.value,
        delta_interval=Interval(low=delta.low, high=delta.high, confidence=delta.confidence),
        windows=windows,
    )


class Call(NamedTuple):
    """What one look at a run says."""

    verdict: Verdict
    judged: RatioEstimate
    control: RatioEstimate
    kept: Kept

    @property
    def decided(self) -> bool:
        """Whether to stop here: a verdict that neither the control nor the dropped windows would take back."""
        total = len(self.kept.windows) + self.kept.dropped
        sound = covers_one(self.control) and self.kept.dropped <= rules.DROPPED_LIMIT * total
        return sound and self.verdict is not Verdict.INCONCLUSIVE


def look(samples: pd.DataFrame, marks: Sequence[WindowMark], confidence: float, limit: float, seed: int) -> Call:
    """The verdict of the windows in `marks`, at the confidence of their look."""
    kept = keep_windows(marks)
    direct, meshed = (Twin.of(samples, arms, kept.windows) for arms in (DIRECT, MESHED))
    judged = ratio_of(meshed, direct, kept.windows, JUDGED, confidence, seed)
    control = ratio_of(
        Twin.of(samples, DIRECT[1:], kept.windows),
        Twin.of(samples, DIRECT[:1], kept.windows),
        kept.windows,
        JUDGED,
        rules.CONTROL_CONFIDENCE,
        seed,
    )
    enough = len(kept.windows) >= min(rules.FEWEST_WINDOWS, len(marks))
    verdict = rules.judge(judged.interval.low, judged.interval.high, limit) if enough else Verdict.INCONCLUSIVE
    return Call(verdict, judged, control, kept)


def covers_one(control: RatioEstimate) -> bool:
    return control.interval.low <= 1.0 <= control.interval.high


def is_bounded(estimate: RatioEstimate) -> bool:
    """Whether it says anything: too few windows, or no responses, leave an estimate without bounds."""
    numbers = (estimate.ratio, estimate.delta_ms, *_bounds(estimate.interval), *_bounds(estimate.delta_interval))
    return all(math.isfinite(number) for number in numbers)


def _bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def half_width(estimate: RatioEstimate) -> float:
    return (estimate.interval.high - estimate.interval.low) / 2


def ratios(samples: pd.DataFrame, call: Call, seed: int) -> list[RatioEstimate]:
    """All reported quantiles that could be estimated; the judged one as it was judged."""
    windows = call.kept.windows
    direct, meshed = (Twin.of(samples, arms, windows) for arms in (DIRECT, MESHED))
    found = [
        call.judged if quantile == JUDGED else ratio_of(meshed, direct, windows, quantile, _SHOWN_CONFIDENCE, seed)
        for quantile in WINDOW_QUANTILES
    ]
    found += [
        pooled_ratio_of(meshed, direct, windows, quantile, _SHOWN_CONFIDENCE, seed) for quantile in POOLED_QUANTILES
    ]
    return [estimate for estimate in found if is_bounded(estimate)]


def summaries(samples: pd.DataFrame, windows: Ints) -> list[ArmSummary]:
    return [_summary(name, samples, arms, windows) for name, arms in (("direct", DIRECT), ("meshed", MESHED))]


def _summary(name: str, samples: pd.DataFrame, arms: Sequence[str], windows: Ints) -> ArmSummary:
    mine = samples[samples["arm"].isin(arms) & samples["window"].isin(windows)]
    latency = Twin.of(samples, arms, windows).latency
    p50, p90, p99, p999 = np.quantile(latency, [0.5, 0.9, 0.99, 0.999]).tolist() if len(latency) else [0.0] * 4
    named = mine["status"].astype(str).where(mine["status"] > 0, mine["error"].astype(str))
    return ArmSummary(
        name=name,
        requests=len(mine),
        errors=int(((mine["status"] == 0) | (mine["status"] >= 400)).sum()),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        curve=stats.percentile_curve(latency),
        status_mix={str(status): int(count) for status, count in named.value_counts().items()},
    )


def validities(
    samples: pd.DataFrame,
    call: Call,
    arms: Sequence[ArmSummary],
    health: Health,
    limit: float,
    seed: int,
    own_cpu_fraction: float | None = None,
) -> list[Validity]:
    """Every condition under which the verdict may stand, each with its reading. `own_cpu_fraction` is the share of all
    cores that the run itself used; None when nobody accounted for it."""
    direct, meshed = arms
    total = len(call.kept.windows) + call.kept.dropped
    checks = [
        _errors(direct, meshed),
        _lateness(samples, call, direct, health, limit, seed),
        _below("requests sent and completed on schedule", rules.ACHIEVED_LIMIT, _achieved(health), at_least=True),
        _below("generator CPU, of one core", rules.GENERATOR_CPU_LIMIT, health.cpu_fraction),
        _below("machine CPU, of all cores", rules.MACHINE_CPU_LIMIT, health.machine_cpu_fraction),
        _below("CPU stolen by the hypervisor", rules.STEAL_LIMIT, health.steal_fraction),
        _below("windows dropped", rules.DROPPED_LIMIT, call.kept.dropped / total if total else 1.0),
    ]
    if own_cpu_fraction is not None:
        foreign = max(0.0, health.machine_cpu_fraction - own_cpu_fraction)
        checks.append(_below("CPU of this run, of all cores", rules.OWN_CPU_LIMIT, own_cpu_fraction))
        checks.append(_below("CPU of others, of all cores", rules.FOREIGN_CPU_LIMIT, foreign))
    interval = call.control.interval
    reading = f"{call.control.ratio:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    checks.append(
        Validity(
            "A/A control covers 1",
            covers_one(call.control),
            reading,
            f"the A/A control reads {reading}, which excludes 1: this environment is not fit to measure",
        )
    )
    return checks


def _achieved(health: Health) -> float:
    return health.achieved_rate / health.target_rate if health.target_rate else 0.0


def _below(name: str, bound: float, value: float, *, at_least: bool = False) -> Validity:
    ok = value >= bound if at_least else value <= bound
    relation = "at least" if at_least else "at most"
    digits = 1 if at_least else 0
    reading = f"{value:.1%}, {relation} {bound:.{digits}%}"
    return Validity(name, ok, reading, f"{name}: {reading} is wanted")


def _errors(direct: ArmSummary, meshed: ArmSummary) -> Validity:
    counts = [(arm.requests - arm.errors, arm.errors) for arm in (direct, meshed)]
    p = stats.fisher_exact(counts[0], counts[1])
    reading = f"{direct.errors} of {direct.requests} direct, {meshed.errors} of {meshed.requests} meshed failed"
    worst = max(bad / max(good + bad, 1) for good, bad in counts)
    equal, few = p >= rules.ERROR_MIX_P, worst <= rules.ERROR_LIMIT
    wrong = f"{reading}: latencies of arms that fail differently do not compare" if few else f"{reading}: too many"
    enough = bool(direct.requests and meshed.requests)
    return Validity("errors alike in both arms", equal and few and enough, reading, wrong)


def _lateness(
    samples: pd.DataFrame, call: Call, direct: ArmSummary, health: Health, limit: float, seed: int
) -> Validity:
    """Late requests are billed to both arms alike, which draws their ratio towards 1. A little is harmless, and more is
    too when times that exclude it (`done - sent`) give the same verdict."""
    share = health.lateness_p99_ms / direct.p99_ms if direct.p99_ms else 1.0
    reading = f"P99 {health.lateness_p99_ms:.2f} ms, {share:.1%} of the baseline's P99"
    name = "generator lateness"
    if share <= rules.LATENESS_LIMIT:
        return Validity(name, True, reading)
    windows = call.kept.windows
    direct_twin, meshed_twin = (Twin.of(samples, arms, windows, since="sent_ns") for arms in (DIRECT, MESHED))
    again = ratio_of(meshed_twin, direct_twin, windows, JUDGED, call.judged.interval.confidence, seed)
    same = rules.judge(again.interval.low, again.interval.high, limit) is call.verdict
    reading += f"; without it the ratio is {again.ratio:.3f}"
    return Validity(
        name,
        same and share <= rules.LATENESS_EXPLAINED_LIMIT,
        reading,
        f"the generator was late ({reading}), at most {rules.LATENESS_LIMIT:.0%} is wanted",
    )
