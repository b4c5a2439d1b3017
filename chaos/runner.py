"""A game day: preflight, baseline, inject, observe, heal, recover, and a verdict.

The steady state is judged every second on live traffic, from the injection until recovery. The fault is undone however
the run ends: by plan, by the abort condition, by an error, by Ctrl-C or SIGTERM; after SIGKILL by `meshproof heal`.

Verdicts: `held`; `deviated` (the steady state broke, the fault could not be undone, or it was not back in time);
`aborted` (a stop condition was met); `not-injected` (the fault does not bite, so nothing was tested); `inconclusive`
(the system was not well to begin with, no traffic met the fault, or the load generator was unfit).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

from chaos import steady
from chaos.context import during
from chaos.edge import EdgeError
from chaos.experiment import Activity, Experiment, Probe, load_experiment
from chaos.faults import EdgeFault
from chaos.journal import JOURNAL, Journal
from chaos.lock import Engaged
from chaos.plan import Target, check, plan
from chaos.redirect import RedirectError
from chaos.scorecard import Observation, scorecard, steady_state
from chaos.session import Fault, Leftovers, NotInjected, Session
from chaos.targets import UnknownTarget, Workload, parse_workload, pods_of
from chaos.toxiproxy import ToxiproxyError
from chaos.undo import HealError
from harness.meshes.api import Mesh
from harness.overhead.driver import LoadError, LoadRun, start_load
from harness.substrate.api import PodInfo, SubstrateError, World
from loadtests.spec import Arm, Health, LoadSpec, Second
from reports.model import ExperimentResult, Phase, TimelinePoint, Verdict

WARMUP_SECONDS = 2.0
"""Load before the baseline: connections are made, caches filled."""
POLL_SECONDS = 0.1
MAX_CPU = 0.95
"""Share of one core above which the generator itself may be what is slow."""

Progress = Callable[[str], None]

_VERDICTS = {
    "held": Verdict.PASS,
    "deviated": Verdict.FAIL,
    "aborted": Verdict.FAIL,
    "not-injected": Verdict.INCONCLUSIVE,
    "inconclusive": Verdict.INCONCLUSIVE,
}


def run_experiment(
    world: World, mesh: Mesh, path: Path, *, out: Path, progress: Progress = lambda line: None
) -> ExperimentResult:
    """Run the experiment of the file in a world that runs, and leave the world as it was. `out` receives the journal,
    the load's samples and Toxiproxy's log.

    Raises `InvalidManifests` for a file that is no valid experiment, `Engaged` when another game day holds the world,
    `Leftovers` when an earlier one was not undone, `CompanionMissing` without Toxiproxy; `KeyboardInterrupt` after
    everything has been undone.
    """
    experiment = load_experiment(path)
    with Journal(out / JOURNAL) as journal, _interruptible():
        return _Run(world, mesh, experiment, out, journal, progress).run()


class _Ended(Exception):
    """The run's outcome is known before its end."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


