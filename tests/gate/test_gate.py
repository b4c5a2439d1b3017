"""The whole gate, once, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from meshproof.exits import exit_code
from reports.bundle import Bundle
from reports.model import Verdict
from tests.footprint import footprint, leftovers

pytestmark = pytest.mark.privileged

BUDGET = 240.0
"""Seconds. Shorter than the default, so the overhead interval is wider; everything else is the same."""


@pytest.mark.timeout(500)
def test_from_nothing_to_a_verdict(tmp_path: Path) -> None:
    before = footprint()
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "meshproof", "gate", "--budget", f"{BUDGET:g}s", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUDGET + 120.0,
    )
    took = time.monotonic() - began
    assert leftovers(before) == {}
    [root] = tmp_path.iterdir()
    result = Bundle(root).load()
    said = done.stdout + done.stderr
    assert done.returncode == exit_code(result.verdict), said
    assert result.sentence in " ".join(done.stdout.split()), "the verdict is on stdout"
    assert not result.notes, result.notes
    assert took < BUDGET + 60.0

    gates = {gate.name: gate for gate in result.gates}
    assert gates["Conformance"].verdict is Verdict.PASS, gates["Conformance"].reason
    assert result.wire is not None
    assert (result.wire.coverage, result.wire.unknown, result.wire.capture_dropped) == (1.0, 0, 0)
    assert len(result.wire.edges) >= 4, "every edge of bookinfo was used"
    assert result.overhead is not None
    assert result.overhead.control is not None
    assert [experiment.outcome for experiment in result.chaos] == ["held"], result.chaos[0].reason

    page = (root / "report.html").read_text()
    assert result.run_id in page
    assert "<script src" not in page
    suite = ET.parse(root / "junit.xml").getroot()
    assert len(list(suite.iter("testcase"))) >= len(result.conformance.checks) if result.conformance else False
    report = yaml.safe_load((root / "conformance.yaml").read_text())
    assert report["kind"] == "ConformanceReport"
