"""`report.html`: one file that needs no network and no script, from a `RunResult` alone.

What the page shows is arranged here, how it looks is in `templates/`. Evidence is hostile text: it is escaped by the
template engine, and a content security policy in the page forbids scripts and every kind of fetch besides. The page
stays under `SIZE_LIMIT` by shortening evidence, longest first; the whole of it is in `results.json`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import charts, words
from reports.model import (
    CheckResult,
    ConformanceResult,
    Edge,
    Flow,
    OverheadResult,
    PortProbe,
    RunResult,
    Verdict,
    WireResult,
)
from reports.sentence import GLYPH, WORD

SIZE_LIMIT = 300_000
"""Bytes; opens at once, mails as an attachment."""
_EVIDENCE_STEPS = (6000, 2000, 600, 200, 60)
_TEMPLATES = Path(__file__).with_name("templates")
_RANK = {"failed": 0, "error": 1, "skipped": 2, "passed": 3}
_OUTCOME = {
    "passed": Verdict.PASS,
    "failed": Verdict.FAIL,
    "error": Verdict.FAIL,
    "skipped": Verdict.INCONCLUSIVE,
}
_TILE = 60
_REFUSALS = ("plaintext", "no-client-certificate", "foreign-ca")


def html(result: RunResult) -> str:
    template = _environment().get_template("report.html.j2")
    context = _context(result)
    page = ""
    for limit in _EVIDENCE_STEPS:
        page = template.render(**context, excerpt=_excerpt(limit))
        if len(page.encode()) <= SIZE_LIMIT:
            break
    return page


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=words.milliseconds,
        seconds=words.seconds,
        change=words.percent_of_ratio,
        delta=words.delta,
        size=words.size,
        quantile=words.quantile_name,
        moment=words.moment,
        tied=words.tied,
        basename=lambda path: Path(path).name,
        by_length=by_length,
        printable=words.printable_hex,
    )
    environment.globals.update(glyph=GLYPH, word=WORD, plural=words.plural, share=words.share)
    return environment


def _context(result: RunResult) -> dict[str, Any]:
    return {
        "run": result,
        "style": Markup((_TEMPLATES / "report.css").read_text()),  # ours, not evidence
        "conformance": result.conformance and areas(result.conformance),
        "convergence": convergence(result.conformance) if result.conformance else "",
        "wire": result.wire and wire(result.wire),
        "overhead": result.overhead and overhead(result.overhead),
        "experiments": [(experiment, charts.timeline(experiment)) for experiment in result.chaos],
        "verdict_of": lambda check: _OUTCOME[check.outcome],
        "duration": sum(result.timings_s.values()),
        "slowest": max(result.timings_s.values(), default=0.0),
    }


def _excerpt(limit: int) -> Callable[[str], str]:
    def shorten(text: str) -> str:
        if len(text) <= limit:
            return text
        return f"{text[:limit]}\n… {len(text) - limit:,} more characters in results.json"

    return shorten


class Area(msgspec.Struct, frozen=True):
    """One area's checks, those that want attention first."""

    name: str
    checks: list[CheckResult]

    def count(self, *outcomes: str) -> int:
        return sum(check.outcome in outcomes for check in self.checks)

    @property
    def failed(self) -> int:
        return self.count("failed", "error")


def areas(conformance: ConformanceResult) -> list[Area]:
    """Areas with failures first, else in the order the checks came."""
    found = []
    for name in dict.fromkeys(check.area for check in conformance.checks):
        checks = [check for check in conformance.checks if check.area == name]
        found.append(Area(name, sorted(checks, key=lambda check: (_RANK[check.outcome], _natural(check.id)))))
    return sorted(found, key=lambda area: not area.failed)


def _natural(text: str) -> list[tuple[str, int]]:
    """R2 before R12."""
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", text)]


def convergence(conformance: ConformanceResult) -> str:
    times = sorted(conformance.convergence_ms)
    if not times:
        return ""
    middle, late = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]
    return (
        f"{words.plural(len(times), 'configuration change')}, from apply to the last proxy's ACK: median "
        f"{words.milliseconds(middle)}, P99 {words.milliseconds(late)}, longest {words.milliseconds(times[-1])}."
    )


class Cell(msgspec.Struct, frozen=True):
    """One square of the mutual-TLS matrix: the connections from a workload to another, over all ports."""

    edges: list[Edge]

    @property
    def flows(self) -> int:
        return sum(edge.flows for edge in self.edges)

    @property
    def covered(self) -> int:
        return sum(edge.covered for edge in self.edges)

    @property
    def state(self) -> str:
        if not self.edges:
            return "none"
        return "full" if self.covered == self.flows else "partial" if self.covered else "bare"


class Wire(msgspec.Struct, frozen=True):
    result: WireResult
    sources: list[str]
    destinations: list[str]
    cells: dict[tuple[str, str], Cell]
    uncovered: list[Flow]
    probes: list[tuple[str, int, dict[str, PortProbe]]]
    unlisted: int

    def cell(self, source: str, destination: str) -> Cell:
        return self.cells.get((source, destination), Cell([]))


def wire(result: WireResult) -> Wire:
    cells: dict[tuple[str, str], list[Edge]] = {}
    for edge in result.edges:
        cells.setdefault((edge.source, edge.destination), []).append(edge)
    probes: dict[tuple[str, int], dict[str, PortProbe]] = {}
    for probe in result.probes:
        probes.setdefault((probe.destination, probe.port), {})[probe.probe] = probe
    return Wire(
        result,
        sorted({edge.source for edge in result.edges}),
        sorted({edge.destination for edge in result.edges}),
        {key: Cell(edges) for key, edges in cells.items()},
        result.uncovered,
        sorted(
            ((destination, port, found) for (destination, port), found in probes.items()),
            key=lambda row: (all(_as_it_should(p) for p in row[2].values()), row[0], row[1]),
        ),
        max(0, result.flows - result.covered - len(result.uncovered)),
    )


def _as_it_should(probe: PortProbe) -> bool:
    return probe.refused == (probe.probe in _REFUSALS)


def by_length(scorecard: Mapping[str, str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What fits a tile, and what needs a line of its own."""
    short = [(name, value) for name, value in scorecard.items() if len(name) + len(value) <= _TILE]
    return short, [item for item in scorecard.items() if item not in short]


class Overhead(msgspec.Struct, frozen=True):
    result: OverheadResult
    curve: Markup
    ratios: Markup
    rss: tuple[int, int, int] | None
    """Smallest, median and largest resident size."""
    trouble: dict[str, str]


def overhead(result: OverheadResult) -> Overhead:
    rss: tuple[int, int, int] | None = None
    if result.cost and result.cost.rss_bytes:
        sizes: Sequence[int] = sorted(result.cost.rss_bytes.values())
        rss = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    return Overhead(
        result,
        charts.percentile_curve(result.arms),
        charts.ratio_plot(result),
        rss,
        {name: said for name, said in result.validity.items() if said != "ok"},
    )
