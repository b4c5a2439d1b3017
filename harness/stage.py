"""A world with a mesh in it: what every job of the harness stands on.

`opened` makes one and removes it, whatever happens in between; `attach` joins one that runs. A stage begins with
mutual TLS required everywhere (`STRICT`); what needs less says so in its own namespace.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import meshes
from harness.meshes.api import Mesh
from harness.substrate.api import World
from harness.substrate.local import LocalWorld
from harness.workloads import manifests
from manifests import load_text

MESHED = "bookinfo"
DIRECT = "direct"
"""Namespaces of bookinfo with the mesh, and of its twin without."""

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""

SCOPE = f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: {MESHED}}}
spec:
  egress: [{{hosts: ["./*"]}}]
"""
"""Bookinfo's proxies know bookinfo and nothing else, as a team that runs many services in one mesh would have it."""

Progress = Callable[[str], None]
"""Told what is being done, in a few words."""


def silent(_: str) -> None:
    """Progress for those who do not want it."""


@contextmanager
def opened(mesh_name: str, name: str = "", *, progress: Progress = silent) -> Iterator[tuple[World, Mesh]]:
    """A new world with the mesh `mesh_name` installed, removed on exit."""
    mesh = meshes.load(mesh_name)
    world = LocalWorld.create(name or f"run-{secrets.token_hex(3)}", attached=True)
    try:
        install(world, mesh, progress)
        yield world, mesh
    finally:
        world.down()


def install(world: World, mesh: Mesh, progress: Progress = silent) -> None:
    """The mesh into the world, and STRICT as its rule."""
    progress(f"installing mesh {mesh.name}")
    mesh.install(world)
    if mesh.name != "none":
        mesh.apply(load_text(STRICT, "<strict>"))


def attach(name: str, mesh_name: str) -> tuple[World, Mesh]:
    """The running world `name`, and its mesh."""
    world = LocalWorld.attach(name)
    mesh = meshes.load(mesh_name)
    mesh.attach(world)
    return world, mesh


def deploy_bookinfo(world: World, mesh: Mesh, *, twin: bool, progress: Progress = silent) -> None:
    """Bookinfo in the mesh (and its twin outside it when `twin`), ready, with its subsets defined."""
    progress("starting bookinfo" + (" and its twin without the mesh" if twin else ""))
    world.apply(manifests.bookinfo(MESHED, injected=True))
    if twin:
        # Only reviews v3: a measurement compares the twins with that version alone.
        world.apply(manifests.bookinfo(DIRECT, injected=False, reviews=["v3"]))
    world.wait_ready(60.0)
    if mesh.name != "none":
        mesh.apply([*manifests.bookinfo_mesh("destination-rules", MESHED), *load_text(SCOPE, "<scope>")])
        mesh.settled(20.0)
