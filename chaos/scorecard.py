"""A run's numbers in the words of its report. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chaos import steady
from chaos.experiment import Hypothesis
from loadtests.spec import Second
from reports.model import Evidence


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation of one probe."""

    t_s: float
    phase: str
    probe: str
    value: object
    ok: bool


def scorecard(
    baseline: steady.Baseline | None,
    seconds: Sequence[Second],
    injected_ns: int,
    healed_ns: int,
    hits: dict[str, int],
    notes: dict[str, str],
) -> dict[str, str]:
    """Name to value, in the order a reader asks. Only what was measured is in it."""
    card: dict[str, str] = {}
    if baseline is not None and injected_ns:
        end = healed_ns or (seconds[-1].ns if seconds else 0)
        during = [second for second in seconds if injected_ns < second.ns <= end]
        after = [second for second in seconds if second.ns > injected_ns]
        detected = steady.time_to_detect(baseline, seconds, injected_ns)
        card["time to detect"] = f"{detected:.1f} s" if detected is not None else "not visible to users"
        worst = steady.p99_ms(during)
        if worst is not None:
            card["worst p99"] = f"{worst:.0f} ms (baseline {baseline.p99_ms:.0f} ms)"
        middle = steady.p50_ms(during)
        if middle is not None:
            card["p50 under fault"] = f"{middle:.0f} ms (baseline {baseline.p50_ms:.0f} ms)"
        requests, errors = sum(s.requests for s in after), sum(s.errors for s in after)
        if requests:
            card["error ratio"] = f"{errors / requests:.2%} of {requests} requests"
            card["errors spent"] = str(errors)
    if hits:
        reached = [edge for edge, count in hits.items() if count > 0]
        shown = ", ".join(f"{edge} ({count} connections)" for edge, count in hits.items())
        card["edges hit"] = f"{len(reached)} of {len(hits)}: {shown}"
    return card | notes


def steady_state(hypothesis: Hypothesis, observations: Sequence[Observation]) -> list[Evidence]:
    """Each probe with its values by phase."""
    evidence: list[Evidence] = []
    for probe in hypothesis.probes:
        mine = [one for one in observations if one.probe == probe.name]
        lines = [f"expected {probe.expectation}"]
        for phase in dict.fromkeys(one.phase for one in mine):
            here = [one for one in mine if one.phase == phase]
            numbers = [float(one.value) for one in here if isinstance(one.value, int | float)]
            span = f"{min(numbers):.4g} to {max(numbers):.4g}" if numbers else "no value"
            held = sum(one.ok for one in here)
            lines.append(f"{phase}: {span}, held in {held} of {len(here)} evaluations")
        evidence.append(Evidence(title=f"{probe.name} ({hypothesis.title})", text="\n".join(lines)))
    return evidence
