"""JUnit XML, as CI systems read it: one suite per area of the conformance checks, and one of the gates.

JUnit has no third verdict: an inconclusive gate is written as an `error` of type `inconclusive`, so that no CI takes it
for a success.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree

from reports.model import CheckResult, Gate, RunResult, Verdict

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EVIDENCE_LIMIT = 8000


def junit(result: RunResult) -> str:
    root = ElementTree.Element("testsuites", name=f"meshproof {result.run_id}")
    checks = result.conformance.checks if result.conformance else []
    for area in dict.fromkeys(check.area for check in checks):
        _suite(root, area, result.started, [_case(check) for check in checks if check.area == area])
    if result.gates:
        _suite(root, "gates", result.started, [_gate(gate) for gate in result.gates])
    for counter in ("tests", "failures", "errors", "skipped"):
        root.set(counter, str(sum(int(suite.get(counter, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: ElementTree.Element, name: str, started: str, cases: Iterable[ElementTree.Element]) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=_text(name), timestamp=_text(started))
    suite.extend(cases)
    suite.set("tests", str(len(suite)))
    for counter, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(counter, str(sum(case.find(tag) is not None for case in suite)))
    suite.set("time", f"{sum(float(case.get('time', '0')) for case in suite):.3f}")


def _case(check: CheckResult) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        classname=_text(f"conformance.{check.area}"),
        name=_text(f"{check.id} {check.title}"),
        time=f"{check.duration_s:.3f}",
    )
    tag = {"failed": "failure", "error": "error", "skipped": "skipped"}.get(check.outcome)
    if tag:
        found = ElementTree.SubElement(case, tag, message=_text(check.message.partition("\n")[0]))
        found.text = _text(check.message)
    elif check.outcome != "passed":
        raise ValueError(f"check {check.id}: outcome {check.outcome!r} is none of passed, failed, skipped, error")
    if check.evidence:
        shown = "\n\n".join(f"# {e.title}\n{e.text or e.file}" for e in check.evidence)
        ElementTree.SubElement(case, "system-out").text = _text(shown[:_EVIDENCE_LIMIT])
    return case


def _gate(gate: Gate) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname="gates", name=_text(gate.name), time="0.000")
    said = f"{gate.value}, limit {gate.limit}" + (f": {gate.reason}" if gate.reason else "")
    if gate.verdict is Verdict.FAIL:
        ElementTree.SubElement(case, "failure", message=_text(said))
    elif gate.verdict is Verdict.INCONCLUSIVE:
        ElementTree.SubElement(case, "error", message=_text(said), type="inconclusive")
    return case


def _text(value: str) -> str:
    """XML 1.0 has no way to write most control characters; evidence may hold any."""
    return _NOT_XML.sub("�", value)
