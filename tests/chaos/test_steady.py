"""Judging seconds of traffic."""

from __future__ import annotations

import pytest

from chaos import steady
from loadtests.spec import Second


def second(t: int, *, requests: int = 20, errors: int = 0, p99: float = 50.0, pending: int = 0) -> Second:
    return Second(
        t=float(t),
        ns=t * 1_000_000_000,
        arm="a",
        requests=requests,
        errors=errors,
        p50_ms=p99 / 2,
        p99_ms=p99,
        pending=pending,
    )


BASELINE = steady.Baseline.of([second(t) for t in range(1, 6)])
FAULT_NS = 5_000_000_000


def test_the_success_ratio_counts_requests_not_seconds() -> None:
    seconds = [second(1, requests=90), second(2, requests=10, errors=5)]
    assert steady.success_ratio(seconds) == pytest.approx(0.95)


def test_silence_is_failure_when_something_was_due_and_unknown_when_nothing_was() -> None:
    assert steady.success_ratio([second(1, requests=0, pending=12)]) == 0.0
    assert steady.success_ratio([second(1, requests=0)]) is None
    assert steady.success_ratio([]) is None


def test_p99_is_of_the_worst_second_that_had_requests() -> None:
    assert steady.p99_ms([second(1, p99=30), second(2, p99=80), second(3, requests=0, p99=900)]) == 80
    assert steady.p99_ms([second(1, requests=0)]) is None


def test_one_bad_second_of_the_machine_does_not_move_the_baseline() -> None:
    noisy = steady.Baseline.of([second(1, p99=900), *(second(t) for t in range(2, 6))])
    assert noisy.near_ms == BASELINE.near_ms


@pytest.mark.parametrize(
    ("what", "disturbed"),
    [
        ({}, False),
        ({"p99": 400.0}, True),
        ({"errors": 1}, True),
        ({"requests": 0, "pending": 5}, True),
        ({"requests": 0}, False),
    ],
)
def test_what_disturbs(what: dict[str, float], disturbed: bool) -> None:
    assert BASELINE.disturbed(second(1, **what)) is disturbed  # type: ignore[arg-type]


def test_detection_counts_from_the_fault() -> None:
    seconds = [second(4, p99=900), second(6), second(7, p99=400), second(8, p99=400)]
    assert steady.time_to_detect(BASELINE, seconds, FAULT_NS) == pytest.approx(2.0)
    assert steady.time_to_detect(BASELINE, [second(6)], FAULT_NS) is None


def test_recovery_ends_with_the_last_disturbed_second() -> None:
    seconds = [second(6, p99=400), second(7, errors=1), second(8), second(9)]
    assert steady.time_to_recover(BASELINE, seconds, FAULT_NS) == pytest.approx(2.0)


def test_recovery_needs_more_than_one_quiet_second() -> None:
    assert steady.time_to_recover(BASELINE, [second(6, p99=400), second(7)], FAULT_NS) is None
    flapping = [second(6, p99=400), second(7), second(8, p99=400), second(9), second(10)]
    assert steady.time_to_recover(BASELINE, flapping, FAULT_NS) == pytest.approx(3.0)


def test_nothing_to_recover_from_takes_no_time() -> None:
    assert steady.time_to_recover(BASELINE, [second(6), second(7)], FAULT_NS) == 0.0
