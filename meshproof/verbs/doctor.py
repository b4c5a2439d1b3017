"""`meshproof doctor`: what this machine has and lacks."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from meshproof.exits import Exit


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> int:
    """What this machine has and lacks, where it was looked for, and the command that fixes it."""
    from harness.environment import check_local

    found = check_local()
    missing = [requirement for requirement in found if not requirement.found]
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    else:
        console = Console(highlight=False)
        for requirement in found:
            mark = Text("✓ ", "green") if requirement.found else Text("✕ ", "bold red")
            console.print(mark.append(requirement.name, "bold").append(f"  {requirement.where}", "dim"))
            if not requirement.found:
                console.print(Text(f"    looked for  {requirement.looked_for}"))
                console.print(Text(f"    to fix      {requirement.fix}"))
        verdict = "everything is there" if not missing else f"{len(missing)} of {len(found)} missing"
        console.print(Text(f"\nlocal substrate: {verdict}"))
    return int(Exit.ENVIRONMENT if missing else Exit.PASS)
