"""The report's charts: SVG written by hand, a few kilobytes each, coloured by the page's own style sheet.

Every chart is a picture of numbers that stand in a table beside it, and says in its `<title>` and `<desc>` what it
shows. Lines differ in their dash as well as in colour. All text from the run goes through `escape`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import msgspec
from markupsafe import Markup, escape

from reports.model import ArmSummary, ExperimentResult, OverheadResult, Phase, RatioEstimate
from reports.words import delta, milliseconds, percent_of_ratio, quantile_name

Scale = Callable[[float], float]


class Frame(msgspec.Struct, frozen=True):
    """The plotting area within a chart, in its own units."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


def percentile_curve(arms: Sequence[ArmSummary]) -> Markup:
    """Latency over quantile for every arm; the quantile axis counts nines, so that the tail is not a wall."""
    drawn = [arm for arm in arms if len(arm.curve) > 1]
    if not drawn:
        return Markup()
    frame = Frame(58, 24, 800, 290)
    deepest = min(5.0, max(_nines(q) for arm in drawn for q, _ in arm.curve))
    x = _linear((0, deepest), (frame.left, frame.right))
    values = [value for arm in drawn for q, value in arm.curve if _nines(q) <= deepest]
    y, ticks, kind = _latency_axis(values, frame)
    parts = [_grid(frame, y, ticks)]
    for q in (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999):
        if _nines(q) <= deepest + 1e-9:
            at = x(_nines(q))
            strong = " strong" if q == 0.99 else ""
            parts.append(f'<path class="grid{strong}" d="M{at:.1f} {frame.top}V{frame.bottom}"/>')
            parts.append(_text(at, frame.bottom + 18, quantile_name(q), "middle", "tick" + strong))
    ends: list[tuple[float, str, int]] = []
    for index, arm in enumerate(drawn):
        points = [(x(_nines(q)), y(value)) for q, value in arm.curve if _nines(q) <= deepest]
        parts.append(f'<path class="line arm{index % 4}" d="{_path(points)}"/>')
        ends.append((points[-1][1], arm.name, index))
    for (at, name, index), placed in zip(sorted(ends), _spread([end[0] for end in sorted(ends)], 16), strict=True):
        parts.append(f'<path class="leader" d="M{frame.right + 1:.1f} {at:.1f}L{frame.right + 8:.1f} {placed:.1f}"/>')
        parts.append(_text(frame.right + 12, placed + 4, name, "start", f"label arm{index % 4}"))
    if deepest >= _nines(0.99):
        parts.append(_p99_gap(drawn, x, y))
    parts.append(_text(frame.left, frame.top - 10, f"latency, ms{kind}", "start", "tick"))
    parts.append(_text(frame.right, frame.bottom + 36, "share of requests that were at least this fast", "end", "tick"))
    said = "; ".join(f"{a.name}: P50 {milliseconds(a.p50_ms)}, P99 {milliseconds(a.p99_ms)}" for a in drawn)
    return _svg(960, frame.bottom + 46, "Latency by percentile", said, parts)


