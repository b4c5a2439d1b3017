"""Measuring what a mesh adds to latency, on two live twins of one workload.

`measure` runs one load over both twins at once, looks at it at times fixed beforehand, ends it as soon as a look
decides, and reports. The only difference between the twins is the mesh: same manifests, same service times (paired
seeds), same windows, one generator whose sockets live in a client pod of either side.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pandas as pd
import psutil

from harness.overhead import analysis
from harness.overhead import statistics as stats
from harness.overhead import verdict as rules
from harness.overhead.analysis import Call
from harness.overhead.driver import LoadError, LoadRun, start_load
from harness.substrate.api import World
from loadtests.spec import Arm, Health, LoadSpec
from reports.model import Cost, OverheadResult, Verdict

Progress = Callable[[str], None]

WINDOW_SECONDS = 4.0
# Long enough for a P99 of a few hundred requests, short enough for 20 windows in a gate.
LEAST_WINDOW_SECONDS = 1.0
_WANTED_WINDOWS = 12
MOST_RATE = 20.0
LEAST_RATE = 5.0
# Requests per second and arm, of which there are four: 40 pages per second on either twin at most.
CPU_TARGET = 0.40
# Share of all cores the run may use, below the limit that would make it invalid.
_RAMP_RATE = 10.0
_RAMP_SECONDS = 3.0
_RAMP_BUDGET_SECONDS = 60.0
# With less, the ramp would cost too many windows, and `MOST_RATE` is used.
_OVERHEAD_SECONDS = 8.0
# Starting and ending a generator, and looking at what it found.
_WARMUP_SECONDS = 3.0
_TIMEOUT_SECONDS = 5.0
_GENERATOR_CPU_SECONDS = 0.0006
# Per request; measured, see tests/bench.
PROXY = "istio-proxy"


class ArmTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One twin: where its client calls from, and what."""

    url: str
    """`http://<IP>:<port>/<path>`."""
    host: str = ""
    netns: str = ""
    namespace: str = ""
    """Whose pods are accounted for; empty when nobody accounts."""

    def arm(self, name: str) -> Arm:
        return Arm(name=name, url=self.url, host=self.host, netns=self.netns)


def find_target(
    world: World,
    namespace: str,
    *,
    service: str = "productpage",
    path: str = "/productpage",
    client: str = "client",
) -> ArmTarget:
    """The twin in `namespace`: `service` by its cluster IP, called from the pod labelled `app: <client>`."""
    services = {found.name: found for found in world.services(namespace)}
    pods = world.pods(namespace, {"app": client})
    if service not in services or not services[service].cluster_ip:
        raise LoadError(f"namespace {namespace}: no Service {service} with a cluster IP; there are {sorted(services)}")
    if not pods:
        raise LoadError(f"namespace {namespace}: no pod labelled app={client}")
    port = next(iter(services[service].ports))
    return ArmTarget(
        url=f"http://{services[service].cluster_ip}:{port}{path}",
        host=f"{service}:{port}",
        netns=pods[0].netns,
        namespace=namespace,
    )


class Consumption(NamedTuple):
    """CPU seconds so far: of proxies beside the meshed twin, of the apps of either twin, of all."""

    proxies: float
    meshed_apps: float
    direct_apps: float
    proxy_rss: dict[str, int]

    @property
    def total(self) -> float:
        return self.proxies + self.meshed_apps + self.direct_apps


def consumption(world: World, direct: ArmTarget, meshed: ArmTarget) -> Consumption:
    proxies = apps = direct_apps = 0.0
    rss: dict[str, int] = {}
    for pod in world.pods(meshed.namespace):
        for container, usage in world.usage(pod.namespace, pod.name).items():
            if container == PROXY:
                proxies += usage.cpu_seconds
                rss[f"{pod.namespace}/{pod.name}"] = usage.rss_bytes
            else:
                apps += usage.cpu_seconds
    for pod in world.pods(direct.namespace):
        direct_apps += sum(usage.cpu_seconds for usage in world.usage(pod.namespace, pod.name).values())
    return Consumption(proxies, apps, direct_apps, rss)


