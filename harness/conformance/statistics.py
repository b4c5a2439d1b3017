"""Exact tests for checks that count. One fixed n, one test, no best-of-n.

A check states its n, the share it expects and, in its docstring, the alternative it can tell apart and with what
power; `binomial_power` computes that, and the project's tests hold the docstrings to it.
"""

from __future__ import annotations

import math

ALPHA = 1e-6
"""Chance that a correct mesh fails one statistical check: a suite of 50 run nightly errs once in about 50 years."""


def binomial_bounds(n: int, p: float, alpha: float = ALPHA) -> tuple[int, int]:
    """The smallest and largest count that a share `p` of `n` trials is believed at two-sided level `alpha`.

    Exact: each tail left out has probability at most alpha / 2.
    """
    if not 0.0 <= p <= 1.0 or n < 0:
        raise ValueError(f"binomial_bounds(n={n}, p={p}): expected n >= 0 and 0 <= p <= 1")
    masses = _masses(n, p)
    low, tail = 0, 0.0
    while tail + masses[low] <= alpha / 2:
        tail += masses[low]
        low += 1
    high, tail = n, 0.0
    while tail + masses[high] <= alpha / 2:
        tail += masses[high]
        high -= 1
    return low, high


def binomial_power(n: int, p: float, truth: float, alpha: float = ALPHA) -> float:
    """Chance that `binomial_bounds(n, p)` rejects when the true share is `truth`."""
    low, high = binomial_bounds(n, p, alpha)
    masses = _masses(n, truth)
    return 1.0 - math.fsum(masses[low : high + 1])


def _masses(n: int, p: float) -> list[float]:
    if p in (0.0, 1.0):
        return [1.0 if k == n * p else 0.0 for k in range(n + 1)]
    log_p, log_q = math.log(p), math.log1p(-p)
    return [
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)
        for k in range(n + 1)
    ]
