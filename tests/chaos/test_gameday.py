"""Game days on a real world: each verdict, and what is left when one is interrupted or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from chaos.lock import Engaged
from chaos.redirect import Redirects
from chaos.runner import run_experiment
from chaos.session import Leftovers, Session, heal_world
from chaos.undo import StopCompanion, read_journal
from harness import meshes
from harness.substrate.local import LocalWorld
from reports.model import ExperimentResult, Verdict

pytestmark = pytest.mark.privileged

EXPERIMENT = """
title: {title}
description: for a test
runtime: {{rollbacks: {{strategy: always}}, hypothesis: {{strategy: continuously}}}}
steady-state-hypothesis:
  title: productpage serves
  probes:
    - type: probe
      name: success-ratio
      tolerance: {{type: range, range: [0.9, 1.0]}}
      provider: {{type: python, module: chaos.probes, func: success_ratio, arguments: {{window: 3}}}}
    - type: probe
      name: p99
      tolerance: {{type: range, range: [0, {bound}]}}
      provider: {{type: python, module: chaos.probes, func: p99_ms, arguments: {{window: 1}}}}
method:
  - type: action
    name: fault
    provider: {{type: python, module: chaos.actions, func: add_toxic, arguments: {{edge: reviews->ratings, {toxic}}}}}
    pauses: {{after: {observe}}}
rollbacks:
  - {{type: action, name: heal, provider: {{type: python, module: chaos.actions, func: reset}}}}
extensions:
  - name: meshproof
    namespace: bookinfo
    blast-radius: {{edges: [reviews->ratings], max-duration: 60s}}
    baseline: 1s
    visible: {visible}
    abort: [{{probe: p99, above: {stop}, for: 2s}}]
    recovery: {{within: 10s}}
    load: {{rate: 20, users: 32, url: "http://productpage:9080/productpage", client: client}}