@contextlib.contextmanager
def one_version(
    world: World, namespaces: tuple[str, ...], *, app: str = "reviews", keep: str = "reviews-v3", deadline: float = 30.0
) -> Iterator[None]:
    """Within, only the Deployment `keep` of `app` has replicas, in every namespace. Versions differ in cost, and
    a mesh spreads requests over them where kube-proxy spreads connections: the twins would not be twins."""
    others = sorted(
        {
            (pod.namespace, pod.owner)
            for namespace in namespaces
            for pod in world.pods(namespace, {"app": app})
            if pod.owner and pod.owner != keep
        }
    )
    replicas = {
        (namespace, owner): sum(pod.owner == owner for pod in world.pods(namespace, {"app": app}))
        for namespace, owner in others
    }
    with contextlib.ExitStack() as undo:
        for (namespace, owner), count in replicas.items():
            undo.callback(world.wait_ready, deadline, namespace)
            undo.callback(world.scale, namespace, owner, count)
            world.scale(namespace, owner, 0)
        for namespace in namespaces:
            world.wait_ready(deadline, namespace)
        yield


def measure(
    world: World | None,
    *,
    direct: ArmTarget,
    meshed: ArmTarget,
    budget_seconds: float,
    limit: float = 1.05,
    rate: float | None = None,
    seed: int = 1,
    out: Path,
    progress: Progress | None = None,
    workload: str = "",
    window_seconds: float | None = None,
    users: int = 64,
) -> OverheadResult:
    """The P99 increase of `meshed` over `direct`, judged against `limit` within `budget_seconds`.

    `rate` is per arm, of which there are four (see `harness.overhead.analysis`); by default it is what keeps the run
    below `CPU_TARGET`, found by a short ramp. While it lasts, reviews has one version in either twin (`one_version`).
    Without a `world` nothing is accounted for but the generator. Raw samples and the generator's log stay in `out`.
    Raises `LoadError`, and `SubstrateError` when the world does."""
    say = progress or (lambda line: None)
    end = time.monotonic() + budget_seconds
    least = _OVERHEAD_SECONDS + _WARMUP_SECONDS + rules.FEWEST_WINDOWS * (window_seconds or LEAST_WINDOW_SECONDS)
    if budget_seconds < least:
        raise LoadError(f"a budget of {budget_seconds:.0f} s is too short for a verdict; give at least {least:.0f} s")
    spec = LoadSpec(
        arms=[(direct if name in analysis.DIRECT else meshed).arm(name) for name in analysis.ARMS],
        rate=rate or MOST_RATE,
        warmup_seconds=_WARMUP_SECONDS,
        users=users,
        seed=seed,
        timeout_seconds=_TIMEOUT_SECONDS,
        out=out,
    )
    with contextlib.ExitStack() as stack:
        if world is not None:
            stack.enter_context(one_version(world, (direct.namespace, meshed.namespace)))
            if rate is None and budget_seconds >= _RAMP_BUDGET_SECONDS:
                spec = msgspec.structs.replace(spec, rate=_ramp(world, direct, meshed, spec, say))
        spec = _planned(spec, end - time.monotonic(), window_seconds)
        say(f"four arms of {spec.rate:.0f} requests/s, up to {spec.windows} windows of {spec.window_seconds:.1f} s")

        before = consumption(world, direct, meshed) if world is not None else None
        with start_load(world, spec, progress=say) as run:
            call, looked = _watch(run, limit, seed, say)
            health = run.stop()
            after = consumption(world, direct, meshed) if world is not None else None
            samples = run.samples()
            seconds = len(run.windows()) * spec.window_seconds + _WARMUP_SECONDS

    cost = own_cpu = None
    if before is not None and after is not None:
        cost = _cost(before, after, samples)
        cores = psutil.cpu_count() or 1
        own_cpu = ((after.total - before.total) / seconds + health.cpu_fraction) / cores
    return conclude(samples, call, looked, health, spec, limit, cost, own_cpu, workload)


def _planned(spec: LoadSpec, remaining: float, window_seconds: float | None) -> LoadSpec:
    """As many windows as fit; shorter ones when time is short, because fewer than a dozen say little. Should getting
    here have taken longer than it should, the fewest that can be judged are measured all the same."""
    remaining -= _OVERHEAD_SECONDS + spec.warmup_seconds
    length = window_seconds or min(max(remaining / _WANTED_WINDOWS, LEAST_WINDOW_SECONDS), WINDOW_SECONDS)
    windows = max(math.floor(remaining / length), rules.FEWEST_WINDOWS)
    return msgspec.structs.replace(spec, windows=windows, window_seconds=length)


def _watch(run: LoadRun, limit: float, seed: int, say: Progress) -> tuple[Call, int]:
    """Until a look decides or the last is taken: the call, and how many looks there were."""
    looks = rules.plan_looks(run.spec.windows)
    for number, look in enumerate(looks, start=1):
        run.wait_windows(look.windows)
        marks = run.windows()[: look.windows]
        call = analysis.look(run.samples(), marks, look.confidence, limit, seed)
        interval = call.judged.interval
        say(
            f"look {number} of {len(looks)} after {len(marks)} windows: P99 ratio {call.judged.ratio:.3f} "
            f"[{interval.low:.3f}, {interval.high:.3f}] at {interval.confidence:.1%}: {call.verdict}"
        )
        if call.decided:
            break
    return call, number


