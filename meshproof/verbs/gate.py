"""`meshproof gate`: judge a mesh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from manifests.scalars import Duration
from meshproof.exits import exit_code
from meshproof.progress import Progress
from reports.terminal import print_verdict


def gate(
    mesh: Annotated[str, typer.Option(help="The mesh to judge: envoy, or none.")] = "envoy",
    budget: Annotated[str, typer.Option(help="Time to the verdict, such as 5m; at least 4m is sensible.")] = "5m",
    profile: Annotated[str, typer.Option(help="Checks to run: core or extended.")] = "core",
    out: Annotated[Path, typer.Option(help="Folder for the run's bundle.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Seed of the load: same seed, same arrivals.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> int:
    """Judge a mesh: conformance, mutual TLS on the wire, P99 overhead, chaos. One verdict, one report."""
    from harness.conformance.checks import PROFILES
    from harness.meshes import ADAPTERS
    from meshproof.gate import Settings, run_gate

    for value, known, option in ((mesh, sorted(ADAPTERS), "--mesh"), (profile, PROFILES, "--profile")):
        if value not in known:
            raise typer.BadParameter(f"{value!r} is unknown; there are {', '.join(known)}", param_hint=option)
    try:
        seconds = Duration.parse(budget)
    except ValueError as exc:
        raise typer.BadParameter(f"{budget!r} {exc}; expected {Duration.expected}", param_hint="--budget") from None
    settings = Settings(mesh=mesh, budget=seconds, profile=profile, out=out, seed=seed)
    result, bundle = run_gate(settings, Progress())
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    else:
        print_verdict(result, report=bundle.root / "report.html")
    return int(exit_code(result.verdict))
