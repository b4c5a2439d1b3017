"""`meshproof down`: stop and remove a world, or what is left of one."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from meshproof.exits import Exit
from meshproof.verbs.up import DEFAULT_WORLD


def down(
    world: Annotated[str, typer.Option(metavar="NAME", help="The world to take down.")] = DEFAULT_WORLD,
    every: Annotated[bool, typer.Option("--all", help="Every world, and whatever crashed runs left behind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the names of what was taken down as JSON.")] = False,
) -> int:
    """Stop and remove a world. Nothing to take down is no error."""
    from harness.substrate.local import LocalWorld

    gone = LocalWorld.down_all() if every else LocalWorld.remove(world)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(gone) + b"\n")
    elif gone:
        print(f"taken down: {', '.join(gone)}")
    else:
        print("nothing to take down" if every else f"no world {world}; nothing to take down")
    return int(Exit.PASS)
