"""`python -m tests.bench.generator`: the load generator against stock Locust, as ratios, on this machine.

Two questions. *Accuracy*: at the same rate against the same server, how far is each generator's P99 from the server's
own account of its times? *Ceiling*: how many requests per second does each make before it falls behind? The peer is
Locust's FastHttpUser under `constant_throughput`, which is what one would write without this package. Runs alternate
(ours, peer, peer, ours), so that a noisy minute meets both; read the ratios, not the absolutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loadtests.spec import HEALTH, SAMPLES, Arm, LoadSpec, encode_spec

_HERE = Path(__file__).parent
_SERVER = _HERE.parent / "loadtests" / "profiled.py"
_PEER = _HERE / "stock_locust.py"


def ours(port: int, path: str, rate: float, seconds: float, out: Path) -> dict[str, float]:
    spec = LoadSpec(
        arms=[Arm(name="only", url=f"http://127.0.0.1:{port}{path}")],
        rate=rate,
        windows=1,
        window_seconds=seconds,
        warmup_seconds=1.0,
        out=out,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "spec.json").write_bytes(encode_spec(spec))
    command = [sys.executable, "-m", "loadtests.run", str(out / "spec.json")]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    samples = pd.read_parquet(out / SAMPLES)
    samples = samples[samples["window"] == 0]
    health = json.loads((out / HEALTH).read_bytes())
    latency = (samples["done_ns"] - samples["intended_ns"]).to_numpy() / 1e6
    return {
        "p50": float(np.quantile(latency, 0.5)),
        "p99": float(np.quantile(latency, 0.99)),
        "rate": len(samples) / ((samples["done_ns"].max() - samples["intended_ns"].min()) / 1e9),
        "cpu": health["cpu_fraction"],
        "lateness": health["lateness_p99_ms"],
    }


def peer(port: int, path: str, rate: float, seconds: float) -> dict[str, float]:
    command = [sys.executable, str(_PEER), str(port), path, str(rate), str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def alternate(port: int, path: str, rate: float, seconds: float, out: Path) -> dict[str, dict[str, float]]:
    """Medians of either generator over ours, peer, peer, ours."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
    for number, which in enumerate(("ours", "stock", "stock", "ours")):
        found = (
            ours(port, path, rate, seconds, out / str(number)) if which == "ours" else peer(port, path, rate, seconds)
        )
        runs[which].append(found)
    return {which: {key: float(np.mean([r[key] for r in found])) for key in found[0]} for which, found in runs.items()}


def server(*options: str) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen([sys.executable, str(_SERVER), *options], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--rates", type=float, nargs="*", default=[50, 150, 400])
    parser.add_argument("--ceiling", type=float, default=6000, help="requests/s that neither reaches")
    options = parser.parse_args()
    result: dict[str, Any] = {"accuracy": [], "ceiling": {}}
    with tempfile.TemporaryDirectory() as folder:
        process, port = server("--median", "0.01", "--sigma", "0.3")
        try:
            truth = 10 * float(np.exp(0.3 * 2.3263))
            for rate in options.rates:
                found = alternate(port, "/page", rate, options.seconds, Path(folder) / str(rate))
                row = {"rate": rate, **found, "p99/service time p99": {k: v["p99"] / truth for k, v in found.items()}}
                result["accuracy"].append(row)
            found = alternate(port, "/status/200", options.ceiling, options.seconds / 2, Path(folder) / "ceiling")
            result["ceiling"] = {**found, "ours/stock": found["ours"]["rate"] / found["stock"]["rate"]}
        finally:
            process.kill()
            process.wait()
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
