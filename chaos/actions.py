"""Actions an experiment file may name. Each takes effect before it returns, and is undone when the experiment ends
if nothing undid it before; `chaos.faults` says what each does."""

from __future__ import annotations

from typing import Literal

from chaos import faults
from chaos.context import current, edge, workload

__all__ = [
    "add_toxic",
    "cut_edge",
    "delete_pods",
    "kill_container",
    "kill_control_plane",
    "kill_pods",
    "pause_pods",
    "reset",
    "scale_to_zero",
]

CONTROL_PLANE = "mesh-system/meshproof-control"
"""Deployment of our own control plane."""

_edge, _workload = edge, workload  # the arguments below are named as in an experiment file


def add_toxic(
    edge: str,
    kind: Literal["latency", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data"],
    latency: int | None = None,
    jitter: int | None = None,
    rate: int | None = None,
    delay: int | None = None,
    timeout: int | None = None,
    average_size: int | None = None,
    size_variation: int | None = None,
    bytes: int | None = None,
    stream: Literal["downstream", "upstream"] = "downstream",
    toxicity: float = 1.0,
) -> None:
    """Put a Toxiproxy toxic on an edge. `latency`, `jitter`, `timeout` and slow_close's `delay` in ms, slicer's `delay`
    in µs, `rate` in KB/s, sizes in bytes. `toxicity` is a share of connections, not of requests."""
    given = {
        "latency": latency,
        "jitter": jitter,
        "rate": rate,
        "delay": delay,
        "timeout": timeout,
        "average_size": average_size,
        "size_variation": size_variation,
        "bytes": bytes,
    }
    attributes = {name: value for name, value in given.items() if value is not None}
    current().inject(faults.toxic_on(_edge(edge), kind, stream=stream, toxicity=toxicity, **attributes))


def cut_edge(edge: str) -> None:
    """Refuse the edge's connections and reset those that are open."""
    current().inject(faults.cut(_edge(edge)))


def kill_pods(workload: str) -> None:
    """SIGKILL every container of every pod of the workload."""
    current().inject(faults.kill(_workload(workload)))


def kill_container(workload: str, container: str) -> None:
    """SIGKILL one container of every pod of the workload; `istio-proxy` is the sidecar."""
    current().inject(faults.kill(_workload(workload), container))


def kill_control_plane(workload: str = CONTROL_PLANE) -> None:
    """SIGKILL the mesh's control plane."""
    current().inject(faults.kill(_workload(workload)))


def delete_pods(workload: str) -> None:
    """Delete every pod of the workload, gracefully; they are replaced."""
    current().inject(faults.delete(_workload(workload)))


def pause_pods(workload: str, container: str = "") -> None:
    """Freeze the workload's pods, or one container of each."""
    current().inject(faults.pause(_workload(workload), container))


def scale_to_zero(deployment: str) -> None:
    """No replica of the Deployment."""
    current().inject(faults.ScaleToZero(_workload(deployment)))


def reset() -> None:
    """Undo every fault of this experiment."""
    current().heal()
