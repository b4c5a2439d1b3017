"""`meshproof up`: a world that stays when the command ends.

While it is being made the world is attached to this process, so that an interrupted `up` leaves nothing, however it is
interrupted; it is set free as the last step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from manifests import Document, load_paths
from meshproof.exits import Exit
from meshproof.progress import Progress, Say

if TYPE_CHECKING:
    from harness.substrate.api import World

DEFAULT_WORLD = "default"


def up(
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="Manifests to run instead of bookinfo; may be repeated.")
    ] = None,
    world: Annotated[str, typer.Option(metavar="NAME", help="Name of the new world.")] = DEFAULT_WORLD,
    mesh: Annotated[str, typer.Option(metavar="NAME", help="The mesh to install: envoy, or none.")] = "envoy",
    deadline: Annotated[float, typer.Option(help="Seconds until every pod must be ready.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what runs as JSON.")] = False,
) -> int:
    """Start a world, with bookinfo or your own manifests, and leave it running."""
    from harness import meshes
    from harness.substrate.local import LocalWorld
    from meshproof.verbs.status import overview, print_overview

    if mesh not in meshes.ADAPTERS:
        raise typer.BadParameter(f"{mesh!r}; there are: {', '.join(sorted(meshes.ADAPTERS))}", param_hint="--mesh")
    missing = [str(path) for path in files or () if not path.exists()]
    if missing:
        raise typer.BadParameter(f"no such file: {', '.join(missing)}", param_hint="--file")
    documents = load_paths(files) if files else None
    progress = Progress()
    with progress.phase(f"world {world}"):
        made = LocalWorld.create(world, attached=True)
    try:
        with progress.phase("bring up") as say:
            bring_up(made, mesh, documents, deadline=deadline, say=say)
        made.detach()
    except BaseException:
        made.down()
        raise
    seen = overview(made)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(seen), indent=2) + b"\n")
    else:
        print_overview(seen)
        print(f"\nnext: meshproof status --world {world}; meshproof apply FILE; meshproof down --world {world}")
    return int(Exit.PASS)


def bring_up(
    world: World, mesh_name: str, documents: list[Document] | None, *, deadline: float, say: Say = lambda _: None
) -> None:
    """The mesh into `world`, and then `documents`: Kubernetes kinds and the mesh's own. None means bookinfo."""
    from harness import meshes, stage
    from meshproof.verbs.apply import split

    core, rest = split(documents or [])
    mesh = meshes.load(mesh_name)
    stage.install(world, mesh, say)
    if documents is None:
        stage.deploy_bookinfo(world, mesh, twin=False, progress=say)
        return
    if core:
        say(f"applying {len(core)} objects")
        world.apply(core)
    world.wait_ready(deadline)
    if rest:
        say(f"applying {len(rest)} objects to the mesh")
        mesh.apply(rest)
