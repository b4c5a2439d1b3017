"""Exact bounds: known values, and the power the checks' docstrings promise."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from harness.conformance.filters.test_faults import ABORTS_N
from harness.conformance.routing.test_splitting import SPLIT_N
from harness.conformance.statistics import ALPHA, binomial_bounds, binomial_power


def tail_outside(n: int, p: Fraction, low: int, high: int) -> Fraction:
    """P(X < low or X > high), in exact arithmetic."""
    mass = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return sum(mass[:low], Fraction(0)) + sum(mass[high + 1 :], Fraction(0))


@pytest.mark.parametrize(("n", "p"), [(10, Fraction(1, 2)), (100, Fraction(7, 10)), (200, Fraction(1, 20))])
def test_bounds_are_exact_and_tight(n: int, p: Fraction) -> None:
    low, high = binomial_bounds(n, float(p))
    assert tail_outside(n, p, low, high) <= Fraction(ALPHA)
    if low:
        assert tail_outside(n, p, low + 1, n) > Fraction(ALPHA) / 2
    if high < n:
        assert tail_outside(n, p, 0, high - 1) > Fraction(ALPHA) / 2


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certainty_leaves_no_room(p: float) -> None:
    assert binomial_bounds(50, p) == (50 * p, 50 * p)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"p=1\.5"):
        binomial_bounds(10, 1.5)


def test_the_weight_check_tells_70_from_63() -> None:
    assert binomial_power(SPLIT_N, 0.70, 0.63) > 0.99


def test_the_abort_check_tells_50_from_25() -> None:
    assert binomial_power(ABORTS_N, 0.5, 0.25) > 0.999


def test_power_against_the_truth_is_the_level() -> None:
    assert binomial_power(SPLIT_N, 0.70, 0.70) <= ALPHA
