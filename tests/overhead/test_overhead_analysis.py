"""From samples to a result, on synthetic runs: what is pooled, what is dropped, what makes a run invalid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from harness.overhead import analysis
from harness.overhead import verdict as rules
from harness.overhead.measure import conclude
from loadtests.spec import Arm, Health, LoadSpec, WindowMark
from reports.model import OverheadResult, Verdict

SPEC = LoadSpec(
    arms=[Arm(name=name, url="http://127.0.0.1:1/") for name in analysis.ARMS], rate=50.0, windows=20, out=Path("x")
)
HEALTHY = Health(
    target_rate=50.0,
    achieved_rate=50.0,
    lateness_p50_ms=0.1,
    lateness_p99_ms=0.3,
    cpu_fraction=0.1,
    machine_cpu_fraction=0.4,
    steal_fraction=0.0,
    requests=1,
    errors=0,
)


def samples(
    added_ms: float = 1.0, windows: int = 20, per_window: int = 150, status: int = 200, lateness_ms: float = 0.1
) -> pd.DataFrame:
    """Four arms with paired log-normal service times (P99 about 48 ms); the meshed arms take `added_ms` more and answer
    with `status`."""
    random = np.random.default_rng(9)
    frames = []
    for window in range(windows):
        service = random.lognormal(np.log(15.0), 0.5, per_window)
        for arm in analysis.ARMS:
            meshed = arm in analysis.MESHED
            done = random.permutation(service) + random.gamma(4, 0.05, per_window) + added_ms * meshed + lateness_ms
            intended = (window * 4_000 + random.uniform(0, 4_000, per_window)) * 1e6
            frames.append(
                pd.DataFrame(
                    {
                        "arm": arm,
                        "window": window,
                        "intended_ns": intended.astype(np.int64),
                        "sent_ns": (intended + lateness_ms * 1e6).astype(np.int64),
                        "done_ns": (intended + done * 1e6).astype(np.int64),
                        "status": status if meshed else 200,
                        "error": "" if status or not meshed else "timeout",
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def marks(windows: int = 20, saturated: Sequence[int] = ()) -> list[WindowMark]:
    return [
        WindowMark(
            window=window,
            start_ns=0,
            end_ns=1,
            requests=1,
            errors=0,
            lateness_p99_ms=0.3,
            cpu_fraction=0.1,
            machine_cpu_fraction=1.0 if window in saturated else 0.4,
            steal_fraction=0.0,
            part="",
        )
        for window in range(windows)
    ]


def judge(
    frame: pd.DataFrame,
    windows: list[WindowMark] | None = None,
    health: Health = HEALTHY,
    own_cpu: float | None = None,
) -> OverheadResult:
    windows = marks() if windows is None else windows
    call = analysis.look(frame, windows, 0.95, 1.05, seed=1)
    result = conclude(frame, call, 3, health, SPEC, 1.05, None, own_cpu, "synthetic")
    # Whatever happened, the bundle must be able to hold it.
    return msgspec.json.decode(msgspec.json.encode(result), type=OverheadResult)


def test_a_small_increase_is_passed_with_its_size() -> None:
    result = judge(samples(added_ms=1.0))
    assert result.verdict is Verdict.PASS, result.reason
    assert [estimate.quantile for estimate in result.ratios] == [0.5, 0.9, 0.99, 0.999]
    for estimate in result.ratios[:3]:
        assert estimate.delta_ms == pytest.approx(1.0, abs=0.25)
        assert estimate.interval.low < estimate.ratio < estimate.interval.high
    assert result.ratios[0].ratio > result.ratios[2].ratio, "one millisecond is more of the median than of the P99"
    assert result.break_even_ms == pytest.approx(result.ratios[2].delta_ms / 0.05)
    assert result.control is not None
    assert analysis.covers_one(result.control)
    assert set(result.validity.values()) == {"ok"}
    assert [arm.requests for arm in result.arms] == [2 * 20 * 150] * 2, "both labels of a twin count"


def test_a_large_increase_is_failed() -> None:
    result = judge(samples(added_ms=5.0))
    assert result.verdict is Verdict.FAIL
    assert "above the limit" in result.reason


def test_a_broken_control_makes_it_inconclusive() -> None:
    frame = samples()
    frame.loc[frame["arm"] == "control", "done_ns"] += 4_000_000
    result = judge(frame)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "A/A control" in result.reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"achieved_rate": 49.0}, "on schedule"),
        ({"cpu_fraction": 0.7}, "generator CPU"),
        ({"machine_cpu_fraction": 0.95}, "machine CPU"),
        ({"steal_fraction": 0.08}, "stolen"),
        ({"lateness_p99_ms": 4.0}, "late"),
    ],
)
def test_an_unfit_generator_or_machine_makes_it_inconclusive(changes: dict[str, float], said: str) -> None:
    result = judge(samples(), health=msgspec.structs.replace(HEALTHY, **changes))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert said in result.reason
    assert sum(value != "ok" for value in result.validity.values()) == 1


def test_the_run_using_too_much_cpu_itself_makes_it_inconclusive() -> None:
    assert judge(samples(), own_cpu=0.5).verdict is Verdict.PASS
    assert judge(samples(), own_cpu=0.7).verdict is Verdict.INCONCLUSIVE


def test_other_programs_using_the_machine_make_it_inconclusive() -> None:
    """A machine that is 40 % busy, of which the run itself is all but 10 %, and then all but 20 %."""
    assert judge(samples(), own_cpu=0.3).verdict is Verdict.PASS
    result = judge(samples(added_ms=20.0), own_cpu=0.2)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "CPU of others" in result.reason


def test_a_little_lateness_is_explained_by_times_without_it() -> None:
    late = msgspec.structs.replace(HEALTHY, lateness_p99_ms=1.0)
    result = judge(samples(lateness_ms=1.0), health=late)
    assert result.verdict is Verdict.PASS, result.reason
    assert any("without it the ratio is" in name for name in result.validity)


def test_saturated_windows_are_left_out_of_all_arms_and_counted() -> None:
    frame = samples(added_ms=1.0)
    spoiled = frame["window"].isin([3, 7]) & frame["arm"].isin(analysis.MESHED)
    frame.loc[spoiled, "done_ns"] += 500_000_000
    result = judge(frame, marks(saturated=[3, 7]))
    assert result.verdict is Verdict.PASS, result.reason
    assert (result.windows, result.windows_dropped) == (18, 2)
    assert [arm.requests for arm in result.arms] == [2 * 18 * 150] * 2


@pytest.mark.parametrize("saturated", [range(6), range(14), range(19), range(20)])
def test_too_many_dropped_windows_make_it_inconclusive(saturated: range) -> None:
    result = judge(samples(), marks(saturated=saturated))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.windows_dropped == len(saturated)


@pytest.mark.parametrize("status", [503, 0])
def test_an_arm_that_fails_is_not_compared(status: int) -> None:
    result = judge(samples(added_ms=-5.0, status=status))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "meshed failed" in result.reason
    assert result.arms[1].errors == result.arms[1].requests
    assert result.arms[1].status_mix == {str(status) if status else "timeout": 2 * 20 * 150}


def test_a_rare_difference_in_errors_is_seen() -> None:
    frame = samples()
    failing = frame.index[frame["arm"] == "meshed"][::100]
    frame.loc[failing, "status"] = 503
    result = judge(frame)
    assert 0 < result.arms[1].errors / result.arms[1].requests < rules.ERROR_LIMIT
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "differently" in result.reason
