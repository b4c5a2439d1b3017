"""PeerAuthentication: which connections a workload's port accepts.

Precedence: port > workload > namespace > mesh; the oldest of each scope; `UNSET` inherits; nobody said: `PERMISSIVE`.
Ports are the workload's, and only a policy with a selector has them (Istio ignores them elsewhere).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from mesh.config.snapshot import Config, ConfigSnapshot
from mesh.config.types import PeerAuthentication
from mesh.model.matching import selects

Mode = Literal["DISABLE", "PERMISSIVE", "STRICT"]


class PeerModes:
    """The answer for one workload, for any of its ports."""

    def __init__(self, default: Mode, ports: Mapping[int, Mode], origins: tuple[str, ...]) -> None:
        self.default = default
        self.ports = dict(ports)
        self.origins = origins

    def of(self, port: int) -> Mode:
        return self.ports.get(port, self.default)


def peer_modes(config: ConfigSnapshot, namespace: str, labels: Mapping[str, str], root: str) -> PeerModes:
    mesh_wide: Config[PeerAuthentication] | None = None
    in_namespace: Config[PeerAuthentication] | None = None
    workload: Config[PeerAuthentication] | None = None
    for item in config.peer_authentications:
        selector = item.spec.selector.match_labels if item.spec.selector else {}
        if selector:
            if workload is None and item.namespace == namespace and selects(selector, labels):
                workload = item
        elif item.namespace == namespace and namespace != root:
            in_namespace = in_namespace or item
        elif item.namespace == root:
            mesh_wide = mesh_wide or item
    mode: Mode = "PERMISSIVE"
    origins = []
    for item_ in (mesh_wide, in_namespace, workload):
        if item_ is not None:
            origins.append(item_.ref)
            if item_.spec.mtls is not None and item_.spec.mtls.mode != "UNSET":
                mode = item_.spec.mtls.mode
    ports: dict[int, Mode] = {}
    if workload is not None:
        for port, mtls in sorted(workload.spec.port_level_mtls.items()):
            ports[port] = mode if mtls.mode == "UNSET" else mtls.mode
    return PeerModes(mode, ports, tuple(origins))


class PeerModeIndex:
    """`peer_modes` for many workloads of one snapshot, each distinct one worked out once."""

    def __init__(self, config: ConfigSnapshot, root: str) -> None:
        @lru_cache(maxsize=4096)
        def lookup(namespace: str, labels: tuple[tuple[str, str], ...]) -> PeerModes:
            return peer_modes(config, namespace, dict(labels), root)

        self._lookup = lookup

    def of(self, namespace: str, labels: Mapping[str, str]) -> PeerModes:
        return self._lookup(namespace, tuple(sorted(labels.items())))
