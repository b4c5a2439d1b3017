"""Seconds of traffic to judgements about it. Pure.

A second is what completed within it. Latency counts from the intended start, so requests that wait in the generator
because the system is slow are slow.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from loadtests.spec import Second

NEAR = 1.5
"""Latency is near its baseline again at this multiple of the baseline's usual p99 ..."""
SLACK_MS = 50.0
"""... plus this: with tens of requests in a second, its p99 is its slowest request, and one slow one is no fault."""
QUIET_SECONDS = 2
"""Seconds in a row that must be near the baseline before it counts as reached."""


def success_ratio(seconds: Sequence[Second]) -> float | None:
    """Share of completed requests that succeeded. 0 when nothing completed though something was due; None when there
    was no traffic at all."""
    requests = sum(second.requests for second in seconds)
    if requests:
        return (requests - sum(second.errors for second in seconds)) / requests
    return 0.0 if any(second.pending for second in seconds) else None


def p99_ms(seconds: Sequence[Second]) -> float | None:
    """Of the worst second."""
    return max((second.p99_ms for second in seconds if second.requests), default=None)


def usual_p99_ms(seconds: Sequence[Second]) -> float | None:
    """Median of the seconds' p99."""
    p99s = sorted(second.p99_ms for second in seconds if second.requests)
    return p99s[len(p99s) // 2] if p99s else None


def p50_ms(seconds: Sequence[Second]) -> float | None:
    """Mean of the seconds' medians, weighted by requests."""
    requests = sum(second.requests for second in seconds)
    return sum(second.p50_ms * second.requests for second in seconds) / requests if requests else None


def rate(seconds: Sequence[Second]) -> float | None:
    """Completed per second."""
    return sum(second.requests for second in seconds) / len(seconds) if seconds else None


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What the undisturbed system did."""

    p50_ms: float
    p99_ms: float
    """Median of the seconds' p99: one bad second of the machine must not hide a fault."""

    @classmethod
    def of(cls, seconds: Sequence[Second]) -> Baseline:
        return cls(p50_ms=p50_ms(seconds) or 0.0, p99_ms=usual_p99_ms(seconds) or 0.0)

    @property
    def near_ms(self) -> float:
        """Up to here latency counts as the baseline's."""
        return self.p99_ms * NEAR + SLACK_MS

    def disturbed(self, second: Second) -> bool:
        """Whether a second is not like the baseline: slow, failing, or silent."""
        return second.errors > 0 or second.p99_ms > self.near_ms or (second.requests == 0 and second.pending > 0)


def time_to_detect(baseline: Baseline, seconds: Sequence[Second], since_ns: int) -> float | None:
    """Seconds from `since_ns` to the end of the first disturbed second after it; None when there was none."""
    return next(((s.ns - since_ns) / 1e9 for s in seconds if s.ns > since_ns and baseline.disturbed(s)), None)


def time_to_recover(baseline: Baseline, seconds: Sequence[Second], since_ns: int) -> float | None:
    """Seconds from `since_ns` until the baseline is back: the end of the last disturbed second, once `QUIET_SECONDS`
    have followed undisturbed. 0 when nothing was disturbed any more; None when it is not back yet."""
    after = [second for second in seconds if second.ns > since_ns]
    quiet = 0
    last = 0.0
    for second in after:
        if baseline.disturbed(second):
            quiet, last = 0, (second.ns - since_ns) / 1e9
        else:
            quiet += 1
            if quiet >= QUIET_SECONDS:
                return last
    return None