def ratio_plot(overhead: OverheadResult) -> Markup:
    """Every ratio with its interval against no change and the limit; the windows it was made from as a faint row."""
    rows: list[tuple[str, RatioEstimate]] = [(quantile_name(r.quantile), r) for r in overhead.ratios]
    if overhead.control is not None:
        rows.append(("A/A", overhead.control))
    if not rows:
        return Markup()
    step = 38.0
    frame = Frame(58, 28, 680, step * len(rows))
    limit = overhead.limit_ratio
    reach = [v for _, r in rows for v in (r.interval.low, r.interval.high)] + [1.0, limit]
    low, high = min(reach), max(reach)
    pad = 0.12 * (high - low or 0.01)
    x = _linear((low - pad, high + pad), (frame.left, frame.right))
    parts = []
    for tick in _ticks((low - pad) * 100 - 100, (high + pad) * 100 - 100, 6):
        at = x(1 + tick / 100)
        parts.append(f'<path class="grid" d="M{at:.1f} {frame.top}V{frame.bottom}"/>')
        parts.append(_text(at, frame.bottom + 18, f"{tick:+g} %".replace("-", "−") if tick else "0", "middle", "tick"))
    parts.append(f'<path class="axis" d="M{x(1):.1f} {frame.top - 6}V{frame.bottom}"/>')
    parts.append(f'<path class="limit" d="M{x(limit):.1f} {frame.top - 6}V{frame.bottom}"/>')
    parts.append(_text(x(limit), frame.top - 10, f"limit {percent_of_ratio(limit)}", "middle", "limit-label"))
    for index, (name, row) in enumerate(rows):
        middle = frame.top + step * (index + 0.5)
        strong = "strong" if row.quantile == 0.99 and name != "A/A" else ""
        parts.append(_text(frame.left - 10, middle + 4, name, "end", f"label {strong}"))
        for window in row.windows:
            if low - pad <= window <= high + pad:
                at = x(window)
                parts.append(f'<path class="window" d="M{at:.1f} {middle + 8:.1f}v6"/>')
        tone = "control" if name == "A/A" else "estimate"
        parts.append(
            f'<path class="{tone} {strong}" d="M{x(row.interval.low):.1f} {middle}H{x(row.interval.high):.1f}"/>'
        )
        parts.append(f'<circle class="{tone}-dot" cx="{x(row.ratio):.1f}" cy="{middle}" r="4.5"/>')
        interval = f"{percent_of_ratio(row.interval.low)}, {percent_of_ratio(row.interval.high)}"
        shown = f"{percent_of_ratio(row.ratio)}  [{interval}]"
        parts.append(_text(frame.right + 14, middle + 4, shown, "start", f"label {strong}"))
    said = "; ".join(f"{name} {percent_of_ratio(row.ratio)}" for name, row in rows)
    return _svg(960, frame.bottom + 30, "Change by percentile, with its interval", said, parts)


def timeline(experiment: ExperimentResult) -> Markup:
    """Requests with errors above latency, over the same seconds, with the experiment's phases behind both."""
    points = sorted(experiment.timeline, key=lambda point: point.t_s)
    if len(points) < 2:
        return Markup()
    step = min(b.t_s - a.t_s for a, b in itertools.pairwise(points)) or 1.0
    begin, end = points[0].t_s, points[-1].t_s + step
    begin = min([begin, *(phase.start_s for phase in experiment.phases)])
    end = max([end, *(phase.end_s for phase in experiment.phases)])
    top, bottom = Frame(58, 48, 880, 92), Frame(58, 172, 880, 140)
    x = _linear((begin, end), (top.left, top.right))
    parts = [_phases(experiment.phases, x, top.top - 32, bottom.bottom)]
    most = max(point.requests for point in points) or 1
    y, ticks = _zero_axis(most, top, 3)
    parts += [_grid(top, y, ticks), _text(top.left + 8, top.top - 6, "requests", "start", "tick")]
    width = max(0.8, (x(begin + step) - x(begin)) * 0.8)
    for point in points:
        at = x(point.t_s)
        good = max(0, point.requests - point.errors)
        parts.append(_bar("requests", at, y(good), width, top.bottom - y(good)))
        if point.errors:
            parts.append(_bar("errors", at, y(point.requests), width, max(1.5, y(good) - y(point.requests))))
    values = [v for point in points for v in (point.p50_ms, point.p99_ms) if v > 0]
    y, ticks, kind = _latency_axis(values, bottom)
    parts += [_grid(bottom, y, ticks), _text(bottom.left + 8, bottom.top - 8, f"latency, ms{kind}", "start", "tick")]
    for name, curve in (("p50", [(p.t_s, p.p50_ms) for p in points]), ("p99", [(p.t_s, p.p99_ms) for p in points])):
        for stretch in _stretches(curve):
            line = [(x(t + step / 2), y(value)) for t, value in stretch]
            parts.append(f'<path class="line {name}" d="{_path(line)}"/>')
    for tick in _ticks(begin, end, 8):
        parts.append(_text(x(tick), bottom.bottom + 18, f"{tick:g} s", "middle", "tick"))
    errors = sum(point.errors for point in points)
    worst = max(point.p99_ms for point in points)
    said = f"{sum(p.requests for p in points)} requests, {errors} errors, worst P99 {milliseconds(worst)}"
    return _svg(960, bottom.bottom + 28, f"Timeline of {experiment.title}", said, parts)


