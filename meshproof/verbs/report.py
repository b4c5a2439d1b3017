"""`meshproof report`: render a run's report again, from its bundle alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from reports.bundle import RESULTS, Bundle
from reports.render import HTML, render
from reports.terminal import print_verdict


def report(
    bundle: Annotated[
        Path | None, typer.Argument(help="A run's folder; the latest one in --out when left out.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("out"),
    json: Annotated[bool, typer.Option("--json", help="Print results.json instead of the verdict.")] = False,
) -> None:
    """Render a run's report again and print its verdict. Exits 0 when it was rendered, whatever the verdict."""
    chosen = Bundle(bundle if bundle is not None else _latest(out))
    if not (chosen.root / RESULTS).is_file():
        raise typer.BadParameter(f"{chosen.root} holds no {RESULTS}; give the folder of a run, such as out/<run-id>")
    try:
        result = chosen.load()
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"{chosen.root / RESULTS} is not a run's result: {error}") from error
    render(chosen)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    else:
        print_verdict(result, report=chosen.root / HTML)


def _latest(out: Path) -> Path:
    runs = sorted(out.glob(f"*/{RESULTS}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise typer.BadParameter(f"no run in {out.absolute()} (looked for */{RESULTS}); `meshproof gate` makes one")
    return runs[-1].parent
