"""How far a duration seen at a client may lie from the one configured, and still be it.

A mesh that drops, halves or doubles a duration of 300 ms or more misses these bounds; a busy machine does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

EARLY_MS = 25.0
"""How early a timer may fire. Event loops arm timers from the moment they last woke, so work done since then counts as
waited: Envoy 1.40 answered a 300 ms timeout after 299.4 ms on an idle machine and after 295.5 ms on a busy one."""

LATE_MS = 250.0
"""How late the median answer may be: what a busy two-core machine adds."""


def lasted(durations_ms: Sequence[float], configured_ms: float) -> bool:
    """Whether these durations, measured at the client, are the configured one: none earlier, the median not later."""
    return configured_ms - EARLY_MS <= min(durations_ms) and median(durations_ms) <= configured_ms + LATE_MS
