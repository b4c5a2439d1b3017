"""Changing a running mesh, and losing its control plane."""

from __future__ import annotations

import time

from harness.conformance.checks import check
from harness.conformance.lab import Lab
from harness.conformance.mtls.test_modes import peer_authentication
from harness.conformance.routing.manifests import to, virtual_service

CONVERGENCE_P99_MS = 2_000.0
"""Apply to enforced everywhere. Generous: it is meant to find a mesh that takes seconds, not to rank fast ones."""

FLIPS = 100


def _all_to(version: str) -> str:
    return virtual_service(f"- route: {to(version)}\n")


@check("C11", "a change is enforced by every proxy within the budget", feature="ControlPlane", mutants=("@slow-apply",))
def test_convergence(lab: Lab) -> None:
    lab.apply(_all_to("v1"))
    lab.until(lambda: lab.version() == lab.version(client="stranger") == "v1", "both clients reach v1")
    took = []
    for version in ("v2", "v3") * 6:
        began = time.monotonic()
        lab.apply(_all_to(version))
        lab.until(lambda: {lab.version(), lab.version(client="stranger")} == {version}, f"both clients reach {version}")  # noqa: B023
        took.append((time.monotonic() - began) * 1000)
    lab.note("apply to enforced, ms", ", ".join(f"{ms:.0f}" for ms in took))
    assert max(took) <= CONVERGENCE_P99_MS


@check(
    "C12",
    f"{FLIPS} route flips under load: no failed request, no wrong backend after the ACK",
    feature="ControlPlane",
    mutants=("route-to-nowhere", "subset-to-service"),
)
def test_flips_under_load(lab: Lab) -> None:
    lab.apply(_all_to("v1"))
    lab.until(lambda: lab.version() == "v1", "everything goes to v1")
    with lab.fleet.background("client", "server", count=100_000, rate=200, concurrency=8) as load:
        for flip in range(FLIPS):
            version = "v3" if flip % 2 == 0 else "v1"
            lab.apply(_all_to(version))
            lab.until(lambda: lab.version() == version, f"flip {flip}", budget=1.0)  # noqa: B023
            assert [lab.version() for _ in range(2)] == [version] * 2, f"flip {flip}: wrong backend after the ACK"
        results = load.stop().results
    failed = [r for r in results if r.status != 200]
    lab.note("load", f"{len(results)} requests during {FLIPS} flips, {len(failed)} failed")
    assert len(results) >= FLIPS
    assert failed == []


@check(
    "C13",
    "without its control plane the data plane goes on: old and new connections",
    feature="ControlPlane",
    mutants=("@proxies-die-with-control-plane",),
)
def test_control_plane_down(lab: Lab) -> None:
    lab.apply(_all_to("v1") + peer_authentication("STRICT"))
    lab.until(lambda: lab.version() == "v1", "everything goes to v1")
    with lab.control_plane_down():
        assert {r.status for r in lab.call(count=40, concurrency=4, timeout_ms=2_000)} == {200}
        assert {r.status for r in lab.call(count=20, concurrency=4, timeout_ms=2_000, new_connection=True)} == {200}
        assert {lab.version() for _ in range(10)} == {"v1"}, "the configuration stands"
        assert lab.status(client="outside", new_connection=True) == 0, "STRICT stands"
    lab.apply(_all_to("v2"))
    lab.until(lambda: lab.version() == "v2", "changes work again afterwards")


@check(
    "C15",
    "deleting a change restores the config digest of before",
    feature="ControlPlane",
    mutants=("@forgets-to-delete",),
)
def test_delete_restores(lab: Lab) -> None:
    before = lab.mesh.digest()
    change = _all_to("v2") + peer_authentication("STRICT")
    lab.apply(change)
    during = lab.mesh.digest()
    assert during != before, "the change changed something"
    lab.delete(change)
    lab.mesh.settled()
    assert lab.mesh.digest() == before
    lab.apply(change)
    assert lab.mesh.digest() == during, "the digest depends on the configuration alone"
