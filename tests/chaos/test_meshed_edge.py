"""A fault between two sidecars, under load: opaque to both, seen by users, and no request lost on the way in or out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from chaos.faults import applied, toxic_on
from chaos.session import Session
from chaos.targets import parse_edge
from harness import stage
from harness.overhead.driver import start_load
from loadtests.spec import Arm, LoadSpec

pytestmark = pytest.mark.privileged


def test_no_request_is_lost_when_a_fault_comes_and_goes(tmp_path: Path) -> None:
    with stage.opened("envoy", f"chaos-mesh-{os.getpid()}") as (world, mesh):
        stage.deploy_bookinfo(world, mesh, twin=False)
        digest = mesh.digest()
        client = world.pods(stage.MESHED, {"app": "client"})[0]
        page = f"http://productpage.{stage.MESHED}:9080/productpage"
        spec = LoadSpec(
            arms=[Arm(name="page", url=page, netns=client.netns)],
            rate=30,
            warmup_seconds=1,
            window_seconds=5,
            windows=10,
            out=tmp_path / "load",
        )
        edge = parse_edge("reviews->ratings", stage.MESHED)
        with start_load(world, spec) as load, Session(world) as session:
            time.sleep(2)
            with applied(session, toxic_on(edge, "latency", latency=400)) as fault:
                time.sleep(3)
                hits = sum(session.edges.hits(edge).values())
                assert hits > fault.probes  # type: ignore[attr-defined]
                began = time.monotonic_ns()
            time.sleep(2)
            seconds = load.tail()
        assert sum(second.requests for second in seconds) > 100
        assert [second for second in seconds if second.errors] == []
        assert max(second.p99_ms for second in seconds if second.ns < began) > 400
        assert mesh.digest() == digest
