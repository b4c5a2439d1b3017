"""The page: complete, self-contained, and safe with whatever the run put into it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from reports.html import SIZE_LIMIT, html
from reports.model import (
    ArmSummary,
    Evidence,
    ExperimentResult,
    Gate,
    Phase,
    RunResult,
    TimelinePoint,
    Verdict,
    WireResult,
)
from reports.words import percent_of_ratio, share, tied
from tests.reports.sample import sample

_VOID = {"meta", "br", "link", "img", "input", "hr", "path", "circle", "rect"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{7*7}}{% x %}</pre></details>"


class Page(HTMLParser):
    """Parses strictly: every element that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())


@pytest.fixture(scope="module", params=[False, True], ids=["passing", "failing"])
def run(request: pytest.FixtureRequest) -> RunResult:
    return sample(failing=request.param)


def test_well_formed_and_within_its_size(run: RunResult) -> None:
    page = html(run)
    Page(page)
    assert len(page.encode()) < 120_000


def test_nothing_is_fetched_and_nothing_runs(run: RunResult) -> None:
    text = html(run)
    page = Page(text)
    assert "script" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not [a for a in page.attributes if a[1] in ("src", "srcset", "data", "action", "poster")]
    targets = [value for _, name, value in page.attributes if name == "href"]
    assert targets
    assert [t for t in targets if ":" in t or t.startswith("//")] == []
    assert not re.search(r"@import|url\(", text)
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and name == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_everything_the_run_found_is_there(run: RunResult) -> None:
    text = Page(html(run)).text
    assert run.sentence in text
    assert run.command in text
    for gate in run.gates:
        for part in (gate.name, gate.value, gate.interval, gate.limit, gate.reason):
            assert " ".join(part.split()) in text
    assert run.conformance is not None
    for check in run.conformance.checks:
        assert check.id in text
        assert check.title in text
        assert check.message in text
        for evidence in check.evidence:
            assert " ".join(evidence.text.split()) in text
    assert run.wire is not None
    for edge in run.wire.edges:
        assert edge.source in text
        assert f"{edge.covered} of {edge.flows}" in text
    for flow in run.wire.uncovered:
        assert f"{flow.destination}:{flow.destination_port}" in text
        assert flow.reason in text
    for probe in run.wire.probes:
        assert f"{probe.destination}:{probe.port}" in text
        assert probe.detail in text
    assert run.overhead is not None
    assert run.overhead.workload in text
    for arm in run.overhead.arms:
        assert f"{arm.requests:,}" in text
    for ratio in run.overhead.ratios:
        assert percent_of_ratio(ratio.ratio) in text
    for name, said in run.overhead.validity.items():
        assert name in text
        assert said in text
    for experiment in run.chaos:
        assert experiment.title in text
        assert experiment.reason in text
        for phase in experiment.phases:
            assert phase.detail in text
        for value in experiment.scorecard.values():
            assert value in text
    for value in (*run.mesh.values(), *run.environment.values(), *run.notes):
        assert value in text