"""

SLOW = "kind: latency, latency: 600"


def written(folder: Path, **changes: object) -> Path:
    """An experiment that holds, but for `changes`."""
    values = {"title": "a test", "bound": 30_000, "toxic": SLOW, "observe": 2, "visible": 200, "stop": 1e6, **changes}
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT.format(**values))
    return path


@pytest.fixture
def run(world: LocalWorld, tmp_path: Path) -> Callable[..., ExperimentResult]:
    def go(**changes: object) -> ExperimentResult:
        mesh = meshes.load("none")
        mesh.attach(world)
        return run_experiment(world, mesh, written(tmp_path, **changes), out=tmp_path / "out", progress=print)

    return go


@pytest.fixture(autouse=True)
def _clean(world: LocalWorld) -> Iterator[None]:
    yield
    assert not Redirects(world).present()
    assert read_journal(world.state_dir / "chaos") == []


def test_a_system_that_stands_it_holds(run: Callable[..., ExperimentResult], tmp_path: Path) -> None:
    result = run()
    assert (result.outcome, result.verdict) == ("held", Verdict.PASS), result.reason
    assert [phase.name for phase in result.phases] == [
        "preflight",
        "baseline",
        "inject",
        "observe",
        "heal",
        "recover",
    ]
    assert all(phase.end_s >= phase.start_s for phase in result.phases)
    assert sum(point.requests for point in result.timeline) > 60
    card = result.scorecard
    assert card["edges hit"].startswith("1 of 1")
    assert card["bite verified"].startswith("yes")
    assert card["rollback verified"].startswith("yes")
    assert card["config digest"].startswith("unchanged")
    assert card["errors spent"] == "0"
    events = [json.loads(line)["event"] for line in (tmp_path / "out" / "journal.ndjson").read_text().splitlines()]
    assert [e for e in events if e in ("begin", "inject", "bite", "healed", "recovered", "rollback", "end")] == [
        "begin",
        "inject",
        "bite",
        "healed",
        "recovered",
        "rollback",
        "end",
    ]


def test_a_system_that_does_not_stand_it_deviates_and_is_healed(run: Callable[..., ExperimentResult]) -> None:
    result = run(bound=450)
    assert (result.outcome, result.verdict) == ("deviated", Verdict.FAIL)
    assert "p99 was" in result.reason
    assert result.scorecard["time to recover"].endswith(" s")


def test_a_stop_condition_ends_the_fault_early(run: Callable[..., ExperimentResult]) -> None:
    started = time.monotonic()
    result = run(stop=450, observe=55)
    assert (result.outcome, result.verdict) == ("aborted", Verdict.FAIL)
    assert "above 450" in result.reason
    assert time.monotonic() - started < 45
    assert result.phases[-1].name == "recover"


def test_a_fault_that_does_not_bite_is_not_a_test(run: Callable[..., ExperimentResult]) -> None:
    result = run(toxic="kind: limit_data, bytes: 10000000")
    assert (result.outcome, result.verdict) == ("not-injected", Verdict.INCONCLUSIVE)
    assert "does not bite" in result.reason


def test_a_fault_nobody_sees_proves_nothing(run: Callable[..., ExperimentResult]) -> None:
    result = run(visible=5000)
    assert (result.outcome, result.verdict) == ("inconclusive", Verdict.INCONCLUSIVE)
    assert "hardly saw it" in result.reason


def test_a_target_that_is_not_there_is_found_before_anything_is_touched(world: LocalWorld, tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("reviews->ratings", "reviews->rating"))
    mesh = meshes.load("none")
    mesh.attach(world)
    result = run_experiment(world, mesh, path, out=tmp_path / "out")
    assert result.outcome == "not-injected"
    assert "did you mean ratings" in result.reason
    assert [phase.name for phase in result.phases] == ["preflight"]


# === interrupted


def started_gameday(world: LocalWorld, folder: Path) -> subprocess.Popen[bytes]:
    """The verb in a process of its own, its fault in place."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "meshproof", "gameday", str(written(folder, observe=50))),
            *("--world", world.name, "--mesh", "none", "--out", str(folder / "out")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("wb"),
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not Redirects(world).present():
        assert process.poll() is None, (folder / "stderr").read_text()
        assert time.monotonic() < end, (folder / "stderr").read_text()
        time.sleep(0.1)
    return process


def marks(world: LocalWorld) -> set[str]:
    return {entry.mark for entry in read_journal(world.state_dir / "chaos") if isinstance(entry, StopCompanion)}


def marked(mark: set[str]) -> list[int]:
    """Processes of a game day that are left."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MESHPROOF_MARK") in mark:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def test_an_interrupted_game_day_leaves_nothing(world: LocalWorld, tmp_path: Path) -> None:
    process = started_gameday(world, tmp_path)
    try:
        mark = marks(world)
        assert marked(mark)
        with pytest.raises(Engaged, match=f"pid {process.pid}"), Session(world):
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert marked(mark) == []
    assert not Redirects(world).present()


def test_a_killed_game_day_is_healed_by_heal(world: LocalWorld, tmp_path: Path) -> None:
    process = started_gameday(world, tmp_path)
    mark = marks(world)
    process.kill()
    process.wait()
    assert marked(mark)
    assert Redirects(world).present()
    with pytest.raises(Leftovers, match="meshproof heal --world"), Session(world):
        pass
    done = subprocess.run(
        [sys.executable, "-m", "meshproof", "heal", "--world", world.name, "--json"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    lines = json.loads(done.stdout)[world.name]
    assert any("direct again" in line for line in lines)
    assert any("ended Toxiproxy" in line for line in lines)
    assert marked(mark) == []
    assert not Redirects(world).present()
    assert heal_world(world) == []


def test_heal_ends_a_game_day_that_runs(world: LocalWorld, tmp_path: Path) -> None:
    process = started_gameday(world, tmp_path)
    try:
        done = heal_world(world)
        assert f"ended the game day of pid {process.pid}" in done
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()


def test_a_broken_file_is_a_usage_error_and_touches_nothing(world: LocalWorld, tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("kind: latency", "kind: lateness"))
    done = subprocess.run(
        [sys.executable, "-m", "meshproof", "gameday", str(path), "--world", world.name, "--mesh", "none"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 2
    assert f"{path}:" in done.stderr
    assert "method[0].provider.arguments.kind" in done.stderr


def test_a_dry_run_shows_what_would_be_hit(world: LocalWorld, tmp_path: Path) -> None:
    path = written(tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "meshproof", "gameday", str(path)),
            *("--world", world.name, "--mesh", "none", "--dry-run", "--json"),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    (plan,) = json.loads(done.stdout)
    assert len(plan["faults"][0]["hops"]) == 2, "each reviews pod to the ratings pod"
