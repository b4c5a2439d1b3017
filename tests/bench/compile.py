"""`python -m tests.bench.compile`: what a further view of a namespace costs beside the first, on this machine.

The views of a namespace share clusters and endpoints; routes and listeners are each view's own. Medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from ipaddress import IPv4Address
from statistics import median
from typing import Any

from mesh.compile import Compiler
from mesh.config.snapshot import ConfigSnapshot
from mesh.registry.types import Endpoint, Port, Registry, Service, Workload
from mesh.settings import MeshSettings
from mesh.view import ViewKey, view_key

NAMESPACE = "bench"


def registry(services: int) -> Registry:
    """Services of one HTTP port and one pod each."""
    found: dict[str, Service] = {}
    endpoints: dict[tuple[str, int], tuple[Endpoint, ...]] = {}
    workloads: dict[tuple[str, str], Workload] = {}
    for number in range(services):
        name, labels = f"s{number}", {"app": f"s{number}"}
        host, address = f"{name}.{NAMESPACE}.svc.cluster.local", str(IPv4Address("10.0.0.0") + number)
        found[host] = Service(
            hostname=host,
            namespace=NAMESPACE,
            name=name,
            ports=(Port(number=80, name="http", protocol="http", target=8080),),
            addresses=(address,),
            resolution="endpoints",
            selector=labels,
            created=("2026-01-01T00:00:00Z", NAMESPACE, name),
        )
        pod: dict[str, Any] = {"namespace": NAMESPACE, "address": address, "labels": labels, "service_account": name}
        workloads[NAMESPACE, name] = Workload(name=name, meshed=True, ready=True, **pod)
        endpoints[host, 80] = (Endpoint(port=8080, workload=name, meshed=True, ready=True, **pod),)
    return Registry(services=found, endpoints=endpoints, workloads=workloads, namespaces={NAMESPACE: {}})


def milliseconds(compiler: Compiler, view: ViewKey) -> float:
    began = time.perf_counter()
    compiler(view)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compile", description=__doc__)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--views", type=int, default=5, help="2 or more")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    world = registry(options.services)
    views = [view_key(NAMESPACE, {"app": f"s{number}"}, f"s{number}") for number in range(options.views)]
    first, further = [], []
    for _ in range(options.rounds):
        compiler = Compiler(ConfigSnapshot(), world, MeshSettings())
        took = [milliseconds(compiler, view) for view in views]
        first.append(took[0])
        further += took[1:]
    figures = {
        "services": options.services,
        "first_view_ms": round(median(first), 1),
        "further_view_ms": round(median(further), 1),
        "ratio": round(median(further) / median(first), 3),
    }
    json.dump(figures, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
