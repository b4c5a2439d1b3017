"""`python -m tests.bench.pairing`: what paired seeds (common random numbers) buy, on this machine.

The same A/A measurement with and without pairing, alternating; printed is the standard deviation of the windows' log
P99 ratio either way, and how many times more windows the unpaired one needs for an interval of the same width.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness.overhead import statistics as stats
from harness.overhead.analysis import Twin
from harness.overhead.driver import start_load
from loadtests.spec import Arm, LoadSpec
from tests.bench.generator import server


def log_ratios(port: int, paired: bool, seed: int, options: argparse.Namespace, out: Path) -> list[float]:
    spec = LoadSpec(
        arms=[Arm(name=name, url=f"http://127.0.0.1:{port}/page") for name in ("direct", "control")],
        rate=options.rate,
        windows=options.windows,
        window_seconds=options.window_seconds,
        warmup_seconds=1.0,
        paired=paired,
        seed=seed,
        out=out,
    )
    with start_load(None, spec) as run:
        run.wait()
    samples, windows = run.samples(), np.arange(options.windows)
    quantiles = [
        stats.window_quantiles(twin.latency, twin.window, windows, 0.99)
        for twin in (Twin.of(samples, [name], windows) for name in ("direct", "control"))
    ]
    found: list[float] = np.log(quantiles[1] / quantiles[0]).tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=60.0, help="per arm")
    parser.add_argument("--windows", type=int, default=15)
    parser.add_argument("--window-seconds", type=float, default=3.0)
    parser.add_argument("--sigma", type=float, default=0.5, help="of the log-normal service time")
    options = parser.parse_args()
    ratios: dict[bool, list[float]] = {True: [], False: []}
    process, port = server("--median", "0.02", "--sigma", str(options.sigma))
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number, paired in enumerate((True, False, False, True)):
                ratios[paired] += log_ratios(port, paired, number, options, Path(folder) / str(number))
    finally:
        process.kill()
        process.wait()
    spread = {paired: float(np.std(logs, ddof=1)) for paired, logs in ratios.items()}
    result = {
        "windows": len(ratios[True]),
        "sd of log P99 ratio, paired": spread[True],
        "sd of log P99 ratio, unpaired": spread[False],
        "windows an unpaired run needs, times a paired run's": (spread[False] / spread[True]) ** 2,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
