"""The statistics against known answers, and the interval's coverage by simulation (seeded: numbers never change)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.overhead import statistics as stats

RNG_SEED = 20_240_517


def test_window_quantiles_are_those_of_each_window() -> None:
    random = np.random.default_rng(1)
    window = random.integers(0, 5, size=2000)
    latency = random.lognormal(size=2000)
    found = stats.window_quantiles(latency, window, np.array([3, 0, 9]), 0.99)
    assert found[0] == np.quantile(latency[window == 3], 0.99)
    assert found[1] == np.quantile(latency[window == 0], 0.99)
    assert math.isnan(found[2])


def test_a_ratio_that_is_everywhere_the_same_has_an_interval_of_no_width() -> None:
    base = np.array([10.0, 12.0, 9.0, 30.0])
    found = stats.geometric_mean_ratio(1.07 * base, base, 0.95, seed=1)
    assert found.value == pytest.approx(1.07)
    assert (found.low, found.high) == (pytest.approx(1.07), pytest.approx(1.07))


def test_the_geometric_mean_treats_a_ratio_and_its_inverse_alike() -> None:
    random = np.random.default_rng(2)
    one, other = random.lognormal(3, 0.1, 20), random.lognormal(3, 0.1, 20)
    forth = stats.geometric_mean_ratio(one, other, 0.95, seed=1)
    back = stats.geometric_mean_ratio(other, one, 0.95, seed=1)
    assert forth.value * back.value == pytest.approx(1)


def test_equal_seeds_give_equal_intervals_and_two_windows_none() -> None:
    values = np.random.default_rng(3).normal(size=12)
    assert stats.mean_interval(values, 0.95, 7) == stats.mean_interval(values, 0.95, 7)
    assert stats.mean_interval(values, 0.95, 7) != stats.mean_interval(values, 0.95, 8)
    assert stats.mean_interval(values[:2], 0.95, 7)[1:3] == (-math.inf, math.inf)


@pytest.mark.parametrize("windows", [8, 12, 24])
@pytest.mark.parametrize("noise", ["normal", "student-4", "bursts", "skewed"])
def test_the_interval_covers_the_truth_as_often_as_it_says(windows: int, noise: str) -> None:
    """95 % intervals of 600 simulated runs. Bursts: one window in ten is five times as noisy as the others."""
    random = np.random.default_rng(RNG_SEED)
    runs = 600
    shape = (runs, windows)
    drawn = {
        "normal": random.normal(size=shape),
        "student-4": random.standard_t(4, size=shape),
        "skewed": random.gamma(2.0, size=shape) - 2.0,
        "bursts": random.normal(size=shape) * np.where(random.random(shape) < 0.1, 5.0, 1.0),
    }[noise]
    truth = math.log(1.03)
    covered = 0
    for seed, row in enumerate(truth + 0.03 * drawn):
        found = stats.mean_interval(row, 0.95, seed, resamples=800)
        covered += found.low <= truth <= found.high
    assert covered / runs >= 0.93


@pytest.mark.parametrize(
    ("p", "degrees", "quantile"), [(0.975, 7, 2.36462), (0.975, 23, 2.06866), (0.995, 2, 9.92484), (0.5, 4, 0.0)]
)
def test_students_quantiles_are_the_tabled_ones(p: float, degrees: int, quantile: float) -> None:
    assert stats.student_quantile(p, degrees) == pytest.approx(quantile, abs=1e-4)


def test_the_percentile_interval_would_not_have() -> None:
    """Why the bootstrap is studentised."""
    random = np.random.default_rng(RNG_SEED)
    covered = 0
    for row in random.normal(size=(600, 8)):
        means = row[random.integers(0, 8, size=(800, 8))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        covered += low <= 0 <= high
    assert covered / 600 < 0.92


def test_a_pool_weighs_windows_as_if_they_were_repeated() -> None:
    random = np.random.default_rng(4)
    window = np.repeat([0, 1, 2], 500)
    latency = random.lognormal(size=1500)
    pool = stats.Pool(latency, window, np.array([0, 1, 2]))
    repeated = np.concatenate([latency[window == 0], latency[window == 0], latency[window == 2]])
    found = pool.quantile(np.array([2, 0, 1]), 0.999)
    assert found == np.quantile(repeated, 0.999, method="inverted_cdf")


def test_a_pooled_ratio_brackets_itself() -> None:
    random = np.random.default_rng(5)
    windows = np.arange(20)
    window = np.repeat(windows, 200)
    direct, meshed = random.lognormal(3, 0.5, 4000), random.lognormal(3, 0.5, 4000) + 2.0
    ratio, delta = stats.pooled_ratio(
        stats.Pool(meshed, window, windows), stats.Pool(direct, window, windows), 20, 0.5, 0.95, seed=1
    )
    assert ratio.low < ratio.value < ratio.high
    assert delta.low < delta.value < delta.high
    assert delta.low < 2.0 < delta.high


def test_the_percentile_curve_rises_and_ends_where_samples_do() -> None:
    latency = np.random.default_rng(6).lognormal(size=5000)
    curve = stats.percentile_curve(latency)
    quantiles, values = zip(*curve, strict=True)
    assert list(quantiles) == sorted(quantiles)
    assert list(values) == sorted(values)
    assert quantiles[0] == 0
    assert quantiles[-1] == pytest.approx(1 - 1 / 5000)
    assert stats.percentile_curve(np.array([])) == []


def test_break_even_is_where_the_increase_is_the_limit() -> None:
    assert stats.break_even_ms(1.2, 1.05) == pytest.approx(24.0)
    assert stats.break_even_ms(-0.1, 1.05) == 0.0


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        # Reference values by direct enumeration of the hypergeometric distribution.
        ((8, 2), (1, 5), 0.034965034965034965),
        ((10, 0), (10, 0), 1.0),
        ((1000, 0), (985, 15), 5.7e-5),
    ],
)
def test_fishers_exact_test(first: tuple[int, int], second: tuple[int, int], p: float) -> None:
    assert stats.fisher_exact(first, second) == pytest.approx(p, rel=0.02)
    assert stats.fisher_exact(second, first) == pytest.approx(p, rel=0.02)
