"""What the workloads themselves cost. `python -m tests.bench.workloads`

Prints, for bookinfo: start-up CPU and memory of a service, CPU per page and hop, and how far a page's latency exceeds
its declared service times; for echo: CPU and wall time of 2,500 calls in each protocol, caller and server together.
Not a test: the figures are the machine's.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from harness.workloads.bookinfo.profile import DEFAULTS, SEED_HEADER
from harness.workloads.echo.caller import Caller
from harness.workloads.echo.protocol import CallSpec, Instance
from harness.workloads.echo.server import Ports, Running

PAGES = 1_000
CALLS = 2_500
CONCURRENCY = 4
BASE_PORT = 19_080
PORTS = {name: BASE_PORT + n for n, name in enumerate(DEFAULTS)}


@contextmanager
def bookinfo(**environment: str) -> Iterator[dict[str, psutil.Process]]:
    """The four services, reviews as v2, each a process of its own."""
    upstreams = {f"{n.upper()}_HOSTNAME": "127.0.0.1" for n in PORTS}
    upstreams |= {f"{n.upper()}_SERVICE_PORT": str(p) for n, p in PORTS.items()}
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "harness.workloads.bookinfo", name],
            env={
                **os.environ,
                **upstreams,
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "SERVICE_VERSION": "v2",
                **environment,
            },
        )
        for name, port in PORTS.items()
    }
    try:
        yield {name: psutil.Process(child.pid) for name, child in children.items()}
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            child.wait()


async def pages(caller: Caller, count: int, concurrency: int, rate: float = 0.0) -> list[float]:
    """Latencies in ms, by index, of pages with seeds 0, 1, 2 ..."""
    results = await caller.run(
        CallSpec(
            url=f"http://127.0.0.1:{PORTS['productpage']}/productpage",
            headers=[(SEED_HEADER, "#")],
            marker="#",
            count=count,
            concurrency=concurrency,
            rate=rate,
        )
    )
    assert all(r.status == 200 and b"unavailable" not in r.body for r in results.results)
    return [r.latency_ms for r in results.results]


async def ready(caller: Caller) -> None:
    for port in PORTS.values():
        while True:
            answer = await caller.run(CallSpec(url=f"http://127.0.0.1:{port}/health"))
            if answer.results[0].status == 200:
                break
            await asyncio.sleep(0.05)


def cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}


async def bench_bookinfo(running: Running) -> None:
    caller = Caller(running.clock)
    with bookinfo(PROFILE_OFF="1") as processes:
        await ready(caller)
        began = cpu(processes)
        rss = {name: process.memory_info().rss >> 20 for name, process in processes.items()}
        print(f"bookinfo start-up: {statistics.mean(began.values()) * 1e3:.0f} ms CPU, {max(rss.values())} MiB each")
        wall = time.perf_counter()
        await pages(caller, PAGES, CONCURRENCY)
        wall = time.perf_counter() - wall
        spent = {name: (after - began[name]) / PAGES * 1e6 for name, after in cpu(processes).items()}
        each = ", ".join(f"{name} {us:.0f}" for name, us in spent.items())
        print(f"bookinfo CPU per page: {sum(spent.values()):.0f} µs ({each}); {PAGES / wall:.0f} pages/s")
    with bookinfo() as processes:
        await ready(caller)
        latencies = await pages(caller, PAGES, 32, rate=100.0)
        declared = [sum(profile.time_ms(name, str(n)) for name, profile in DEFAULTS.items()) for n in range(PAGES)]
        added = sorted(latency - due for latency, due in zip(latencies, declared, strict=True))
        latencies.sort()
        print(
            f"bookinfo page at 100/s: P50 {latencies[PAGES // 2]:.1f} ms, P99 {latencies[PAGES * 99 // 100]:.1f} ms; "
            f"beyond the declared service times: P50 {added[PAGES // 2]:.2f} ms, P99 {added[PAGES * 99 // 100]:.2f} ms"
        )


async def bench_echo(running: Running) -> None:
    caller = Caller(running.clock)
    ports = running.ports
    for protocol, port in (("http1", ports.http), ("http2", ports.http2), ("grpc", ports.grpc), ("tcp", ports.tcp)):
        scheme = "tcp" if protocol == "tcp" else "http"
        before = time.process_time()
        spec = CallSpec(url=f"{scheme}://127.0.0.1:{port}", protocol=protocol, count=CALLS, concurrency=8)  # type: ignore[arg-type]
        results = await caller.run(spec)
        spent = (time.process_time() - before) / CALLS * 1e6
        assert all(r.ok for r in results.results)
        print(f"echo {protocol}: {CALLS} calls in {results.elapsed_s:.2f} s, {spent:.0f} µs CPU each, both sides")


async def main() -> None:
    running = Running(Instance(pod="bench"))
    await running.listen(Ports(http=0, http2=0, grpc=0, tcp=0, tcp_server=0, auto=0, health=0, control=0), "127.0.0.1")
    await bench_echo(running)
    await bench_bookinfo(running)


if __name__ == "__main__":
    asyncio.run(main())
