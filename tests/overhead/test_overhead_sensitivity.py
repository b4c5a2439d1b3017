"""Can it see what it is for? The whole measurement on loopback: a real server, the real generator, a real delay.

What must never happen is asserted on any machine. That a verdict is reached is asserted when the measurement itself
finds the machine fit; on a saturated one it says INCONCLUSIVE, as it should, and the test says so too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.overhead import analysis
from harness.overhead.driver import LoadError
from harness.overhead.measure import ArmTarget, measure
from reports.model import OverheadResult, Verdict

Program = Callable[..., int]

NOISY = 0.04
# Half-width of the A/A control at twice what a quiet machine shows; what is injected is 10 %.
MEDIAN = 0.015
P99_MS = 30.0
# Of the log-normal with median 15 ms and sigma 0.3.


def run(direct: int, meshed: int, out: Path, budget: float, window_seconds: float = 2.0) -> OverheadResult:
    return measure(
        None,
        direct=ArmTarget(url=f"http://127.0.0.1:{direct}/page"),
        meshed=ArmTarget(url=f"http://127.0.0.1:{meshed}/page"),
        budget_seconds=budget,
        rate=40.0,
        window_seconds=window_seconds,
        seed=11,
        out=out,
        workload="log-normal, median 15 ms",
    )


def covers_one(result: OverheadResult) -> bool:
    """With a margin: a 99 % interval of a real measurement misses once in a hundred runs."""
    assert result.control is not None
    interval = result.control.interval
    return interval.low / 1.02 <= 1.0 <= interval.high * 1.02


def need_fit_machine(result: OverheadResult) -> None:
    wrong = [said for said in result.validity.values() if said != "ok"]
    if wrong:
        assert result.verdict is Verdict.INCONCLUSIVE
        pytest.skip(f"this machine is not fit to measure now: {'; '.join(wrong)}")
    assert result.control is not None
    wide = analysis.half_width(result.control)
    if result.verdict is Verdict.INCONCLUSIVE and wide > NOISY:
        pytest.skip(f"this machine is too noisy now: the A/A control is ±{wide:.0%} wide")


def test_an_injected_ten_percent_is_failed(tmp_path: Path, program: Program) -> None:
    """Both arms go through a proxy process; one of them delays every response by 10 % of the baseline's P99."""
    server = program("profiled", "--median", str(MEDIAN))
    plain = program("delaying", "--to", str(server))
    slow = program("delaying", "--to", str(server), "--delay", str(0.10 * P99_MS / 1e3))
    result = run(plain, slow, tmp_path, budget=50)
    assert result.verdict is not Verdict.PASS, result.reason
    assert covers_one(result), "the control is blind to the delay"
    assert {arm.name: arm.errors for arm in result.arms} == {"direct": 0, "meshed": 0}
    assert all(arm.curve for arm in result.arms)
    need_fit_machine(result)
    assert result.verdict is Verdict.FAIL, result.reason
    judged = next(ratio for ratio in result.ratios if ratio.quantile == 0.99)
    assert judged.interval.low > 1.05
    assert judged.delta_interval.low < 0.10 * P99_MS + 1.5, "of the size that was injected: timers round up to 1 ms"
    assert judged.delta_interval.high > 0.10 * P99_MS - 0.5
    assert result.break_even_ms == pytest.approx(judged.delta_ms / 0.05)


def test_nothing_against_nothing_is_not_failed(tmp_path: Path, program: Program) -> None:
    server = program("profiled", "--median", str(MEDIAN))
    result = run(server, server, tmp_path, budget=30, window_seconds=1.5)
    assert result.verdict is not Verdict.FAIL, result.reason
    assert covers_one(result)
    judged = next(ratio for ratio in result.ratios if ratio.quantile == 0.99)
    assert judged.interval.low < 1.02
    assert judged.interval.high > 0.98
    need_fit_machine(result)
    assert result.verdict is Verdict.PASS or judged.interval.high >= 1.05


def test_arms_that_fail_differently_are_not_compared(tmp_path: Path, program: Program) -> None:
    server = program("profiled", "--median", str(MEDIAN))
    result = measure(
        None,
        direct=ArmTarget(url=f"http://127.0.0.1:{server}/page"),
        meshed=ArmTarget(url=f"http://127.0.0.1:{server}/status/503"),
        budget_seconds=17,
        rate=30.0,
        window_seconds=0.5,
        seed=3,
        out=tmp_path,
    )
    assert result.verdict is Verdict.INCONCLUSIVE, "though it was much faster"
    assert "503" in result.arms[1].status_mix
    assert "meshed failed" in result.reason


def test_a_budget_too_short_for_a_verdict_is_refused(tmp_path: Path) -> None:
    target = ArmTarget(url="http://127.0.0.1:1/")
    with pytest.raises(LoadError, match="give at least"):
        measure(None, direct=target, meshed=target, budget_seconds=15, rate=10.0, out=tmp_path)
