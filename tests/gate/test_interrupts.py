"""Ctrl-C at any moment of any verb leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.footprint import footprint, leftovers

pytestmark = pytest.mark.privileged

ROUTE = Path(__file__).parents[2] / "harness" / "workloads" / "bookinfo" / "mesh" / "reviews-v3.yaml"
EXPERIMENT = Path(__file__).parents[2] / "chaos" / "experiments" / "slow-ratings.yaml"

MOMENTS = random.Random(20_261_121)
"""Seeded, so that a failure can be repeated; the machine's timing varies the moment further."""


INTERRUPTED = {130, -signal.SIGINT}
"""The second is a Ctrl-C while Python itself was still starting, before there was anything to undo."""


def start(*verb: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "meshproof", *verb],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
    )


def interrupt(*verb: str, after: float) -> tuple[int, str]:
    """Run a verb, press Ctrl-C `after` seconds, and wait for its end; exit code and output."""
    process = start(*verb)
    try:
        output, _ = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=60.0)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"meshproof {' '.join(verb)} did not end within 60 s of Ctrl-C:\n{output}")
    return process.returncode, output


@pytest.mark.timeout(400)
@pytest.mark.parametrize("latest", [1.0, 4.0, 9.0, 20.0, 45.0])
def test_gate(latest: float, tmp_path: Path) -> None:
    before = footprint()
    code, output = interrupt("gate", "--out", str(tmp_path), after=MOMENTS.uniform(latest / 2, latest))
    assert leftovers(before) == {}
    assert code in INTERRUPTED, output


@pytest.mark.timeout(400)
@pytest.mark.parametrize("latest", [2.0, 12.0, 22.0])
def test_gameday_on_a_world_of_its_own(latest: float, tmp_path: Path) -> None:
    before = footprint()
    after = MOMENTS.uniform(latest / 2, latest)
    code, output = interrupt("gameday", str(EXPERIMENT), "--out", str(tmp_path), after=after)
    assert leftovers(before) == {}
    assert code in INTERRUPTED, output


@pytest.mark.parametrize("latest", [0.7, 1.5, 4.0])
def test_up(latest: float) -> None:
    before = footprint()
    code, output = interrupt("up", "--world", "interrupted", after=MOMENTS.uniform(latest / 2, latest))
    if code == 0:  # it was up before the moment came
        down("interrupted")
    assert leftovers(before) == {}
    assert code in {0, *INTERRUPTED}, output


@pytest.fixture(scope="module")
def world() -> Iterator[str]:
    name = "standing"
    process = start("up", "--world", name)
    output, _ = process.communicate(timeout=120.0)
    assert process.returncode == 0, output
    yield name
    down(name)


def down(name: str) -> None:
    process = start("down", "--world", name)
    output, _ = process.communicate(timeout=60.0)
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    "verb",
    [
        ["apply", str(ROUTE)],
        ["status"],
        ["gameday", str(EXPERIMENT)],
        ["heal"],
    ],
    ids=lambda verb: verb[0],
)
def test_verbs_on_a_standing_world_leave_it_as_it_was(verb: list[str], world: str, tmp_path: Path) -> None:
    """The world stays; nothing else does: no load, no Toxiproxy, no capture."""
    before = footprint()
    extra = ["--out", str(tmp_path)] if verb[0] == "gameday" else []
    for latest in (0.5, 1.5, *((11.0, 18.0) if extra else ())):
        code, output = interrupt(*verb, "--world", world, *extra, after=MOMENTS.uniform(latest / 2, latest))
        assert leftovers(before) == {}
        assert code in {0, 1, 3, *INTERRUPTED}, output


@pytest.mark.parametrize(
    "verb", [["validate", str(ROUTE)], ["doctor"], ["report", "nowhere"]], ids=lambda verb: verb[0]
)
def test_verbs_without_a_world(verb: list[str]) -> None:
    before = footprint()
    for _ in range(2):
        code, output = interrupt(*verb, after=MOMENTS.uniform(0.05, 1.0))
        assert leftovers(before) == {}
        assert code in {0, 1, 2, 4, *INTERRUPTED}, output
