"""The verdict for a terminal: one sentence, the gates, and where the evidence lies. `NO_COLOR` is respected."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.model import RunResult, Verdict
from reports.sentence import GLYPH, WORD

_STYLE = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "yellow"}


def print_verdict(result: RunResult, console: Console | None = None, *, report: Path | None = None) -> None:
    """Text from the run is printed as text: brackets in it are not markup. Of a reason the first line is shown."""
    console = console or Console(highlight=False)
    console.print()
    head = Text.assemble((f"{GLYPH[result.verdict]} {WORD[result.verdict].upper()}", _STYLE[result.verdict]))
    console.print(head.append("  ").append(result.sentence))
    if result.gates:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for column in ("", "gate", "value", "interval", "limit"):
            table.add_column(column, overflow="fold")
        for gate in result.gates:
            table.add_row(
                Text(GLYPH[gate.verdict], _STYLE[gate.verdict]),
                Text(gate.name),
                Text(gate.value),
                Text(gate.interval),
                Text(gate.limit),
            )
        console.print()
        console.print(table)
        for gate in result.gates:
            if gate.reason:
                console.print(
                    Text.assemble("\n", (f"{gate.name}: ", _STYLE[gate.verdict]), gate.reason.partition("\n")[0])
                )
    console.print()
    if report is not None:
        console.print(Text(f"report     {report}"), soft_wrap=True)
    console.print(Text(f"reproduce  {result.command}"), soft_wrap=True)
