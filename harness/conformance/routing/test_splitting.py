"""How requests are shared out: weights and subsets."""

from __future__ import annotations

from collections import Counter

from harness.conformance.checks import check
from harness.conformance.lab import Lab, version_of
from harness.conformance.routing.manifests import to, virtual_service
from harness.conformance.statistics import binomial_bounds

SPLIT_N = 2_400
"""Requests for the weight check: 70/30 is told from 63/37 with power above 0.99 at alpha 1e-6."""


def _weighted(first: int, second: int) -> str:
    host = "server.$NS.svc.cluster.local"
    return virtual_service(
        f"""
- route:
  - {{destination: {{host: {host}, subset: v1}}, weight: {first}}}
  - {{destination: {{host: {host}, subset: v2}}, weight: {second}}}
"""
    )


@check(
    "R15",
    "a weighted split is within exact binomial bounds",
    feature="VirtualService",
    mutants=("weights-off-by-seven",),
)
def test_weights(lab: Lab) -> None:
    lab.apply(_weighted(70, 30))
    lab.until(
        lambda: lab.version() in {"v1", "v2"} and "v3" not in {lab.version() for _ in range(5)}, "v3 gets nothing"
    )
    counts = Counter(version_of(r) for r in lab.call(count=SPLIT_N, concurrency=8))
    low, high = binomial_bounds(SPLIT_N, 0.70)
    lab.note("bounds", f"v1 must get {low}..{high} of {SPLIT_N}; counts: {dict(counts)}")
    assert set(counts) == {"v1", "v2"}
    assert low <= counts["v1"] <= high, f"v1 got {counts['v1']} of {SPLIT_N}, outside {low}..{high}"


@check("R16", "weight 0 gets no request at all", feature="VirtualService", mutants=("leak-to-service",))
def test_weight_zero(lab: Lab) -> None:
    lab.apply(_weighted(100, 0))
    lab.until(lambda: {lab.version() for _ in range(5)} == {"v1"}, "everything goes to v1")
    counts = Counter(version_of(r) for r in lab.call(count=500, concurrency=4))
    assert counts == {"v1": 500}


@check(
    "R17",
    "a subset routes only to endpoints with its labels",
    feature="DestinationRule",
    mutants=("subset-to-service",),
)
def test_subsets(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            "".join(
                f"""
- match: [{{headers: {{x-want: {{exact: {version}}}}}}}]
  route: {to(version)}
"""
                for version in ("v1", "v2", "v3")
            )
        )
    )
    lab.until(lambda: lab.version(headers=[("x-want", "v3")]) == "v3", "v3 on demand")
    for version in ("v1", "v2", "v3"):
        results = lab.call(headers=[("x-want", version)], count=40)
        assert Counter(version_of(r) for r in results) == {version: 40}
