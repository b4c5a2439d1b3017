"""Outlier detection, circuit breakers, balance."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from harness.conformance.checks import check
from harness.conformance.fleet import token
from harness.conformance.lab import Lab, version_of

EJECTION_S = 2.0


def _policy(policy: str, host: str = "server") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}, namespace: $NS}}
spec:
  host: {host}.$NS.svc.cluster.local
  trafficPolicy: {policy}
"""


def _no_retries(host: str) -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {host}, namespace: $NS}}
spec:
  hosts: [{host}.$NS.svc.cluster.local]
  http:
  - retries: {{attempts: 0}}
    route: [{{destination: {{host: {host}.$NS.svc.cluster.local}}}}]
"""


_EJECT = (
    "{outlierDetection: {consecutive5xxErrors: 3, interval: 200ms, "
    f"baseEjectionTime: {EJECTION_S:g}s, maxEjectionPercent: 100}}}}"
)


def _eject(lab: Lab) -> str:
    """Fail `server-v3` until it is ejected; the token by which it was called."""
    name = token()
    results = lab.call("server-v3", count=20, instruct={"token": name, "fail": 1000})
    assert {r.status for r in results} == {503}
    return name


@check(
    "E8",
    "a host is ejected after exactly N consecutive 5xx",
    feature="DestinationRule",
    mutants=("drop-outlier-detection",),
)
def test_ejection(lab: Lab) -> None:
    lab.apply(_policy(_EJECT, "server-v3") + _no_retries("server-v3"))
    lab.until(lambda: lab.status(to="server-v3") == 200, "the host serves")
    name = _eject(lab)
    assert lab.fleet.attempts(name)["v3"] == 3, "requests the failing host saw before it was ejected"
    assert lab.status(to="server-v3") == 503, "and none after, though it would serve again"
    assert lab.status(to="server-v1") == 200, "other hosts are unaffected"


@check(
    "E9",
    "an ejected host returns after baseEjectionTime, not before",
    feature="DestinationRule",
    mutants=("eject-forever", "drop-outlier-detection"),
)
def test_return(lab: Lab) -> None:
    lab.apply(_policy(_EJECT, "server-v3") + _no_retries("server-v3"))
    lab.until(lambda: 0 < lab.fleet.attempts(_eject(lab))["v3"] < 20, "the failing host is ejected")
    began = time.monotonic()
    assert lab.status(to="server-v3") == 503, "ejected: no healthy host"
    # The time multiplies with the number of ejections of that host; here it was ejected once.
    lab.until(lambda: lab.status(to="server-v3") == 200, "the host returns", budget=EJECTION_S * 4)
    away = time.monotonic() - began
    assert away >= EJECTION_S * 0.75, f"back after {away:.1f} s, before its {EJECTION_S:g} s were over"


@check(
    "E12",
    "requests over the limit get 503 and the flag UO; those within it are unaffected",
    feature="DestinationRule",
    mutants=("drop-circuit-breakers",),
)
def test_overflow(lab: Lab) -> None:
    lab.apply(
        _policy("{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}", "server-v3")
        + _no_retries("server-v3")
    )
    how: dict[str, Any] = {"count": 12, "concurrency": 12, "instruct": {"delay": 400}}
    lab.until(lambda: 503 in {r.status for r in lab.call("server-v3", **how)}, "requests overflow")
    path = f"/overflow-{token()}"
    statuses = Counter(r.status for r in lab.call("server-v3", path, **how))
    assert set(statuses) == {200, 503}
    assert 2 <= statuses[200] <= 4, f"one in flight and one pending at a time: {statuses}"

    def overflowed() -> list[dict[str, object]]:
        entries = lab.mesh.access_log(lab.fleet.namespace, lab.fleet.pod("client").name)
        return [e for e in entries if e.get("path") == path and "UO" in str(e.get("response_flags"))]

    lab.until(lambda: len(overflowed()) >= statuses[503], "the access log has every overflow")
    assert len(overflowed()) == statuses[503]


@check("E13", "ROUND_ROBIN visits hosts evenly", feature="DestinationRule", mutants=("random-balancing",))
def test_round_robin(lab: Lab) -> None:
    lab.apply(_policy("{loadBalancer: {simple: ROUND_ROBIN}}"))
    n = 600

    def even() -> bool:
        counts = Counter(version_of(r) for r in lab.call(count=30))
        return max(counts.values()) - min(counts.values()) <= 1 and len(counts) == 3

    lab.until(even, "30 requests are shared evenly")
    counts = Counter(version_of(r) for r in lab.call(count=n))
    assert set(counts) == {"v1", "v2", "v3"}
    # One connection stays on one worker, whose turn-taking is exact; random choice is within 2 in about 1 % of runs.
    assert max(counts.values()) - min(counts.values()) <= 2, f"{dict(counts)}"
