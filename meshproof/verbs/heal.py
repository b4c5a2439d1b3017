"""`meshproof heal`: end a game day that runs, and undo whatever one left behind."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from meshproof.exits import Exit


def heal(
    world: Annotated[
        str, typer.Option(metavar="NAME", help="The world to heal; may be left out if only one runs.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Every running world.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was undone, by world, as JSON.")] = False,
) -> int:
    """End a game day that runs, and undo whatever one left behind: toxics, redirects, paused and scaled pods."""
    from chaos.lock import Engaged
    from chaos.session import heal_world
    from chaos.undo import HealError
    from harness.substrate.api import SubstrateError
    from harness.substrate.local import LocalWorld
    from meshproof.verbs.apply import only_world

    if every:
        names = LocalWorld.list()
    elif world:
        names = [world]
    else:
        try:
            names = [only_world()]
        except LookupError as exc:
            sys.stderr.write(f"meshproof: {exc}\n")
            return int(Exit.USAGE)
    done: dict[str, list[str]] = {}
    failed = False
    for name in names:
        try:
            done[name] = heal_world(LocalWorld.attach(name))
        except (HealError, Engaged, SubstrateError) as exc:
            sys.stderr.write(f"meshproof: {name}: {exc}\n")
            failed = True
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
    else:
        for name, lines in done.items():
            for line in lines or ["nothing to undo"]:
                print(f"{name}: {line}")
        if not names:
            print("no world is running; nothing to undo")
    return int(Exit.FAIL if failed else Exit.PASS)