class _Run:
    """One run; the game day that actions and probes see."""

    def __init__(
        self, world: World, mesh: Mesh, experiment: Experiment, out: Path, journal: Journal, progress: Progress
    ) -> None:
        self.world, self.mesh, self.experiment, self.out = world, mesh, experiment, out
        self.journal, self.progress = journal, progress
        self.namespace = experiment.settings.namespace
        self.targets: list[Target] = []
        self.seconds: list[Second] = []
        self.observations: list[Observation] = []
        self.phases: list[Phase] = []
        self.notes: dict[str, str] = {}
        self.baseline: steady.Baseline | None = None
        self.injected_ns = self.healed_ns = 0
        self.faults: list[Fault] = []
        self.hits: dict[str, int] = {}
        self._session: Session | None = None
        self._load: LoadRun | None = None
        self._abort_since: dict[int, int] = {}
        self._deviation = ""

    # === what actions and probes use

    @property
    def session(self) -> Session:
        if self._session is None:
            raise RuntimeError("the session has not begun")
        return self._session

    def inject(self, fault: Fault) -> None:
        check(self.experiment, fault)
        self.journal.note("inject", fault=fault.title)
        self.progress(f"injecting: {fault.title}")
        self.injected_ns = self.injected_ns or time.monotonic_ns()
        self.faults.append(fault)
        moved = self.session.apply(fault)
        self.journal.note("injected", fault=fault.title, detail=moved)
        finding = fault.bites(self.session)
        self.journal.note("bite", fault=fault.title, ok=finding.ok, detail=finding.detail)
        if not finding.ok:
            raise NotInjected(f"{fault.title} does not bite: {finding.detail}")
        self._note("bite verified", f"yes: {finding.detail}")
        if moved:
            self._note("on injection", moved)
        self.progress(f"it bites: {finding.detail}")

    def heal(self) -> None:
        self._count_hits()
        self.session.heal()

    def _note(self, name: str, text: str) -> None:
        """Add to the scorecard, beside what another fault of the same experiment noted."""
        self.notes[name] = f"{self.notes[name]}; {text}" if name in self.notes else text

    def traffic(self, window: float) -> list[Second]:
        if not self.seconds:
            return []
        since = self.seconds[-1].ns - int(window * 1e9)
        return [second for second in self.seconds if second.ns > since]

    def pods(self, workload: Workload) -> list[PodInfo]:
        return pods_of(self.world, workload, needed=False)

    # === the run

    def run(self) -> ExperimentResult:
        experiment = self.experiment
        self.journal.note(
            "begin",
            title=experiment.title,
            file=experiment.file,
            world=self.world.name,
            mesh=self.mesh.name,
            utc=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        outcome, reason = "held", "the steady state held, and all was as before once the fault was healed"
        try:
            with Session(self.world, log=self.out / "toxiproxy.log") as session, during(self):
                self._session = session
                self._preflight()
                digest = self.mesh.digest()
                with self._loaded():
                    self._baseline()
                    early: _Ended | None = None
                    try:
                        self._method()
                    except _Ended as ended:
                        early = ended
                    finally:
                        self._heal()
                    self._recover(early)
                self._recheck(digest)
                self._judge_load()
        except _Ended as ended:
            outcome, reason = ended.outcome, ended.reason
        except (Engaged, Leftovers):
            raise
        except KeyboardInterrupt:
            self.journal.note("interrupted", faults_undone=True)
            raise
        except (HealError, SubstrateError, ToxiproxyError, RedirectError, EdgeError) as exc:
            outcome, reason = "deviated", f"{type(exc).__name__}: {exc}"
        self.journal.note("end", outcome=outcome, reason=reason)
        self.progress(f"{outcome}: {reason}")
        return ExperimentResult(
            title=experiment.title,
            file=experiment.file,
            outcome=outcome,
            verdict=_VERDICTS[outcome],
            reason=reason,
            phases=self.phases,
            timeline=[
                TimelinePoint(
                    t_s=round(self.journal.at(second.ns), 3),
                    requests=second.requests,
                    errors=second.errors,
                    p50_ms=round(second.p50_ms, 3),
                    p99_ms=round(second.p99_ms, 3),
                )
                for second in self.seconds
            ],
            scorecard=scorecard(self.baseline, self.seconds, self.injected_ns, self.healed_ns, self.hits, self.notes),
            steady_state=steady_state(experiment.hypothesis, self.observations),
        )

    def _preflight(self) -> None:
        """Nothing is touched unless everything is there and well."""
        with self._phase("preflight"):
            try:
                self.targets = plan(self.world, self.experiment)
                self.world.wait_ready(5.0, self.namespace)
                self.mesh.settled(10.0)
            except (UnknownTarget, NotInjected) as exc:
                raise _Ended("not-injected", f"preflight: {exc}") from exc
            except Exception as exc:  # the mesh's own tree is not known here; whatever it is, the system is not well
                raise _Ended("inconclusive", f"preflight: {type(exc).__name__}: {exc}") from exc
            for target in self.targets:
                self.journal.note("target", fault=target.title, hops=target.hops)
                self.progress(f"target: {target.title}, {len(target.hops)} hop(s)")

    @contextlib.contextmanager
    def _loaded(self) -> Iterator[None]:
        """Traffic runs inside."""
        settings = self.experiment.settings
        url = urlsplit(settings.load.url)
        host = url.hostname or ""
        if "." not in host:
            host = f"{host}.{self.namespace}"
        clients = pods_of(self.world, parse_workload(settings.load.client, self.namespace))
        netloc = f"{host}:{url.port}" if url.port else host
        longest = settings.baseline + self.experiment.observed + settings.recovery.within + 60.0
        spec = LoadSpec(
            arms=[Arm(name=self.namespace, url=url._replace(netloc=netloc).geturl(), netns=clients[0].netns)],
            rate=settings.load.rate,
            users=settings.load.users,
            seed=settings.load.seed,
            warmup_seconds=WARMUP_SECONDS,
            window_seconds=5.0,
            windows=int(longest / 5.0) + 1,
            out=self.out / "load",
        )
        try:
            with start_load(self.world, spec) as load:
                self._load = load
                try:
                    yield
                except _Ended:
                    load.end()  # what was measured until then is evidence
                    raise
                load.end()
        except LoadError as exc:
            raise _Ended("inconclusive", f"the load generator failed: {exc}") from exc

    def _baseline(self) -> None:
        self.progress(f"baseline: {self.experiment.settings.baseline:g} s of undisturbed traffic")
        self._wait(WARMUP_SECONDS, judged=False)
        began = len(self.seconds)
        with self._phase("baseline"):
            self._wait(self.experiment.settings.baseline + 0.5, judged=False)
            seconds = self.seconds[began:]
            self.baseline = steady.Baseline.of(seconds)
            values = self._evaluate("baseline")
        if not seconds or not self.baseline.p99_ms:
            raise _Ended("inconclusive", "no request completed before the fault")
        broken = [f"{probe.name} is {_shown(value)}" for probe, value in values if not probe.holds(value)]
        if broken:
            raise _Ended("inconclusive", f"the steady state did not hold before the fault: {', '.join(broken)}")
        self.journal.note("baseline", p50_ms=self.baseline.p50_ms, p99_ms=self.baseline.p99_ms)

    def _method(self) -> None:
        """Inject and observe. Raises `_Ended` when that decides the outcome."""
        for step in self.experiment.method:
            if step.pauses.before:
                with self._phase("observe", step.name):
                    self._wait(step.pauses.before)
            with self._phase("inject" if step.type == "action" else "probe", step.name):
                self._step(step)
            if step.pauses.after:
                with self._phase("observe", step.name):
                    self.progress(f"observing for {step.pauses.after:g} s")
                    self._wait(step.pauses.after)

    def _step(self, step: Activity) -> None:
        try:
            value = step.provider.call()
        except (
            NotInjected,
            UnknownTarget,
            ToxiproxyError,
            RedirectError,
            EdgeError,
            SubstrateError,
            ValueError,
        ) as exc:
            raise _Ended("not-injected", f"{step.name}: {exc}") from exc
        self.journal.note(step.type, name=step.name, value=value)
        self._poll()

    def _heal(self) -> None:
        """Undo everything; what cannot be undone is a `HealError`."""
        with self._phase("heal"):
            self._count_hits()
            self.progress("healing")
            for step in self.experiment.rollbacks:
                with contextlib.suppress(Exception):  # the session's own undo follows, and does report
                    step.provider.call()
            self.session.heal()
            self.healed_ns = time.monotonic_ns()
            self.journal.note("healed")

    def _recover(self, early: _Ended | None) -> None:
        """Until the system is as before, or its time is over; then the fault's outcome, whichever phase decided it."""
        within = self.experiment.settings.recovery.within
        baseline = self.baseline
        assert baseline is not None
        injected = bool(self.faults) and not (early and early.outcome == "not-injected")
        recovered: float | None = None
        with self._phase("recover"):
            deadline = time.monotonic() + within + steady.QUIET_SECONDS + 1.0
            while time.monotonic() < deadline:
                self._wait(0.25, judged=injected, stop=False)
                recovered = steady.time_to_recover(baseline, self.seconds, self.healed_ns)
                if recovered is not None and all(probe.holds(value) for probe, value in self._values()):
                    break
            else:
                recovered = None
        self.notes["time to recover"] = f"{recovered:.1f} s" if recovered is not None else f"not within {within:g} s"
        self.journal.note("recovered", seconds=recovered)
        self._verify_rollback()
        if early is not None:
            raise early
        if self._deviation:
            raise _Ended("deviated", self._deviation)
        if recovered is None or recovered > within:
            raise _Ended("deviated", f"the system was not as before within {within:g} s of the heal")
        self._judge_reach(baseline)

    def _verify_rollback(self) -> None:
        found = []
        for fault in self.faults:
            finding = fault.healed(self.session)
            self.journal.note("rollback", fault=fault.title, ok=finding.ok, detail=finding.detail)
            if not finding.ok:
                raise _Ended("deviated", f"{fault.title} was undone, and still: {finding.detail}")
            found.append(finding.detail)
        if self.faults:
            self.notes["rollback verified"] = "yes: " + "; ".join(found)

    def _judge_reach(self, baseline: steady.Baseline) -> None:
        """A fault that no request met has tested nothing."""
        missed = [edge for edge, count in self.hits.items() if count <= 0]
        if missed:
            raise _Ended("inconclusive", f"no connection of the workload took {', '.join(missed)} during the fault")
        visible = self.experiment.settings.visible
        during_fault = [s for s in self.seconds if self.injected_ns < s.ns <= self.healed_ns]
        rise = (steady.usual_p99_ms(during_fault) or 0.0) - baseline.p99_ms
        if visible and rise < visible:
            raise _Ended(
                "inconclusive",
                f"the fault bites its edge but users hardly saw it: p99 rose by {rise:.0f} ms, expected {visible:g} ms",
            )

    def _recheck(self, digest: str) -> None:
        """Configuration and pods are as before."""
        after = self.mesh.digest()
        self.notes["config digest"] = f"unchanged ({digest[:12]})" if after == digest else f"{digest} -> {after}"
        try:
            self.world.wait_ready(10.0, self.namespace)
        except SubstrateError as exc:
            raise _Ended("deviated", f"pods are not ready after the heal: {exc}") from exc
        if after != digest:
            raise _Ended("deviated", f"the mesh's configuration is not what it was: digest {digest} -> {after}")
        if any(isinstance(fault, EdgeFault) for fault in self.faults) and self.session.edges.redirected():
            raise _Ended("deviated", "the node still redirects connections after the heal")

    def _judge_load(self) -> None:
        if self._load is None:
            return
        health: Health = self._load.health()
        if health.cpu_fraction > MAX_CPU:
            reason = f"the load generator used {health.cpu_fraction:.0%} of a core; it may have been what was slow"
            raise _Ended("inconclusive", reason)

    # === watching

    def _wait(self, seconds: float, *, judged: bool = True, stop: bool = True) -> None:
        """Let traffic run. With `judged`, the steady state is evaluated each second; with `stop`, abort conditions and
        the blast radius's longest duration end the wait."""
        until = time.monotonic() + seconds
        while True:
            fresh = self._poll()
            if judged and fresh:
                self._judge(fresh[-1], stop=stop)
            if stop and self.injected_ns:
                if trouble := self.session.trouble:
                    raise _Ended("inconclusive", f"the fault was not kept up: {trouble}")
                longest = self.experiment.settings.blast_radius.max_duration
                if (time.monotonic_ns() - self.injected_ns) / 1e9 > longest:
                    raise _Ended("aborted", f"the fault had lasted longer than its blast radius allows, {longest:g} s")
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(POLL_SECONDS, left))

    def _poll(self) -> list[Second]:
        if self._load is None:
            return []
        fresh = self._load.tail()
        self.seconds += fresh
        if not fresh and not self._load.running:
            raise LoadError("it ended before its time")
        return fresh

    def _judge(self, second: Second, *, stop: bool) -> None:
        values = self._evaluate(self.phases[-1].name if self.phases else "")
        for probe, value in values:
            if not probe.holds(value) and not self._deviation:
                self._deviation = (
                    f"{probe.name} was {_shown(value)} {self.journal.at(second.ns):.1f} s into the run; "
                    f"expected {probe.expectation}"
                )
                self.journal.note("deviated", probe=probe.name, value=value)
                self.progress(f"steady state broken: {self._deviation}")
        if stop:
            self._check_aborts({probe.name: value for probe, value in values}, second.ns)

    def _check_aborts(self, values: dict[str, object], now_ns: int) -> None:
        for position, abort in enumerate(self.experiment.settings.abort):
            value = values.get(abort.probe)
            if not abort.triggered(value):
                self._abort_since.pop(position, None)
                continue
            since = self._abort_since.setdefault(position, now_ns)
            if (now_ns - since) / 1e9 >= abort.for_ - 1.0:  # the first bad second lasted one second itself
                bound = f"below {abort.below:g}" if abort.below is not None else f"above {abort.above:g}"
                self.journal.note("abort", probe=abort.probe, value=value)
                raise _Ended("aborted", f"{abort.probe} was {bound} for {abort.for_:g} s ({_shown(value)})")

    def _values(self) -> list[tuple[Probe, object]]:
        return [(probe, probe.provider.call()) for probe in self.experiment.hypothesis.probes]

    def _evaluate(self, phase: str) -> list[tuple[Probe, object]]:
        values = self._values()
        for probe, value in values:
            self.observations.append(
                Observation(t_s=self.journal.now(), phase=phase, probe=probe.name, value=value, ok=probe.holds(value))
            )
        return values

    def _count_hits(self) -> None:
        """Connections of the workload that took each faulted edge, our own measurements taken off."""
        for fault in self.session.faults:
            if isinstance(fault, EdgeFault):
                counted = self.session.edges.hits(fault.edge)
                self.hits[str(fault.edge)] = sum(counted.values()) - fault.probes
                self.journal.note("hits", edge=str(fault.edge), connections=counted, own=fault.probes)

    @contextlib.contextmanager
    def _phase(self, name: str, detail: str = "") -> Iterator[None]:
        phase = Phase(name=name, start_s=round(self.journal.now(), 3), end_s=0.0, detail=detail)
        self.phases.append(phase)
        self.journal.note("phase", name=name, detail=detail)
        try:
            yield
        finally:
            phase.end_s = round(self.journal.now(), 3)


def _shown(value: object) -> str:
    if value is None:
        return "unknown, nothing completed"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM is Ctrl-C inside, unless somebody handles it already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
