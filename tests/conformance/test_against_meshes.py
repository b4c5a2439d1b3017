"""The checks against a whole mesh, against broken ones, and against none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import stage
from harness.conformance import fleet
from harness.conformance.run import SuiteError, run
from harness.substrate.api import World
from reports.model import CheckResult, ConformanceResult
from tests.conformance.test_catalogue import CHECKS

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(1_200)]


@pytest.fixture(scope="module")
def meshed() -> Iterator[World]:
    with stage.opened("envoy") as (world, mesh):
        fleet.deploy(world)
        mesh.settled(20.0)
        yield world


def told(results: list[CheckResult]) -> str:
    return "\n".join(f"{r.id} {r.evidence[0].text}: {r.outcome}\n{r.message}" for r in results)


def only(result: ConformanceResult, *outcomes: str) -> list[CheckResult]:
    return [check for check in result.checks if check.outcome in outcomes]


def test_every_check_passes_through_envoy(meshed: World, tmp_path: Path) -> None:
    result = run(meshed.name, "envoy", tmp_path, deadline=400.0)
    others = [check for check in result.checks if check.outcome != "passed"]
    assert not others, told(others)
    assert {check.id for check in result.checks} == {spec.id for spec in CHECKS.values()}


def test_every_check_fails_when_its_behaviour_is_broken(meshed: World, tmp_path: Path) -> None:
    result = run(meshed.name, "envoy", tmp_path, deadline=1_100.0, options=["--mutant", "all"])
    fooled = [check for check in result.checks if check.outcome != "failed"]
    assert not fooled, told(fooled)
    assert len(result.checks) == sum(len(spec.mutants) for spec in CHECKS.values())


def test_no_check_passes_without_a_mesh(tmp_path: Path) -> None:
    with stage.opened("none") as (world, _):
        fleet.deploy(world)
        result = run(world.name, "none", tmp_path, deadline=400.0)
    free = {spec.id for spec in CHECKS.values() if spec.without_mesh}
    assert {check.id for check in only(result, "passed")} == free


OWN_CHECKS = """
from harness.conformance.checks import check


@check("R901", "the client reaches the server", feature="Team", mutants=("route-to-nowhere",))
def test_mine_holds(lab):
    assert lab.status() == 200


@check("R902", "the client does not reach the server", feature="Team", mutants=("route-to-nowhere",))
def test_mine_fails(lab):
    assert lab.status() == 503


@check("R903", "written wrongly", feature="Team", mutants=("route-to-nowhere",))
def test_mine_crashes(lab):
    lab.status().no_such_attribute
"""


def test_a_teams_own_check_is_judged_like_ours_and_a_crash_is_no_verdict(meshed: World, tmp_path: Path) -> None:
    own = tmp_path / "test_own.py"
    own.write_text(OWN_CHECKS)
    result = run(meshed.name, "envoy", tmp_path, deadline=60.0, options=["-k", "mine", str(own)])
    assert {check.id: check.outcome for check in result.checks} == {"R901": "passed", "R902": "failed", "R903": "error"}


def test_a_check_that_cannot_be_loaded_is_named(meshed: World, tmp_path: Path) -> None:
    own = tmp_path / "test_own.py"
    own.write_text("import no_such_module\n")
    with pytest.raises(SuiteError, match="no_such_module"):
        run(meshed.name, "envoy", tmp_path, deadline=60.0, options=["-k", "mine", str(own)])
