"""`meshproof gameday FILE...`: run chaos experiments, in a world that runs or in one made for them."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from meshproof.exits import Exit, exit_code
from meshproof.progress import Progress, Say

if TYPE_CHECKING:
    from chaos.experiment import Experiment
    from harness.meshes.api import Mesh
    from harness.substrate.api import World
    from reports.model import RunResult


def gameday(
    files: Annotated[list[Path], typer.Argument(help="Experiment files.", metavar="FILE...")],
    world: Annotated[
        str, typer.Option(metavar="NAME", help="The running world to break; without it, one is made with bookinfo.")
    ] = "",
    mesh: Annotated[str, typer.Option(metavar="NAME", help="The mesh under test: envoy, or none.")] = "envoy",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be hit, and hit nothing.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the run's bundle.")] = Path("out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> int:
    """Run chaos experiments: does the steady state hold under the fault, and does it come back when it is healed."""
    from chaos.experiment import load_experiment
    from chaos.lock import Engaged
    from chaos.session import Leftovers
    from harness import meshes

    if mesh not in meshes.ADAPTERS:
        raise typer.BadParameter(f"{mesh!r}; there are: {', '.join(sorted(meshes.ADAPTERS))}", param_hint="--mesh")
    experiments = [load_experiment(path) for path in files]  # every file is right before anything is touched
    progress = Progress()
    try:
        if dry_run:
            return _show_plans(experiments, world, mesh, progress, as_json=as_json)
        return _run(experiments, world, mesh, out, progress, as_json=as_json)
    except (Engaged, Leftovers) as exc:
        sys.stderr.write(f"meshproof: {exc}\n")
        return int(Exit.INCONCLUSIVE)


def _run(
    experiments: list[Experiment], world_name: str, mesh_name: str, out: Path, progress: Progress, *, as_json: bool
) -> int:
    from chaos.runner import run_experiment
    from meshproof.gate import chaos_gate, environment
    from reports.bundle import Bundle
    from reports.model import RunResult, Verdict
    from reports.render import render
    from reports.sentence import overall
    from reports.terminal import print_verdict

    run_id = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-gameday-{secrets.token_hex(2)}"
    bundle = Bundle.create(out, run_id)
    files = [experiment.file for experiment in experiments]
    command = ["meshproof", "gameday", *files, "--mesh", mesh_name]
    result = RunResult(
        run_id=run_id,
        command=shlex.join(command + (["--world", world_name] if world_name else [])),
        started=_now(),
        environment=environment(),
        sentence="The game day did not finish.",
    )
    try:
        with _stage(world_name, mesh_name, progress) as (world, mesh):
            result.mesh = mesh.metadata()
            for number, experiment in enumerate(experiments, 1):
                folder = bundle.path("chaos", f"{number:02d}-{Path(experiment.file).stem}", "journal.ndjson").parent
                with progress.phase(experiment.title) as say:
                    found = run_experiment(world, mesh, Path(experiment.file), out=folder, progress=say)
                result.chaos.append(found)
                result.gates.append(chaos_gate(found))
        result.sentence = _sentence(result)
    except BaseException as exc:
        result.notes.append(f"The game day ended early: {type(exc).__name__}: {exc}".rstrip(": "))
        raise
    finally:
        result.finished = _now()
        result.timings_s = dict(progress.timings)
        result.verdict = overall(result.gates)
        if result.notes and result.verdict is Verdict.PASS:
            result.verdict = Verdict.INCONCLUSIVE
        bundle.save(result)
        render(bundle)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    else:
        print_verdict(result, report=bundle.root / "report.html")
        for experiment_result in result.chaos:
            for name, value in experiment_result.scorecard.items():
                print(f"  {name}: {value}")
    return int(exit_code(result.verdict))


@contextlib.contextmanager
def _stage(world_name: str, mesh_name: str, progress: Progress) -> Iterator[tuple[World, Mesh]]:
    """The running world, or a new one with the mesh and bookinfo that goes when all is done."""
    from harness import stage

    if world_name:
        yield stage.attach(world_name, mesh_name)
        return
    with contextlib.ExitStack() as stack:
        with progress.phase("world and mesh") as say:
            world, mesh = stack.enter_context(stage.opened(mesh_name, progress=say))
        with progress.phase("bookinfo") as say:
            _deploy(world, mesh, say)
        yield world, mesh


def _deploy(world: World, mesh: Mesh, say: Say) -> None:
    from harness import stage

    stage.deploy_bookinfo(world, mesh, twin=False, progress=say)


def _show_plans(
    experiments: list[Experiment], world_name: str, mesh_name: str, progress: Progress, *, as_json: bool
) -> int:
    """Resolve every fault and print what it would hit."""
    from chaos.plan import plan
    from chaos.session import NotInjected
    from chaos.targets import UnknownTarget

    shown: list[dict[str, object]] = []
    with _stage(world_name, mesh_name, progress) as (world, _):
        for experiment in experiments:
            try:
                targets = plan(world, experiment)
            except (UnknownTarget, NotInjected) as exc:
                sys.stderr.write(f"meshproof: {experiment.file}: {exc}\n")
                return int(Exit.USAGE)
            settings = experiment.settings
            shown.append(
                {
                    "title": experiment.title,
                    "file": experiment.file,
                    "seconds": float(settings.baseline + experiment.observed + settings.recovery.within),
                    "faults": [msgspec.to_builtins(target) for target in targets],
                    "steady state": [f"{p.name}: {p.expectation}" for p in experiment.hypothesis.probes],
                }
            )
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n")
        return int(Exit.PASS)
    for entry, experiment in zip(shown, experiments, strict=True):
        print(f"{entry['title']} ({entry['file']}), at most {entry['seconds']:g} s")
        for target in plan_lines(experiment, entry):
            print(f"  {target}")
    return int(Exit.PASS)


def plan_lines(experiment: Experiment, entry: dict[str, object]) -> list[str]:
    """A plan as lines for people."""
    lines: list[str] = []
    faults = entry["faults"]
    assert isinstance(faults, list)
    for fault in faults:
        lines.append(f"fault: {fault['title']}")
        lines += [f"  hits {hop}" for hop in fault["hops"]]
    lines += [f"holds while {probe.name} is {probe.expectation}" for probe in experiment.hypothesis.probes]
    for abort in experiment.settings.abort:
        bound = f"below {abort.below:g}" if abort.below is not None else f"above {abort.above:g}"
        lines.append(f"stops when {abort.probe} is {bound} for {abort.for_:g} s")
    return lines


def _sentence(result: RunResult) -> str:
    """What a stranger should know first."""
    outcomes = [one.outcome for one in result.chaos]
    held = outcomes.count("held")
    if held == len(outcomes):
        what = "the experiment" if held == 1 else f"all {held} experiments"
        return f"The steady state held in {what}, and everything was as before afterwards."
    worst = next(one for one in result.chaos if one.outcome != "held")
    return f"{held} of {len(outcomes)} experiments held; {worst.title}: {worst.outcome}, {worst.reason}."


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
