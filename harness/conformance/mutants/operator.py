"""Meshes whose operation misbehaves: mutants that no xDS resource can express.

Each alters one `Lab` in place, for the length of one check. Names begin with `@`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from harness.conformance.lab import Lab
from harness.meshes.api import Mesh, Receipt
from manifests import Document, InvalidManifests

SLOW_SECONDS = 2.5


class _Wrapped:
    """A mesh of which some operations are replaced; everything else is the real one's."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mesh, name)


class _SlowApply(_Wrapped):
    def apply(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        time.sleep(SLOW_SECONDS)
        return self._mesh.apply(documents, deadline)


class _ForgetsToDelete(_Wrapped):
    def delete(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        return self._mesh.settled(deadline)


class _AcceptsEverything(_Wrapped):
    def validate(self, documents: Iterable[Document]) -> None:
        return

    def apply(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        try:
            return self._mesh.apply(documents, deadline)
        except InvalidManifests:
            return self._mesh.settled(deadline)


def _slow_apply(lab: Lab) -> None:
    lab.mesh = cast(Mesh, _SlowApply(lab.mesh))


def _forgets_to_delete(lab: Lab) -> None:
    real = lab.mesh
    lab.mesh = cast(Mesh, _ForgetsToDelete(real))
    # The suite itself must still be able to clean up after the check.
    lab.on_exit(lambda: setattr(lab, "mesh", real))


def _accepts_everything(lab: Lab) -> None:
    lab.mesh = cast(Mesh, _AcceptsEverything(lab.mesh))


def _proxies_die_with_control_plane(lab: Lab) -> None:
    down = lab.control_plane_down

    @contextmanager
    def fragile() -> Iterator[None]:
        servers = list(lab.fleet.servers().values())
        with down():
            for pod in servers:
                lab.world.pause(pod.namespace, pod.name, "istio-proxy")
            try:
                yield
            finally:
                for pod in servers:
                    lab.world.resume(pod.namespace, pod.name, "istio-proxy")

    lab.control_plane_down = fragile  # type: ignore[method-assign]


OPERATOR_MUTANTS: dict[str, Callable[[Lab], None]] = {
    "@slow-apply": _slow_apply,
    "@forgets-to-delete": _forgets_to_delete,
    "@accepts-everything": _accepts_everything,
    "@proxies-die-with-control-plane": _proxies_die_with_control_plane,
}
