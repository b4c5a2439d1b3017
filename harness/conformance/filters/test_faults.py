"""Injected faults: the share, the code, the duration."""

from __future__ import annotations

from harness.conformance.checks import check
from harness.conformance.fleet import token
from harness.conformance.lab import Lab
from harness.conformance.routing.manifests import to, virtual_service
from harness.conformance.statistics import binomial_bounds
from harness.conformance.timing import EARLY_MS, lasted

ABORTS_N = 400
"""A share of 50 % is told from 25 % with power above 0.999."""

DELAY_MS = 300.0
DELAYED_MS = DELAY_MS - EARLY_MS
"""From here on an answer counts as delayed."""


@check(
    "F14",
    "an abort has its share and its code",
    feature="VirtualService",
    mutants=("drop-abort", "abort-always-500", "abort-twice-as-rarely"),
)
def test_abort(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{uri: {{exact: /all}}}}]
  fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}
  route: {to("v1")}
- match: [{{uri: {{exact: /half}}}}]
  fault: {{abort: {{httpStatus: 418, percentage: {{value: 50}}}}}}
  route: {to("v1")}
- route: {to("v1")}
"""
        )
    )
    lab.until(lambda: lab.status("/all") == 418, "every request is aborted")
    name = token()
    assert {r.status for r in lab.call("server", "/all", count=20, instruct={"token": name})} == {418}
    assert lab.fleet.attempts(name)["v1"] == 0, "an aborted request never reaches the backend"
    statuses = [r.status for r in lab.call("server", "/half", count=ABORTS_N, concurrency=4)]
    low, high = binomial_bounds(ABORTS_N, 0.5)
    assert set(statuses) == {200, 418}
    assert low <= statuses.count(418) <= high, f"{statuses.count(418)} aborts of {ABORTS_N}, outside {low}..{high}"
    assert lab.status("/none") == 200, "the fault is scoped to its match"


@check("F14", "a gRPC call is aborted with a gRPC status", feature="VirtualService", mutants=("drop-abort",))
def test_grpc_abort(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{headers: {{x-abort: {{exact: "yes"}}}}}}]
  fault: {{abort: {{grpcStatus: "UNAVAILABLE", percentage: {{value: 100}}}}}}
  route: {to("v1")}
- route: {to("v1")}
"""
        )
    )
    told = [("x-abort", "yes")]
    lab.until(lambda: lab.get(protocol="grpc", headers=told).grpc_status == 14, "UNAVAILABLE")
    assert {r.grpc_status for r in lab.call(protocol="grpc", headers=told, count=5)} == {14}
    assert lab.get(protocol="grpc").grpc_status == 0


@check("F15", "a delay has its share and its duration", feature="VirtualService", mutants=("drop-delay", "halve-delay"))
def test_delay(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{uri: {{exact: /all}}}}]
  fault: {{delay: {{fixedDelay: {DELAY_MS:.0f}ms, percentage: {{value: 100}}}}}}
  route: {to("v1")}
- match: [{{uri: {{exact: /half}}}}]
  fault: {{delay: {{fixedDelay: {DELAY_MS:.0f}ms, percentage: {{value: 50}}}}}}
  route: {to("v1")}
- route: {to("v1")}
"""
        )
    )
    lab.until(lambda: lab.get("/all").latency_ms >= DELAYED_MS, "a delayed answer")
    delayed = [r.latency_ms for r in lab.call("server", "/all", count=8, concurrency=4)]
    assert lasted(delayed, DELAY_MS), f"answered after {delayed} ms"
    n = 80
    slow = sum(r.latency_ms >= DELAYED_MS for r in lab.call("server", "/half", count=n, concurrency=20))
    low, high = binomial_bounds(n, 0.5)
    assert low <= slow <= high, f"{slow} of {n} delayed, outside {low}..{high}"
    assert lab.get("/none").latency_ms < DELAYED_MS
