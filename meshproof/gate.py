"""The gate: from nothing running to a verdict, in one run with one bundle.

Parts, in order: the stage (world, mesh, bookinfo with and without the mesh, the echo fleet), the wire under real page
traffic, conformance, overhead, chaos. The wire comes first, because only a connection whose handshake was seen can be
vouched for, and because nothing has been changed yet. A part that cannot be judged makes the run inconclusive; it never
disappears from the verdict.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import secrets
import shlex
from contextlib import ExitStack
from pathlib import Path

import msgspec

from chaos import shipped as shipped_experiments
from chaos.runner import run_experiment
from harness import stage
from harness.conformance import fleet
from harness.conformance.run import SuiteError
from harness.conformance.run import run as run_suite
from harness.meshes.api import Mesh
from harness.overhead.driver import LoadError, start_load
from harness.overhead.measure import find_target, measure
from harness.substrate.api import World
from harness.wire import WireTap
from harness.wire import gates as wire_gates
from harness.wire.probe import probe_workloads
from loadtests.spec import Arm, LoadSpec
from meshproof import __version__
from meshproof.progress import Progress, Say
from reports.bundle import Bundle
from reports.model import (
    ConformanceResult,
    ExperimentResult,
    Gate,
    OverheadResult,
    RatioEstimate,
    RunResult,
    Verdict,
)
from reports.render import render
from reports.sentence import overall, sentence

WIRE_SECONDS = 5.0
WIRE_RATE = 30.0
"""Pages per second while the wire is watched: every edge is used hundreds of times."""
CHAOS_SECONDS = 45.0
"""Kept of the budget for the game day."""
FINISH_SECONDS = 12.0
"""Kept of the budget for taking the world down and rendering."""
MIN_OVERHEAD_SECONDS = 30.0
WORKLOAD = (
    "bookinfo's product page through four services (reviews v3), each with a log-normal service time of its declared "
    "profile; strict mutual TLS, metrics and access logs on"
)
PAGE = "http://productpage.{namespace}:9080/productpage"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    mesh: str = "envoy"
    budget: float = 300.0
    """Seconds from nothing running to the verdict; what the fixed parts leave is spent on measuring overhead."""
    profile: str = "core"
    out: Path = Path("out")
    seed: int = 1
    limit: float = 1.05
    """P99 ratio, meshed to direct, from which on the mesh costs too much."""


def run_gate(settings: Settings, progress: Progress) -> tuple[RunResult, Bundle]:
    """Judge; the bundle is complete, rendered, and the world gone when this returns.

    When interrupted, what was found so far is kept in the bundle and `KeyboardInterrupt` goes on.
    """
    run_id = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{settings.mesh}-{secrets.token_hex(2)}"
    bundle = Bundle.create(settings.out, run_id)
    result = RunResult(
        run_id=run_id,
        command=_command(settings),
        started=_now(),
        environment=environment(),
        sentence="The run did not finish.",
    )
    try:
        _judge(settings, result, bundle, progress)
    except BaseException as exc:
        result.notes.append(f"The run ended early: {type(exc).__name__}: {exc}".rstrip(": "))
        raise
    finally:
        result.finished = _now()
        result.timings_s = dict(progress.timings)
        result.verdict = overall(result.gates)
        if result.gates and not result.notes:
            result.sentence = sentence(result.mesh, result.gates)
        elif result.notes:
            result.verdict = Verdict.FAIL if result.verdict is Verdict.FAIL else Verdict.INCONCLUSIVE
        bundle.save(result)
        render(bundle)
    return result, bundle


def _judge(settings: Settings, result: RunResult, bundle: Bundle, progress: Progress) -> None:
    with ExitStack() as cleanup:
        with progress.phase("world and mesh") as say:
            world, mesh = cleanup.enter_context(stage.opened(settings.mesh, progress=say))
        result.mesh = mesh.metadata()
        with progress.phase("workloads") as say:
            tap = cleanup.enter_context(WireTap(world, mesh, namespaces=[stage.MESHED]))
            stage.deploy_bookinfo(world, mesh, twin=True, progress=say)
            say("echo fleet")
            fleet.deploy(world)
            mesh.settled(20.0)
        with progress.phase("wire") as say:
            _wire(world, mesh, tap, result, bundle, settings.seed, say)
        with progress.phase("conformance") as say:
            _conformance(world, settings, result, bundle, say)
        with progress.phase("overhead") as say:
            seconds = settings.budget - progress.elapsed - CHAOS_SECONDS - FINISH_SECONDS
            _overhead(world, settings, max(seconds, MIN_OVERHEAD_SECONDS), result, bundle, say)
        with progress.phase("chaos") as say:
            _chaos(world, mesh, result, bundle, say)
        progress.note("taking the world down")


def _wire(world: World, mesh: Mesh, tap: WireTap, result: RunResult, bundle: Bundle, seed: int, say: Say) -> None:
    spec = LoadSpec(
        arms=[page_arm(world, stage.MESHED)],
        rate=WIRE_RATE,
        windows=1,
        window_seconds=WIRE_SECONDS,
        warmup_seconds=0.5,
        seed=seed,
        out=bundle.path("wire", "load"),
    )
    say("pages under a packet capture")
    with start_load(world, spec) as load:
        load.wait()
    wire = tap.stop(bundle)
    say("calling every port without a right to")
    wire.probes = probe_workloads(world, mesh, [stage.MESHED], skip=["client"])
    result.wire = wire
    result.gates += wire_gates(wire)


def page_arm(world: World, namespace: str, name: str = "") -> Arm:
    """Pages of bookinfo in `namespace`, asked for from its client pod."""
    client = world.pods(namespace, {"app": "client"})[0]
    return Arm(name=name or namespace, url=PAGE.format(namespace=namespace), netns=client.netns)


def _conformance(world: World, settings: Settings, result: RunResult, bundle: Bundle, say: Say) -> None:
    folder = bundle.path("conformance", "suite.log").parent
    try:
        conformance = run_suite(world.name, settings.mesh, folder, profile=settings.profile, progress=say)
    except SuiteError as exc:
        result.gates.append(_unjudged("Conformance", str(exc)))
        return
    result.conformance = conformance
    result.gates.append(conformance_gate(conformance))


def conformance_gate(conformance: ConformanceResult) -> Gate:
    """Every check passed; one that erred could not be judged, unless another failed."""
    ids = {outcome: sorted({c.id for c in conformance.checks if c.outcome == outcome}) for outcome in _OUTCOMES}
    total = len({check.id for check in conformance.checks})
    broken = set(ids["failed"]) | set(ids["error"])
    passed = len(set(ids["passed"]) - broken)
    verdict, reason = Verdict.PASS, ""
    if ids["failed"]:
        verdict, reason = Verdict.FAIL, f"failed: {', '.join(ids['failed'])}"
    elif ids["error"] or not total:
        verdict = Verdict.INCONCLUSIVE
        reason = f"could not be judged: {', '.join(ids['error'])}" if ids["error"] else "no check ran"
    return Gate(name="Conformance", verdict=verdict, value=f"{passed} of {total} checks", limit="all", reason=reason)


_OUTCOMES = ("passed", "failed", "skipped", "error")


def _overhead(world: World, settings: Settings, seconds: float, result: RunResult, bundle: Bundle, say: Say) -> None:
    try:
        overhead = measure(
            world,
            direct=find_target(world, stage.DIRECT),
            meshed=find_target(world, stage.MESHED),
            budget_seconds=seconds,
            limit=settings.limit,
            seed=settings.seed,
            out=bundle.path("overhead", "load"),
            progress=say,
            workload=WORKLOAD,
        )
    except LoadError as exc:
        result.gates.append(_unjudged("P99 increase", str(exc), limit=f"< {_percent(settings.limit)}"))
        return
    result.overhead = overhead
    result.gates.append(overhead_gate(overhead))


def overhead_gate(overhead: OverheadResult) -> Gate:
    p99: RatioEstimate | None = next((r for r in overhead.ratios if r.quantile == 0.99), None)
    value = f"{_percent(p99.ratio)} ({p99.delta_ms:+.2f} ms)" if p99 else "not measured"
    interval = f"{_percent(p99.interval.low)} to {_percent(p99.interval.high)}" if p99 else ""
    return Gate(
        name="P99 increase",
        verdict=overhead.verdict,
        value=value,
        limit=f"< {_percent(overhead.limit_ratio)}",
        interval=interval,
        reason="" if overhead.verdict is Verdict.PASS else overhead.reason,
    )


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def _chaos(world: World, mesh: Mesh, result: RunResult, bundle: Bundle, say: Say) -> None:
    for path in shipped_experiments():
        out = bundle.path("chaos", path.stem, "journal.ndjson").parent
        experiment = run_experiment(world, mesh, path, out=out, progress=say)
        result.chaos.append(experiment)
        result.gates.append(chaos_gate(experiment))


def chaos_gate(experiment: ExperimentResult) -> Gate:
    recovery = experiment.scorecard.get("time to recover", "")
    return Gate(
        name=f"Chaos: {experiment.title}",
        verdict=experiment.verdict,
        value=experiment.outcome + (f", recovered in {recovery}" if recovery else ""),
        limit="held",
        reason="" if experiment.verdict is Verdict.PASS else experiment.reason,
    )


def _unjudged(name: str, reason: str, limit: str = "all") -> Gate:
    return Gate(name=name, verdict=Verdict.INCONCLUSIVE, value="not judged", limit=limit, reason=reason)


def environment() -> dict[str, str]:
    """The machine and versions a result was found on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "meshproof": __version__,
        "substrate": "local (network namespaces)",
        "kernel": platform.release(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.1f} GiB",
        "python": platform.python_version(),
        "load before": " ".join(f"{x:.2f}" for x in os.getloadavg()),
    }


def _command(settings: Settings) -> str:
    parts = ["meshproof", "gate", "--mesh", settings.mesh, "--budget", f"{settings.budget:g}s"]
    parts += ["--profile", settings.profile, "--seed", str(settings.seed)]
    return shlex.join(parts)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
