"""The experiment format: ours is strict, and the Chaos Toolkit reads it too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import actions, probes, shipped
from chaos.context import NoGameDay
from chaos.experiment import Probe, Provider, Range, load_experiment
from manifests import InvalidManifests

ROOT = Path(__file__).parents[2]
SLOW_RATINGS = ROOT / "chaos" / "experiments" / "slow-ratings.yaml"


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_experiments_are_valid(path: Path) -> None:
    experiment = load_experiment(path)
    settings = experiment.settings
    assert settings.abort, "a shipped experiment can stop itself"
    assert settings.baseline + experiment.observed + settings.recovery.within <= 35, "it must fit the gate"


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_the_chaos_toolkit_accepts_shipped_experiments(path: Path, tmp_path: Path) -> None:
    # In a process of its own and elsewhere: it writes its log and journal where it stands.
    done = subprocess.run(
        [sys.executable, "-m", "chaostoolkit", "--no-version-check", "validate", str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "look valid" in done.stdout + done.stderr


def test_every_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(
        SLOW_RATINGS.read_text()
        .replace("strategy: always", "strategy: never")
        .replace("module: chaos.actions\n", "module: os\n")
        .replace("max-duration: 30s", "max-duration: 30")
        .replace("rate: 40", "rate: 0")
        .replace("tags:", "labels:")
    )
    with pytest.raises(InvalidManifests) as invalid:
        load_experiment(path)
    found = {(error.field, error.line > 0, error.file) for error in invalid.value.errors}
    fields = {field for field, _, _ in found}
    assert all(line and file == str(path) for _, line, file in found)
    assert {
        "runtime.rollbacks.strategy",
        "method[0].provider.module",
        "extensions[0].blast-radius.max-duration",
        "extensions[0].load.rate",
        "labels",
    } <= fields


@pytest.mark.parametrize(
    ("before", "after", "field", "message"),
    [
        ("func: add_toxic", "func: add_toxin", "method[0].provider.func", "is unknown"),
        ("kind: latency", "kind: lateness", "method[0].provider.arguments.kind", "lateness"),
        ("kind: latency,", "sort: latency,", "method[0].provider.arguments.sort", "unknown argument"),
        ("edge: reviews->ratings, ", "", "method[0].provider.arguments.edge", "is missing"),
        ("edge: reviews->ratings", "edge: productpage->reviews", "method[0].provider.arguments.edge", "blast radius"),
        ("edges: [reviews->ratings]", "edges: [reviews]", "extensions[0].blast-radius.edges[0]", "is not an edge"),
        ("max-duration: 30s", "max-duration: 5s", "extensions[0].blast-radius.max-duration", "is shorter"),
        ("probe: success-ratio, below", "probe: success, below", "extensions[0].abort[0].probe", "is unknown"),
        ("below: 0.5, for", "below: 0.5, above: 0.9, for", "extensions[0].abort[0]", "one bound"),
        ("range: [0.99, 1.0]", "range: [1.0, 0.99]", "steady-state-hypothesis.probes[0].tolerance.range", "no range"),
        ("name: p99-bounded", "name: success-ratio", "steady-state-hypothesis.probes[1].name", "also the name"),
        ("name: meshproof", "name: other", "extensions", "0 entries"),
        ("func: p99_ms, arguments: {window: 2}", "func: p99_ms, arguments: {window: two}", "", "Expected `float`"),
    ],
)
def test_a_mistake_types_cannot_see(tmp_path: Path, before: str, after: str, field: str, message: str) -> None:
    text = SLOW_RATINGS.read_text()
    assert before in text
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace(before, after))
    with pytest.raises(InvalidManifests) as invalid:
        load_experiment(path)
    assert any(message in str(error) and error.line for error in invalid.value.errors), invalid.value
    assert any(error.field.startswith(field) for error in invalid.value.errors), invalid.value


@pytest.mark.parametrize("module", ["os", "subprocess", "chaos.faults", "chaos.actions.faults"])
def test_a_file_cannot_name_code_of_its_choice(tmp_path: Path, module: str) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(SLOW_RATINGS.read_text().replace("module: chaos.actions\n", f"module: {module}\n"))
    with pytest.raises(InvalidManifests, match="module"):
        load_experiment(path)


def test_what_a_file_may_name_is_what_is_meant_to_be_named() -> None:
    for module in (actions, probes):
        for name in module.__all__:
            function = getattr(module, name)
            assert function.__module__ == module.__name__
            assert function.__doc__


def test_outside_of_a_game_day_nothing_happens() -> None:
    with pytest.raises(NoGameDay, match="meshproof gameday"):
        actions.cut_edge("reviews->ratings")
    with pytest.raises(NoGameDay, match="meshproof gameday"):
        probes.success_ratio()


@pytest.mark.parametrize(
    ("tolerance", "value", "holds"),
    [
        (Range(type="range", range=[0.99, 1.0]), 0.99, True),
        (Range(type="range", range=[0.99, 1.0]), 0.98, False),
        (Range(type="range", range=[0.0, 1.0]), None, False),
        (Range(type="range", range=[0.0, 1.0]), True, False),
        (True, True, True),
        (True, 1, False),
        (3, 3, True),
        ("a", "b", False),
    ],
)
def test_tolerances(tolerance: bool | int | str | Range, value: object, holds: bool) -> None:
    provider = Provider(type="python", module="chaos.probes", func="success_ratio")
    assert Probe(type="probe", name="x", provider=provider, tolerance=tolerance).holds(value) is holds
