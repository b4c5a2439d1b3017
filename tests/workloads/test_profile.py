"""The declared service times: computed, never timed."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import harness.workloads.bookinfo.profile as profile_module
from harness.workloads.bookinfo.profile import (
    DEFAULTS,
    SEED_HEADER,
    Draws,
    InvalidProfile,
    Profile,
    from_environment,
    uniform,
)

SEEDS = [str(seed) for seed in range(20_000)]


def test_the_seed_header_is_the_load_generators() -> None:
    import loadtests.spec

    assert loadtests.spec.SEED_HEADER == SEED_HEADER


@pytest.mark.parametrize("service", DEFAULTS)
def test_one_seed_is_one_time(service: str) -> None:
    first, second = Draws(service, DEFAULTS[service], "pod-a"), Draws(service, DEFAULTS[service], "pod-b")
    assert [first.time_ms(s) for s in SEEDS[:100]] == [second.time_ms(s) for s in SEEDS[:100]]
    assert len({first.time_ms(s) for s in SEEDS[:100]}) == 100


def test_services_draw_independently() -> None:
    n = len(SEEDS)
    pairs = [(uniform("details", s), uniform("reviews", s)) for s in SEEDS]
    correlation = sum((a - 0.5) * (b - 0.5) for a, b in pairs) / n * 12
    assert abs(correlation) < 5 / math.sqrt(n)


@pytest.mark.parametrize("service", DEFAULTS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_the_share_below_a_declared_quantile_is_that_share(service: str, p: float) -> None:
    """Exact binomial bounds at 5 standard deviations; the draws are fixed by the seeds, so this never flakes."""
    profile = DEFAULTS[service]
    below = sum(profile.time_ms(service, s) <= profile.quantile(p) for s in SEEDS)
    n = len(SEEDS)
    assert abs(below - n * p) <= 5 * math.sqrt(n * p * (1 - p))


def test_draws_without_a_seed_follow_the_same_distribution_and_repeat_after_a_restart() -> None:
    profile = DEFAULTS["reviews"]
    draws = Draws("reviews", profile, "pod")
    times = [draws.time_ms(None) for _ in range(20_000)]
    assert abs(sum(t <= profile.quantile(0.5) for t in times) - 10_000) <= 5 * math.sqrt(5_000)
    again = Draws("reviews", profile, "pod")
    assert [again.time_ms(None) for _ in range(10)] == times[:10]
    assert Draws("reviews", profile, "other").time_ms(None) != times[0]


def test_nothing_is_above_the_cut() -> None:
    profile = Profile(median_ms=10.0, sigma=0.5, cut=0.9)
    assert max(profile.time_ms("x", s) for s in SEEDS) < profile.largest_ms
    assert profile.largest_ms == pytest.approx(10.0 * math.exp(0.5 * 1.2815515655446004))


def test_the_median_is_the_declared_one() -> None:
    assert Profile(median_ms=8.0, cut=1.0).quantile(0.5) == pytest.approx(8.0)


def test_the_uniform_never_reaches_its_ends() -> None:
    values = [uniform("x", s) for s in SEEDS]
    assert min(values) > 0.0
    assert max(values) < 1.0
    assert (2**52 - 1) * 2.0**-52 + 2.0**-53 < 1.0


def test_the_documented_table_is_what_is_computed() -> None:
    doc = profile_module.__doc__ or ""
    rows = {name: [float(x) for x in rest.split()] for name, rest in re.findall(r"^(\w+) +([\d. ]+)$", doc, re.M)}
    for service, profile in DEFAULTS.items():
        median, sigma, p99, largest = rows[service]
        assert (median, sigma) == (profile.median_ms, profile.sigma)
        assert p99 == pytest.approx(profile.quantile(0.99), abs=0.06)
        assert largest == pytest.approx(profile.largest_ms, abs=0.06)


def test_the_documented_page_is_what_is_computed() -> None:
    doc = " ".join((profile_module.__doc__ or "").split())
    found = re.findall(r"median ([\d.]+) ms, P99 ([\d.]+) ms (?:with stars|without)", doc)
    for names, (median, p99) in zip((tuple(DEFAULTS), ("productpage", "details", "reviews")), found, strict=True):
        totals = sorted(sum(DEFAULTS[name].time_ms(name, s) for name in names) for s in SEEDS)
        # 20,000 draws: the standard error of the median is under 0.5 %, of the P99 under 1 %
        assert totals[len(totals) // 2] == pytest.approx(float(median), rel=0.02)
        assert totals[int(len(totals) * 0.99)] == pytest.approx(float(p99), rel=0.04)


def test_the_environment_overrides() -> None:
    told = {"PROFILE_MEDIAN_MS": "3", "PROFILE_SIGMA": "0", "PROFILE_CUT": "0.99", "PROFILE_CPU_FRACTION": "0.5"}
    assert from_environment("details", told) == Profile(median_ms=3.0, sigma=0.0, cut=0.99, cpu_fraction=0.5)
    assert from_environment("details", {}) == DEFAULTS["details"]
    assert Draws("details", from_environment("details", {"PROFILE_OFF": "1"})).time_ms("1") == 0.0
    assert from_environment("details", {"PROFILE_OFF": "0"}) == DEFAULTS["details"]


@pytest.mark.parametrize(
    ("name", "value"), [("PROFILE_SIGMA", "-1"), ("PROFILE_MEDIAN_MS", "fast"), ("PROFILE_CUT", "nan")]
)
def test_a_bad_override_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidProfile, match=rf"{name}='{value}': expected a number from"):
        from_environment("details", {name: value})


def test_the_profile_is_declared_in_one_place() -> None:
    """No other file of bookinfo names a median."""
    folder = Path(profile_module.__file__).parent
    others = [p for p in folder.rglob("*") if p.suffix in {".py", ".yaml"} and p.name != "profile.py"]
    assert others
    assert not [p.name for p in others if "median_ms=" in p.read_text() or "PROFILE_MEDIAN_MS" in p.read_text()]