def _p99_gap(arms: Sequence[ArmSummary], x: Scale, y: Scale) -> str:
    """The distance between the first two arms at P99, written where it is."""
    if len(arms) != 2 or not all(arm.p99_ms for arm in arms):
        return ""
    first, second = arms
    at = x(_nines(0.99))
    dots = "".join(
        f'<circle class="dot arm{i}" cx="{at:.1f}" cy="{y(arm.p99_ms):.1f}" r="4"/>' for i, arm in enumerate(arms)
    )
    gap = delta(second.p99_ms - first.p99_ms)
    label = f"P99 {milliseconds(first.p99_ms)} → {milliseconds(second.p99_ms)} ({gap})"
    return dots + _text(at - 10, min(y(first.p99_ms), y(second.p99_ms)) - 10, label, "end", "label strong")


def _phases(phases: Iterable[Phase], x: Scale, top: float, bottom: float) -> str:
    parts = []
    room = 0.0
    for phase in phases:
        left, right = x(phase.start_s), x(phase.end_s)
        tone = "fault" if phase.name in ("inject", "observe") else "calm"
        detail = f": {phase.detail}" if phase.detail else ""
        title = escape(f"{phase.name}, {phase.start_s:.1f} s to {phase.end_s:.1f} s{detail}")
        parts.append(
            f'<rect class="phase {tone}" x="{left:.1f}" y="{top}" width="{max(1.0, right - left):.1f}" '
            f'height="{bottom - top:.1f}"><title>{title}</title></rect>'
        )
        if left >= room and right - left > 7 * len(phase.name):
            parts.append(_text((left + right) / 2, top + 13, phase.name, "middle", f"label {tone}"))
            room = right
    return "".join(parts)


def _stretches(curve: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Runs of points that have a value: a second without an answer has no latency, and no line."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in curve:
        if point[1] > 0:
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _latency_axis(values: Sequence[float], frame: Frame) -> tuple[Scale, list[float], str]:
    """Linear from zero, or logarithmic when the largest value would flatten everything else."""
    largest, smallest = max(values, default=1.0) or 1.0, min((v for v in values if v > 0), default=1.0)
    middle = sorted(values)[len(values) // 2] if values else 1.0
    if largest <= 12 * max(middle, 1e-9):
        return (*_zero_axis(largest, frame, 5), "")
    low, high = math.log10(smallest), math.log10(largest * 1.05)
    scale = _linear((low, high), (frame.bottom, frame.top))
    ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    shown = [tick for tick in ticks if smallest <= tick <= largest * 1.05]
    return lambda v: scale(math.log10(max(v, smallest))), shown, ", logarithmic"


def _zero_axis(largest: float, frame: Frame, count: int) -> tuple[Scale, list[float]]:
    ticks = _ticks(0, largest * 1.05, count)
    return _linear((0, max(largest * 1.05, ticks[-1])), (frame.bottom, frame.top)), ticks


def _nines(quantile: float) -> float:
    """0.9 is one nine, 0.99 two."""
    return -math.log10(max(1 - quantile, 1e-9))


def _linear(domain: tuple[float, float], target: tuple[float, float]) -> Scale:
    span = domain[1] - domain[0] or 1.0
    return lambda value: target[0] + (value - domain[0]) / span * (target[1] - target[0])


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within the range, about `count` of them."""
    raw = max(high - low, 1e-9) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """The same positions, pushed apart downwards until labels do not touch."""
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + gap) if placed else position)
    return placed


def _grid(frame: Frame, y: Scale, ticks: Iterable[float]) -> str:
    return "".join(
        f'<path class="{"axis" if tick == 0 else "grid"}" d="M{frame.left} {y(tick):.1f}H{frame.right}"/>'
        + _text(frame.left - 8, y(tick) + 4, f"{tick:g}", "end", "tick")
        for tick in ticks
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(0.0, height):.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind.strip()}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, description: str, parts: Iterable[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )
