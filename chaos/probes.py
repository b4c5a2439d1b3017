"""Probes an experiment file may name: what the steady state is measured by. None means that there was nothing to
measure, which no tolerance accepts."""

from __future__ import annotations

from chaos import steady
from chaos.context import current, workload

__all__ = ["p50_ms", "p99_ms", "pods_ready", "requests_per_second", "success_ratio"]

_workload = workload


def success_ratio(window: float = 3.0) -> float | None:
    """Share of the requests completed in the last `window` seconds that succeeded; 0 when none completed though
    some were due."""
    return steady.success_ratio(current().traffic(window))


def p50_ms(window: float = 3.0) -> float | None:
    """Median latency of the last `window` seconds, from each request's intended start."""
    return steady.p50_ms(current().traffic(window))


def p99_ms(window: float = 3.0) -> float | None:
    """99th percentile of latency in the worst of the last `window` seconds."""
    return steady.p99_ms(current().traffic(window))


def requests_per_second(window: float = 3.0) -> float | None:
    """Requests completed per second."""
    return steady.rate(current().traffic(window))


def pods_ready(workload: str) -> bool:
    """Whether the workload has pods, all ready."""
    pods = current().pods(_workload(workload))
    return bool(pods) and all(pod.ready for pod in pods)
