"""Timeouts and retries: judged by the clock at the client and by the attempts the backend saw."""

from __future__ import annotations

from harness.conformance.checks import check
from harness.conformance.fleet import token
from harness.conformance.lab import Lab
from harness.conformance.routing.manifests import to, virtual_service
from harness.conformance.timing import lasted


@check(
    "E1",
    "a route timeout answers 504 on time, and the upstream request is cancelled",
    feature="VirtualService",
    mutants=("drop-timeout",),
)
def test_timeout(lab: Lab) -> None:
    lab.apply(virtual_service(f"- timeout: 300ms\n  route: {to('v1')}\n"))
    slow = {"delay": 3000}
    lab.until(lambda: lab.status(instruct=slow) == 504, "a slow answer times out")
    name = token()
    results = lab.call(instruct=slow | {"token": name}, count=3)
    assert [r.status for r in results] == [504] * 3
    assert lasted([r.latency_ms for r in results], 300.0)
    lab.until(
        lambda: [r.outcome for r in lab.received(name)["v1"]] == ["cancelled"] * 3,
        "the upstream requests are cancelled",
        budget=2.0,
    )
    assert lab.status() == 200, "a fast answer is untouched"


@check(
    "E3", "the backend sees exactly attempts + 1", feature="VirtualService", mutants=("drop-retries", "one-retry-more")
)
def test_attempts(lab: Lab) -> None:
    lab.apply(virtual_service(f"- retries: {{attempts: 3, perTryTimeout: 2s, retryOn: 5xx}}\n  route: {to('v1')}\n"))

    def tries(fail: int) -> tuple[int, int]:
        name = token()
        status = lab.status(instruct={"token": name, "fail": fail})
        return status, lab.fleet.attempts(name)["v1"]

    lab.until(lambda: tries(100)[1] == 4, "four attempts")
    assert tries(100) == (503, 4), "3 retries and the first attempt"
    assert tries(2) == (200, 3), "no attempt after a success"
    assert tries(0) == (200, 1)


@check("E6", "the overall timeout caps retries", feature="VirtualService", mutants=("drop-timeout",))
def test_timeout_caps_retries(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"- timeout: 700ms\n  retries: {{attempts: 10, perTryTimeout: 250ms, retryOn: 5xx}}\n  route: {to('v1')}\n"
        )
    )
    slow = {"delay": 5000}
    lab.until(lambda: lab.status(instruct=slow) == 504, "a slow answer times out")
    name = token()
    results = lab.call(instruct=slow | {"token": name}, count=3)
    attempts = lab.fleet.attempts(name)["v1"]
    assert [r.status for r in results] == [504] * 3
    assert lasted([r.latency_ms for r in results], 700.0)
    assert 6 <= attempts <= 12, f"{attempts} attempts of at most 250 ms within three times 700 ms"
