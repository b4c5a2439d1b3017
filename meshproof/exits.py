"""Exit codes, the same for every verb."""

from __future__ import annotations

from enum import IntEnum

from reports.model import Verdict


class Exit(IntEnum):
    PASS = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    ENVIRONMENT = 4
    INTERRUPTED = 130


def exit_code(verdict: Verdict) -> Exit:
    """A verdict as an exit code."""
    return {Verdict.PASS: Exit.PASS, Verdict.FAIL: Exit.FAIL, Verdict.INCONCLUSIVE: Exit.INCONCLUSIVE}[verdict]
