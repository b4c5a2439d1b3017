"""The verdict's rules, and how often the whole sequential procedure is wrong, by simulation (seeded)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.overhead import statistics as stats
from harness.overhead import verdict as rules
from harness.overhead.verdict import Validity
from reports.model import Verdict

RNG_SEED = 4_711


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.01, 1.049, Verdict.PASS),
        (0.99, 1.0, Verdict.PASS),
        (1.051, 1.2, Verdict.FAIL),
        (1.04, 1.06, Verdict.INCONCLUSIVE),
        (1.05, 1.06, Verdict.INCONCLUSIVE),
        (1.01, 1.05, Verdict.INCONCLUSIVE),
        (-math.inf, math.inf, Verdict.INCONCLUSIVE),
        (math.nan, math.nan, Verdict.INCONCLUSIVE),
    ],
)
def test_an_interval_is_judged_by_where_it_lies(low: float, high: float, verdict: Verdict) -> None:
    assert rules.judge(low, high, 1.05) is verdict


def test_boundaries_are_the_published_ones() -> None:
    """Lan-DeMets O'Brien-Fleming, three equal looks, two-sided 5 % (Jennison and Turnbull; R package gsDesign)."""
    assert rules.boundaries((1 / 3, 2 / 3, 1.0), 0.05) == pytest.approx((3.7103, 2.5114, 1.9930), abs=2e-3)
    assert rules.boundaries((1.0,), 0.05) == pytest.approx((1.95996,), abs=1e-3)


def test_looks_grow_more_lenient_and_end_with_the_run() -> None:
    looks = rules.plan_looks(24)
    assert [look.windows for look in looks] == [12, 18, 24]
    assert [look.confidence for look in looks] == sorted((look.confidence for look in looks), reverse=True)
    assert looks[-1].confidence > 0.95
    assert [look.windows for look in rules.plan_looks(9)] == [8, 9]
    assert [look.windows for look in rules.plan_looks(4)] == [4]


def call(ratios: np.ndarray, seed: int, limit: float = 1.05) -> Verdict:
    """The sequential procedure on simulated windows."""
    for look in rules.plan_looks(len(ratios)):
        seen = ratios[: look.windows]
        found = stats.geometric_mean_ratio(seen, np.ones(len(seen)), look.confidence, seed, resamples=2000)
        verdict = rules.judge(found.low, found.high, limit)
        if verdict is not Verdict.INCONCLUSIVE:
            return verdict
    return Verdict.INCONCLUSIVE


def share(wanted: Verdict, truth: float, spread: float, runs: int, windows: int = 22, tails: str = "normal") -> float:
    random = np.random.default_rng(RNG_SEED)
    noise = random.normal(size=(runs, windows)) if tails == "normal" else random.standard_t(4, size=(runs, windows))
    logs = math.log(truth) + spread * noise
    return sum(call(np.exp(row), seed) is wanted for seed, row in enumerate(logs)) / runs


@pytest.mark.parametrize("tails", ["normal", "student-4"])
def test_ten_percent_more_is_never_passed(tails: str) -> None:
    """0 of 1,000, with windows that scatter by 5 %: two to three times what the generator shows on two cores."""
    assert share(Verdict.PASS, truth=1.10, spread=0.05, runs=1000, tails=tails) <= 1e-3


def test_ten_percent_more_is_failed() -> None:
    assert share(Verdict.FAIL, truth=1.10, spread=0.03, runs=200) >= 0.99


def test_a_mesh_at_the_limit_is_passed_or_failed_as_rarely_as_was_spent() -> None:
    """2.5 % on either side over all looks together; 4 % allows for the bootstrap and for 600 runs."""
    assert share(Verdict.PASS, truth=1.05, spread=0.03, runs=600) <= 0.04
    assert share(Verdict.FAIL, truth=1.05, spread=0.03, runs=600) <= 0.04


def test_boundaries_spend_what_they_should_and_plain_ones_would_overspend() -> None:
    """A million normal walks: how many ever leave the boundaries at their looks."""
    shares = (0.5, 0.75, 1.0)
    steps = np.random.default_rng(RNG_SEED).normal(size=(1_000_000, 3)) * np.sqrt(np.diff((0.0, *shares)))
    z = np.abs(np.cumsum(steps, axis=1) / np.sqrt(shares))
    assert (z > rules.boundaries(shares, 0.05)).any(axis=1).mean() == pytest.approx(0.05, abs=0.001)
    assert (z > 1.96).any(axis=1).mean() > 0.085, "three looks at 95 % each"


def test_no_overhead_is_passed_early() -> None:
    assert share(Verdict.PASS, truth=1.01, spread=0.02, runs=200) >= 0.99


def test_an_invalid_run_is_inconclusive_whatever_its_interval() -> None:
    fine = Validity("a", True, "reading")
    broken = Validity("b", False, "reading", "b was wrong")
    assert rules.conclude(Verdict.PASS, [fine]) == (Verdict.PASS, "")
    for verdict in Verdict:
        found, reason = rules.conclude(verdict, [fine, broken])
        assert found is Verdict.INCONCLUSIVE
        assert "b was wrong" in reason


@pytest.mark.parametrize(
    ("reading", "dropped"),
    [
        ({}, False),
        ({"steal_fraction": 0.2}, True),
        ({"machine_cpu_fraction": 0.995}, True),
        ({"lateness_p99_ms": 80.0}, True),
    ],
)
def test_a_window_is_dropped_for_what_happened_to_the_machine(reading: dict[str, float], dropped: bool) -> None:
    quiet = {"steal_fraction": 0.0, "machine_cpu_fraction": 0.5, "lateness_p99_ms": 0.4}
    assert rules.drop_window(**{**quiet, **reading}) is dropped
