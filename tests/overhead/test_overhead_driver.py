"""The driver: starting, following, ending a load run; reading what it found."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.overhead.driver import LoadError, start_load
from loadtests.spec import SAMPLE_COLUMNS, Arm, LoadSpec, Second

Program = Callable[..., int]


def make(out: Path, port: int, **changes: Any) -> LoadSpec:
    base: dict[str, Any] = {
        "arms": [Arm(name=name, url=f"http://127.0.0.1:{port}/page") for name in ("direct", "meshed")],
        "rate": 40.0,
        "windows": 100,
        "window_seconds": 0.5,
        "warmup_seconds": 0.5,
        "users": 8,
        "out": out,
    }
    return LoadSpec(**{**base, **changes})


def test_a_run_can_be_followed_stopped_and_read(tmp_path: Path, program: Program) -> None:
    said: list[str] = []
    seen: list[Second] = []
    with start_load(None, make(tmp_path, program("profiled")), progress=said.append) as run:
        assert abs(run.start_ns - time.monotonic_ns()) < 5e9
        assert len(run.samples()) == 0
        until = time.monotonic() + 20
        while len(seen) < 4 and time.monotonic() < until:
            seen += run.tail()
            time.sleep(0.05)
        run.wait_windows(2)
        early = run.samples()
        assert tuple(early.columns) == SAMPLE_COLUMNS
        assert set(early["window"]) >= {0, 1}
        health = run.stop()
        assert not run.running
    assert [second.t for second in seen] == [1.0, 1.0, 2.0, 2.0], "each second once per arm, none twice"
    assert run.seconds()[: len(seen)] == seen
    assert health.windows == len(run.windows()) == len(said)
    assert health.errors == 0
    samples = run.samples()
    assert len(samples[samples["window"] >= 0]) == health.requests
    assert "window 1 of 100" in said[0]


def test_leaving_the_block_ends_the_generator(tmp_path: Path, program: Program) -> None:
    with pytest.raises(ZeroDivisionError), start_load(None, make(tmp_path, program("profiled"))) as run:
        raise ZeroDivisionError
    assert not run.running
    assert not Path(f"/proc/{run.pid}").exists()


def test_a_spec_may_be_a_mapping_and_ending_early_keeps_what_was_measured(tmp_path: Path, program: Program) -> None:
    url = f"http://127.0.0.1:{program('profiled')}/page"
    spec = {"arms": [{"name": "only", "url": url}], "rate": 40, "windows": 100, "window_seconds": 0.5, "out": tmp_path}
    with start_load(None, {**spec, "warmup_seconds": 0}) as run:
        run.wait_windows(1)
        health = run.end()
    assert health.interrupted
    assert 0 < health.requests == len(run.samples())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": -1.0}, "rate: must be above 0"),
        ({"arms": [Arm(name="a", url="gopher://127.0.0.1/")]}, "want http://"),
        ({"arms": [Arm(name="a", url="http://127.0.0.1:1/", netns="/nowhere")]}, "/nowhere"),
    ],
)
def test_what_cannot_run_says_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        start_load(None, make(tmp_path, 1, **changes))