def _ramp(world: World, direct: ArmTarget, meshed: ArmTarget, spec: LoadSpec, say: Progress) -> float:
    """The rate per arm that uses `CPU_TARGET` of the machine, by what a little load uses."""
    ramp = msgspec.structs.replace(
        spec,
        rate=_RAMP_RATE,
        windows=1,
        window_seconds=_RAMP_SECONDS,
        warmup_seconds=1.0,
        # Different seeds from the run's, so that nothing of the run was seen before.
        seed=spec.seed + 2**32,
        out=spec.out / "ramp",
    )
    before = consumption(world, direct, meshed)
    with start_load(world, ramp) as run:
        run.wait(60.0)
        requests = len(run.samples())
    used = consumption(world, direct, meshed).total - before.total
    if not requests:
        raise LoadError(f"the ramp got no response at all; see {ramp.out}")
    per_request = used / requests + _GENERATOR_CPU_SECONDS
    cores = psutil.cpu_count() or 1
    rate = min(max(CPU_TARGET * cores / per_request / len(spec.arms), LEAST_RATE), MOST_RATE)
    say(f"ramp: {per_request * 1e3:.1f} ms of CPU per request, so {rate:.0f} requests/s and arm")
    return rate


def _cost(before: Consumption, after: Consumption, samples: pd.DataFrame) -> Cost:
    meshed = int(samples["arm"].isin(analysis.MESHED).sum())
    per_thousand = 1000 / meshed if meshed else 0.0
    return Cost(
        cpu_seconds_per_1000_requests=(after.proxies - before.proxies) * per_thousand,
        baseline_cpu_seconds_per_1000_requests=(after.meshed_apps - before.meshed_apps) * per_thousand,
        rss_bytes=after.proxy_rss,
    )


def conclude(
    samples: pd.DataFrame,
    call: Call,
    looked: int,
    health: Health,
    spec: LoadSpec,
    limit: float,
    cost: Cost | None,
    own_cpu: float | None,
    workload: str,
) -> OverheadResult:
    arms = analysis.summaries(samples, call.kept.windows)
    validities = analysis.validities(samples, call, arms, health, limit, spec.seed, own_cpu)
    verdict, invalid = rules.conclude(call.verdict, validities)
    judged = call.judged
    return OverheadResult(
        workload=_workload(workload, spec),
        verdict=verdict,
        reason=invalid or _reason(call, limit, looked),
        limit_ratio=limit,
        ratios=analysis.ratios(samples, call, spec.seed),
        control=call.control if analysis.is_bounded(call.control) else None,
        arms=arms,
        break_even_ms=stats.break_even_ms(judged.delta_ms, limit) if analysis.is_bounded(judged) else 0.0,
        windows=len(call.kept.windows),
        windows_dropped=call.kept.dropped,
        cost=cost,
        validity={f"{item.name}: {item.reading}": "ok" if item.ok else item.wrong for item in validities},
        seed=spec.seed,
    )


def _workload(workload: str, spec: LoadSpec) -> str:
    load = (
        f"{2 * spec.rate:.0f} requests/s on either twin at once, Poisson, open loop, {spec.users} clients, HTTP/1.1 "
        f"keep-alive, paired service times"
    )
    return f"{workload}; {load}" if workload else load


def _reason(call: Call, limit: float, looked: int) -> str:
    interval = call.judged.interval
    if not analysis.is_bounded(call.judged):
        return f"{len(call.kept.windows)} windows with responses of both arms are too few to say anything"
    reading = (
        f"P99 {call.judged.ratio - 1:+.1%} [{interval.low - 1:+.1%}, {interval.high - 1:+.1%}] "
        f"against a limit of {limit - 1:+.0%}"
    )
    meaning = {
        Verdict.PASS: "the whole interval lies below the limit",
        Verdict.FAIL: "the whole interval lies above the limit",
        Verdict.INCONCLUSIVE: "the interval spans the limit; a longer budget or a quieter machine would tell",
    }[call.verdict]
    wide = analysis.half_width(call.control)
    note = (
        f"; the A/A control is ±{wide:.1%} wide, more than the ±{rules.CONTROL_HALF_WIDTH:.0%} of a quiet machine"
        if wide > rules.CONTROL_HALF_WIDTH
        else ""
    )
    return f"{reading}, after {len(call.kept.windows)} windows (look {looked}): {meaning}{note}"
