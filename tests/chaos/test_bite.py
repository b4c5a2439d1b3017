"""What each fault must do to a connection before it is believed."""

from __future__ import annotations

import pytest

from chaos.bite import Reading, judge, patience

WELL = Reading(outcome="answered", first_byte=0.004, total=0.006, size=900, pieces=2)
HANGS_UP = Reading(outcome="closed", total=0.002, closed_after=0.002)


def answered(first: float, *, total: float = 0.0, size: int = 900, pieces: int = 2) -> Reading:
    return Reading(outcome="answered", first_byte=first, total=total or first + 0.002, size=size, pieces=pieces)


@pytest.mark.parametrize(
    ("kind", "attributes", "bitten"),
    [
        ("latency", {"latency": 300}, answered(0.305)),
        ("latency", {"latency": 300, "jitter": 100}, answered(0.21)),
        ("bandwidth", {"rate": 1}, answered(0.4, total=0.9)),
        ("bandwidth", {"rate": 0}, Reading(outcome="silent", total=2.0)),
        ("timeout", {"timeout": 0}, Reading(outcome="silent", total=1.0)),
        ("timeout", {"timeout": 300}, Reading(outcome="closed", total=0.304)),
        ("reset_peer", {"timeout": 100}, Reading(outcome="reset", total=0.104)),
        ("slicer", {"average_size": 50, "delay": 100}, answered(0.004, pieces=17)),
        ("limit_data", {"bytes": 100}, answered(0.004, size=100)),
        ("down", {}, Reading(outcome="refused", total=0.001)),
    ],
)
def test_a_bite_is_seen_and_its_absence_too(kind: str, attributes: dict[str, int], bitten: Reading) -> None:
    assert judge(kind, attributes, WELL, bitten).ok
    assert not judge(kind, attributes, WELL, WELL).ok


def test_slow_close_is_seen_in_the_close() -> None:
    late = Reading(outcome="closed", total=0.4, closed_after=0.4)
    assert judge("slow_close", {"delay": 400}, HANGS_UP, late).ok
    assert not judge("slow_close", {"delay": 400}, HANGS_UP, HANGS_UP).ok


@pytest.mark.parametrize(
    ("kind", "attributes", "during"),
    [
        ("latency", {"latency": 300}, answered(0.1)),  # slower, not slow enough
        ("latency", {"latency": 5}, answered(0.012)),  # too small to tell from noise
        ("latency", {"latency": 300}, Reading(outcome="reset", total=0.5)),  # something else is broken
        ("limit_data", {"bytes": 100_000}, WELL),  # more than an answer: it never bites
        ("reset_peer", {"timeout": 500}, Reading(outcome="reset", total=0.01)),  # not ours
        ("timeout", {"timeout": 1000}, Reading(outcome="closed", total=0.01)),
        ("gremlin", {}, Reading(outcome="silent")),
    ],
)
def test_what_is_not_a_bite(kind: str, attributes: dict[str, int], during: Reading) -> None:
    assert not judge(kind, attributes, WELL, during).ok


def test_an_edge_that_was_mute_before_proves_nothing() -> None:
    finding = judge("timeout", {"timeout": 0}, Reading(outcome="silent", total=1.0), Reading(outcome="silent"))
    assert not finding.ok
    assert "before the fault" in finding.detail


def test_waiting_for_a_reading_is_bounded() -> None:
    for kind in ("latency", "slow_close", "timeout", "reset_peer", "bandwidth"):
        assert patience(kind, {"latency": 10**6, "delay": 10**6, "timeout": 10**6}, WELL) <= 30
