"""What is made from a bundle beside the page: JUnit, conformance YAML, the terminal's verdict, the sentence."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from rich.console import Console

from reports.bundle import Bundle
from reports.conformance import conformance_report
from reports.junit import junit
from reports.model import CheckResult, Gate, RunResult, Verdict
from reports.render import render
from reports.sentence import overall, sentence
from reports.terminal import print_verdict
from tests.reports.sample import sample


def gate(verdict: Verdict, name: str = "P99 increase", reason: str = "because") -> Gate:
    return Gate(name=name, verdict=verdict, value="+7 %", limit="< 5 %", reason=reason)


# --- the verdict


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("", Verdict.INCONCLUSIVE),
        ("p", Verdict.PASS),
        ("pp", Verdict.PASS),
        ("pi", Verdict.INCONCLUSIVE),
        ("pif", Verdict.FAIL),
        ("fp", Verdict.FAIL),
    ],
)
def test_a_fail_outweighs_doubt_and_doubt_outweighs_a_pass(verdicts: str, expected: Verdict) -> None:
    letters = {"p": Verdict.PASS, "i": Verdict.INCONCLUSIVE, "f": Verdict.FAIL}
    assert overall([gate(letters[letter]) for letter in verdicts]) is expected


def test_the_sentence_names_the_culprit_its_value_its_limit_and_its_reason() -> None:
    said = sentence({"name": "envoy"}, [gate(Verdict.PASS, "Conformance"), gate(Verdict.FAIL, reason="It is slow.")])
    assert said == "envoy fails 1 of 2 gates: P99 increase is +7 %, limit < 5 %. It is slow."


def test_the_sentence_tells_doubt_from_failure() -> None:
    said = sentence({"name": "envoy"}, [gate(Verdict.INCONCLUSIVE), gate(Verdict.PASS)])
    assert said.startswith("envoy fails nothing, but 1 of 2 gates cannot be judged: P99 increase")


def test_several_culprits_are_all_named() -> None:
    said = sentence(
        {}, [gate(Verdict.FAIL, name) for name in ("Conformance", "Mutual TLS on the wire", "P99 increase")]
    )
    assert said == (
        "The mesh fails 3 of 3 gates: conformance (+7 %), mutual TLS on the wire (+7 %) and P99 increase (+7 %)."
    )


def test_nothing_judged_is_said_so() -> None:
    assert sentence({"name": "envoy"}, []) == "envoy: nothing was judged."


# --- the bundle


@pytest.mark.parametrize("failing", [False, True])
def test_results_survive_the_round_trip(tmp_path: Path, failing: bool) -> None:
    bundle = Bundle.create(tmp_path, "run")
    bundle.save(sample(failing=failing))
    assert bundle.load() == sample(failing=failing)


def test_rendering_reads_results_alone_and_is_repeatable(tmp_path: Path) -> None:
    bundle = Bundle.create(tmp_path, "run")
    bundle.save(sample())
    render(bundle)
    first = {path.name: path.read_bytes() for path in bundle.root.iterdir()}
    render(bundle)
    assert {path.name: path.read_bytes() for path in bundle.root.iterdir()} == first
    assert set(first) == {"results.json", "report.html", "junit.xml", "conformance.yaml"}


def test_without_checks_there_is_no_conformance_document(tmp_path: Path) -> None:
    bundle = Bundle.create(tmp_path, "run")
    bundle.save(RunResult(run_id="r", command="meshproof gameday", started="2026-01-01T00:00:00+00:00"))
    render(bundle)
    assert not (bundle.root / "conformance.yaml").exists()
    assert (bundle.root / "report.html").stat().st_size > 0


# --- JUnit


def test_junit_counts_what_happened() -> None:
    root = ElementTree.fromstring(junit(sample(failing=True)))
    suites = {suite.get("name"): suite for suite in root}
    assert suites["resilience"].get("failures") == "1"
    assert suites["filters"].get("errors") == "1"
    assert suites["control-plane"].get("skipped") == "1"
    assert suites["routing"].get("failures") == "0"
    assert suites["gates"].get("failures") == "5"
    assert root.get("tests") == str(sum(len(suite.findall("testcase")) for suite in root))
    failed = suites["resilience"].find("testcase[failure]")
    assert failed is not None
    assert failed.get("name", "").startswith("E3 ")


def test_junit_never_shows_doubt_as_success() -> None:
    result = sample()
    result.gates[0].verdict = Verdict.INCONCLUSIVE
    found = ElementTree.fromstring(junit(result)).find("testsuite[@name='gates']/testcase/error")
    assert found is not None
    assert found.get("type") == "inconclusive"


def test_junit_holds_any_bytes_evidence_may_have() -> None:
    result = sample()
    assert result.conformance is not None
    result.conformance.checks[0].outcome = "failed"
    result.conformance.checks[0].message = "\x00\x1b[31m <b>]]>\ud800\uffff & 'x'\nsecond line"
    root = ElementTree.fromstring(junit(result).encode("utf-8", "replace"))
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert "<b>]]>" in (failure.text or "")
    assert failure.get("message", "").count("\n") == 0


def test_an_outcome_nobody_knows_is_an_error_of_ours() -> None:
    result = sample()
    assert result.conformance is not None
    result.conformance.checks[0].outcome = "flaky"
    with pytest.raises(ValueError, match="flaky"):
        junit(result)


# --- the conformance document


def test_conformance_document_has_the_shape_of_gateway_apis() -> None:
    document = yaml.safe_load(yaml.safe_dump(conformance_report(sample(failing=True))))
    assert document["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert document["kind"] == "ConformanceReport"
    assert set(document) >= {"date", "gatewayAPIVersion", "gatewayAPIChannel", "mode", "implementation", "profiles"}
    assert set(document["implementation"]) == {"organization", "project", "url", "version", "contact"}
    (profile,) = document["profiles"]
    assert profile["core"]["result"] == "failure"
    assert profile["core"]["failedTests"] == ["F5", "E3"]
    assert profile["core"]["statistics"] == {"Passed": 18, "Skipped": 0, "Failed": 2}
    assert profile["extended"]["result"] == "partial"
    assert profile["extended"]["skippedTests"] == ["C13"]
    assert "RateLimiting" in profile["extended"]["unsupportedFeatures"]


def test_no_checks_are_no_success() -> None:
    result = sample()
    assert result.conformance is not None
    result.conformance.checks = [c for c in result.conformance.checks if c.profile != "core"]
    assert conformance_report(result)["profiles"][0]["core"]["result"] == "partial"


# --- the terminal


def shown(result: RunResult, **environment: str) -> str:
    out = io.StringIO()
    print_verdict(result, Console(file=out, width=100, _environ=environment, force_terminal=True, highlight=False))
    return out.getvalue()


def test_the_terminal_shows_verdict_gates_reasons_and_command() -> None:
    result = sample(failing=True)
    text = " ".join(shown(result, NO_COLOR="1", TERM="xterm").split())
    assert "✕ FAIL" in text
    for each in result.gates:
        assert each.name in text
        assert each.value in text
        assert each.reason in text
    assert result.command in text


def test_no_color_is_respected_and_markup_in_results_is_text() -> None:
    result = sample()
    result.gates[0].value = "[red]27[/red] [bold"
    assert "\x1b[32m" in shown(result, TERM="xterm-256color")
    plain = shown(result, NO_COLOR="1", TERM="xterm")
    assert "\x1b[32m" not in plain
    assert "[red]27[/red] [bold" in plain


# --- the verb


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meshproof", "report", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"},
        timeout=60,
        check=False,
    )


def test_the_verb_renders_the_latest_run_and_exits_zero(tmp_path: Path) -> None:
    for index, name in enumerate(("old", "new")):
        bundle = Bundle.create(tmp_path / "out", name)
        os.utime(bundle.save(sample(failing=name == "new")), (1e9 + index, 1e9 + index))
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FAIL" in done.stdout
    assert (tmp_path / "out" / "new" / "report.html").is_file()
    assert not (tmp_path / "out" / "old" / "report.html").exists()


def test_the_verb_prints_json_and_nothing_else(tmp_path: Path) -> None:
    bundle = Bundle.create(tmp_path, "one")
    bundle.save(sample())
    done = run(str(bundle.root), "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["run_id"] == sample().run_id


@pytest.mark.parametrize("content", [None, "{", '{"run_id": 3}'])
def test_the_verb_explains_a_folder_that_is_no_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    done = run(str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "results.json" in done.stderr


def test_the_verb_says_how_to_make_a_run(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 2
    assert "meshproof gate" in done.stderr


def test_checks_of_every_outcome_have_a_known_word() -> None:
    assert {c.outcome for c in (sample(failing=True).conformance or CheckResult).checks} == {  # type: ignore[union-attr]
        "passed", "failed", "error", "skipped",
    }  # fmt: skip
