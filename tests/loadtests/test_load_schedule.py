"""The schedule is a function of the spec, Poisson, random in its arms, and paired in its seeds.

Statistical assertions are exact (or bounded by a finite-sample inequality) at alpha = 1e-6 with fixed seeds: they
cannot flicker, and a schedule that is off by what they look for fails them (see the last tests).
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist

import msgspec
import numpy as np
import pytest

from loadtests.schedule import WARMUP, Schedule, schedule
from loadtests.spec import Arm, LoadSpec

ALPHA = 1e-6


def spec(**changes: object) -> LoadSpec:
    arms = [Arm(name=name, url="http://127.0.0.1:1/") for name in ("direct", "meshed")]
    return msgspec.structs.replace(LoadSpec(arms=arms, rate=100.0, windows=20, seed=7), **changes)


def columns(of: Schedule) -> list[np.ndarray]:
    return [of.offset_ns, of.arm, of.window, of.seed]


def binomial_p(successes: int, trials: int, p: float) -> float:
    """Two-sided exact p-value, as twice the smaller tail."""
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(p)
        + (trials - k) * math.log1p(-p)
        for k in range(trials + 1)
    ]
    chances = np.exp(logs)
    return min(1.0, 2 * min(chances[: successes + 1].sum(), chances[successes:].sum()))


def poisson_p(count: int, mean: float) -> float:
    """Two-sided exact p-value, as twice the smaller tail."""
    k = np.arange(0, int(mean + 40 * math.sqrt(mean)) + 40)
    chances = np.exp(k * math.log(mean) - mean - np.array([math.lgamma(i + 1) for i in k]))
    return min(1.0, 2 * min(chances[: count + 1].sum(), chances[count:].sum()))


def distance_from(values: np.ndarray, cdf: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of sorted `values`, whose true cumulative probabilities are `cdf`."""
    steps = np.arange(len(values) + 1) / len(values)
    return float(max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max()))


def dkw_bound(count: int) -> float:
    """What the distance stays below with probability 1 - ALPHA, for every count (Massart 1990)."""
    return math.sqrt(math.log(2 / ALPHA) / (2 * count))


def test_equal_specs_have_equal_schedules() -> None:
    for one, other in zip(columns(schedule(spec())), columns(schedule(spec())), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_is_another_schedule() -> None:
    assert not np.array_equal(schedule(spec()).offset_ns, schedule(spec(seed=8)).offset_ns)


def test_a_longer_run_begins_like_the_shorter_one() -> None:
    short, long = schedule(spec(windows=5)), schedule(spec(windows=9))
    for one, other in zip(columns(short), columns(long), strict=True):
        np.testing.assert_array_equal(one, other[: len(one)])


def test_nothing_but_seed_rate_times_and_arms_matters() -> None:
    other = spec(users=3, timeout_seconds=1.0, arms=[Arm(name=n, url="http://127.0.0.9:2/x") for n in "ab"])
    for one, two in zip(columns(schedule(spec())), columns(schedule(other)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_arrivals_are_sorted_and_lie_in_their_windows() -> None:
    found = schedule(spec(warmup_seconds=1.5))
    assert (np.diff(found.offset_ns) >= 0).all()
    for window in range(WARMUP, 20):
        part = found.offset_ns[found.slice_of(window)]
        assert len(part)
        assert part.min() >= found.start_ns(window)
        assert part.max() < found.start_ns(window + 1)
        assert found.window_at(int(part[0])) == window
    assert len(found) == sum(found.slice_of(w).stop - found.slice_of(w).start for w in range(WARMUP, 20))


@pytest.mark.parametrize("arms", [2, 4])
def test_each_window_gives_every_arm_the_same_multiset_of_seeds_in_another_order(arms: int) -> None:
    found = schedule(spec(arms=[Arm(name=str(i), url="http://127.0.0.1:1/") for i in range(arms)]))
    for window in range(20):
        part = found.slice_of(window)
        by_arm = [found.seed[part][found.arm[part] == arm].tolist() for arm in range(arms)]
        assert len(by_arm[0]) > 100
        for other in by_arm[1:]:
            assert Counter(other) == Counter(by_arm[0])
            assert other != by_arm[0]


def test_unpaired_arms_are_independent() -> None:
    found = schedule(spec(paired=False))
    counts = [[int((found.arm[found.slice_of(w)] == arm).sum()) for w in range(20)] for arm in (0, 1)]
    assert counts[0] != counts[1]
    assert not set(found.seed[found.arm == 0]) & set(found.seed[found.arm == 1])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("arm", [0, 1])
def test_every_arm_is_a_poisson_process(paired: bool, arm: int) -> None:
    found = schedule(spec(rate=50.0, windows=200, window_seconds=1.0, warmup_seconds=0.0, paired=paired))
    offsets = found.offset_ns[found.arm == arm]
    assert poisson_p(len(offsets), 50.0 * 200) > ALPHA, "the number of arrivals"
    gaps = np.sort(np.diff(offsets)) / 1e9
    assert distance_from(gaps, 1 - np.exp(-50.0 * gaps)) < dkw_bound(len(gaps)), "the gaps are exponential"
    uniform = offsets / 200e9
    assert distance_from(uniform, uniform) < dkw_bound(len(uniform)), "the instants are uniform"
    # Counts of disjoint windows: sum of (n - mean)^2 / mean is chi-square with 200 degrees of freedom; Wilson-Hilferty.
    counts = np.bincount((offsets // 1_000_000_000).astype(int), minlength=200)
    dispersion = float(((counts - 50.0) ** 2 / 50.0).sum())
    z = ((dispersion / 200) ** (1 / 3) - (1 - 2 / 1800)) / math.sqrt(2 / 1800)
    assert abs(z) < NormalDist().inv_cdf(1 - ALPHA / 2), "the counts vary as Poisson counts do"


def test_arms_are_dealt_at_random() -> None:
    found = schedule(spec(windows=50))
    early = changes = pairs = total = 0
    for window in range(50):
        arm = found.arm[found.slice_of(window)]
        half = len(arm) // 2
        early += int((arm[:half] == 0).sum())
        total += half
        changes += int((arm[1:] != arm[:-1]).sum())
        pairs += len(arm) - 1
    # Dealing without replacement varies less than a binomial does, so these p-values are conservative.
    assert binomial_p(early, total, 0.5) > ALPHA
    assert binomial_p(changes, pairs, 0.5) > ALPHA


def test_the_tests_of_poisson_see_what_is_not() -> None:
    regular = np.arange(10_000) * 0.02
    gaps = np.diff(regular)
    assert distance_from(gaps, 1 - np.exp(-50.0 * gaps)) > dkw_bound(len(gaps))
    assert poisson_p(10_600, 10_000.0) < ALPHA
    assert binomial_p(5_300, 10_000, 0.5) < ALPHA


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rate": 0.0}, "rate"),
        ({"windows": 0}, "windows"),
        ({"users": 0}, "users"),
        ({"arms": []}, "arms"),
        ({"arms": [Arm(name="a", url="x"), Arm(name="a", url="x")]}, "arms"),
        ({"window_seconds": -1.0}, "window_seconds"),
    ],
)
def test_problems_name_the_field(changes: dict[str, object], field: str) -> None:
    assert [problem for problem in spec(**changes).problems() if problem.startswith(field)]
    assert spec().problems() == []