def test_links_within_the_page_lead_somewhere(run: RunResult) -> None:
    page = Page(html(run))
    anchors = [value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")]
    assert anchors
    assert set(anchors) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_failures_come_first_and_open(run: RunResult) -> None:
    text = html(run)
    assert run.conformance is not None
    failed = [check for check in run.conformance.checks if check.outcome in ("failed", "error")]
    assert text.count('<details class="check" open') == len(failed)
    if failed:
        assert text.index(">filters<") < text.index(">routing<")


def test_charts_say_in_words_what_they_show(run: RunResult) -> None:
    text = html(run)
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures:
        assert 'role="img"' in picture
        assert re.search(r"<title>[^<]+</title><desc>[^<]+</desc>", picture)
        assert "nan" not in picture
        assert len(picture) < 25_000


def test_hostile_text_stays_text_wherever_it_is_put() -> None:
    result = sample(failing=True)
    assert result.conformance is not None
    assert result.wire is not None
    assert result.overhead is not None
    result.sentence = result.command = result.run_id = HOSTILE
    result.mesh = dict.fromkeys(("name", "version", HOSTILE), HOSTILE)
    result.environment = {HOSTILE: HOSTILE}
    result.timings_s = {HOSTILE: 1.0}
    result.notes = [HOSTILE]
    result.started = HOSTILE
    result.gates = [
        Gate(name=HOSTILE, verdict=Verdict.FAIL, value=HOSTILE, limit=HOSTILE, interval=HOSTILE, reason=HOSTILE)
    ]
    check = result.conformance.checks[0]
    check.id = check.title = check.area = check.feature = check.message = check.profile = HOSTILE
    check.evidence = [Evidence(title=HOSTILE, text=HOSTILE, file='"><script>x</script>')]
    flow = result.wire.uncovered[0]
    flow.source = flow.destination = flow.kind = flow.reason = flow.sni = flow.tls_version = flow.first_bytes = HOSTILE
    flow.alpn = [HOSTILE]
    result.wire.edges[0].source = result.wire.probes[0].destination = result.wire.probes[0].detail = HOSTILE
    result.wire.capture_file = HOSTILE
    result.overhead.workload = result.overhead.reason = HOSTILE
    result.overhead.arms[0].name = HOSTILE
    result.overhead.arms[0].status_mix = {HOSTILE: 1}
    result.overhead.validity = {HOSTILE: HOSTILE}
    experiment = result.chaos[0]
    experiment.title = experiment.reason = experiment.file = experiment.outcome = HOSTILE
    experiment.scorecard = {HOSTILE: HOSTILE}
    experiment.phases = [Phase(name=HOSTILE, start_s=0, end_s=500, detail=HOSTILE)]
    page = Page(html(result))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert [v for _, n, v in page.attributes if n == "href" and ("<" in v or ":" in v)] == []
    assert page.text.count("alert(1)") > 30


def test_too_much_evidence_is_shortened_and_says_so() -> None:
    result = sample(failing=True)
    assert result.conformance is not None
    for check in result.conformance.checks:
        check.evidence = [Evidence(title="log", text=f"{check.id} begins\n" + "x" * 60_000)]
    text = html(result)
    assert len(text.encode()) <= SIZE_LIMIT
    assert "more characters in results.json" in text
    for check in result.conformance.checks:
        assert f"{check.id} begins" in text


@pytest.mark.parametrize("part", ["conformance", "wire", "overhead", "chaos", "gates", "notes", "timings_s"])
def test_any_part_may_be_missing(part: str) -> None:
    result = sample()
    setattr(result, part, type(getattr(result, part))() if part in ("chaos", "gates", "notes", "timings_s") else None)
    Page(html(result))


def test_a_run_that_found_nothing_still_has_a_page() -> None:
    page = Page(html(RunResult(run_id="r", command="meshproof gate", started="2026-01-01T00:00:00+00:00")))
    assert "Inconclusive" in page.text
    assert "meshproof gate" in page.text


def test_parts_with_nothing_in_them() -> None:
    result = sample()
    assert result.overhead is not None
    assert result.conformance is not None
    result.overhead.ratios, result.overhead.arms, result.overhead.control, result.overhead.cost = [], [], None, None
    result.conformance.checks, result.conformance.convergence_ms = [], []
    result.wire = WireResult(coverage=0.0, flows=0, covered=0, unknown=0)
    result.chaos = [
        ExperimentResult(title="t", file="", outcome="not-injected", verdict=Verdict.FAIL, reason="no edge")
    ]
    assert "No connection was seen" in Page(html(result)).text


def test_an_outage_leaves_a_gap_in_the_line_not_a_zero() -> None:
    result = sample()
    timeline = [
        TimelinePoint(t_s=float(t), requests=10, errors=10 if 3 <= t < 6 else 0,
                      p50_ms=0.0 if 3 <= t < 6 else 20.0, p99_ms=0.0 if 3 <= t < 6 else 50.0)
        for t in range(10)
    ]  # fmt: skip
    result.chaos[0].timeline = timeline
    drawn = html(result)
    assert drawn.count('<path class="line p99"') == 2


def test_a_long_tail_turns_the_axis_logarithmic() -> None:
    result = sample()
    assert result.overhead is not None
    curve = [(0.0, 1.0), (0.5, 2.0), (0.9, 3.0), (0.99, 10.0), (0.999, 900.0)]
    result.overhead.arms = [
        ArmSummary(name="a", requests=1, errors=0, p50_ms=2, p90_ms=3, p99_ms=10, p999_ms=900, curve=curve)
    ]
    assert "latency, ms, logarithmic" in html(result)


def test_a_short_run_has_no_p99_to_point_at() -> None:
    result = sample()
    assert result.overhead is not None
    for arm in result.overhead.arms:
        arm.curve = [point for point in arm.curve if point[0] < 0.97]
    assert 'class="dot' not in html(result)
    assert 'class="dot' in html(sample())


def test_a_reason_of_many_lines_is_one_line_and_the_rest_behind_a_click() -> None:
    result = sample(failing=True)
    result.gates[0].reason = "the suite gave no result:\n" + "=" * 300 + "\ncollected 59 items"
    text = html(result)
    assert '<span class="why">the suite gave no result:</span>' in text
    assert "collected 59 items" in Page(text).text


def test_numbers_are_not_rounded_past_their_meaning() -> None:
    assert share(99_999, 100_000) == "99.9 %"
    assert share(100, 100) == "100 %"
    assert share(1, 100_000) == "0.1 %"
    assert share(0, 5) == "0 %"
    assert percent_of_ratio(0.9996) == "0.0 %"
    assert percent_of_ratio(0.982) == "−1.8 %"
    assert percent_of_ratio(2.5) == "+150 %"
    assert tied("takes 3 s, or 5 % of 1.2 ms") == "takes 3\u00a0s, or 5\u00a0% of 1.2\u00a0ms"
