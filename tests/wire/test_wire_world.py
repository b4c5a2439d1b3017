"""The tap and the probes on a running mesh: real pods, real Envoys, real packets."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness import stage
from harness.meshes.api import Mesh
from harness.substrate.api import PodInfo, World
from harness.wire import CaptureError, WireTap, gates
from harness.wire.classify import FlowTable
from harness.wire.packets import parse
from harness.wire.pcap import read_pcap
from harness.wire.probe import probe_workloads
from harness.wire.tap import CAPTURE_FILE
from manifests import load_text
from reports.bundle import Bundle
from reports.model import Verdict

pytestmark = pytest.mark.privileged

PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: bookinfo}
spec: {mtls: {mode: PERMISSIVE}}
"""


@pytest.fixture(scope="module")
def staged() -> Iterator[tuple[World, Mesh, WireTap]]:
    """Bookinfo in the mesh and its twin outside, with a tap that was there before them."""
    with stage.opened("envoy") as (world, mesh), WireTap(world, mesh, namespaces=[stage.MESHED]) as tap:
        stage.deploy_bookinfo(world, mesh, twin=True)
        yield world, mesh, tap


def caller(world: World, namespace: str) -> PodInfo:
    return world.pods(namespace, {"app": "client"})[0]


def get(world: World, source: PodInfo, host: str, path: str) -> int:
    """The status of one request on a connection of its own; 0 when it was refused."""
    with closing(world.connect((host, 9080), source=source)) as raw:
        connection = http.client.HTTPConnection(host)
        connection.sock = raw
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (ConnectionError, http.client.HTTPException):
            return 0


def answer(raw: socket.socket, context: ssl.SSLContext | None = None) -> bytes:
    """What comes back, after a TLS handshake when there is a context; nothing when the other side refused."""
    raw.settimeout(5)
    try:
        if context is None:
            return raw.recv(1)
        with context.wrap_socket(raw) as session:
            session.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return session.recv(1)
    except (ConnectionError, ssl.SSLError):
        return b""


def test_bookinfo_in_the_mesh_is_covered_wholly_and_its_twin_not_at_all(staged: tuple[World, Mesh, WireTap]) -> None:
    world, _, tap = staged
    for namespace in (stage.MESHED, stage.DIRECT):
        for _ in range(6):
            assert get(world, caller(world, namespace), f"productpage.{namespace}", "/productpage") == 200
    meshed = tap.snapshot()
    assert (meshed.coverage, meshed.byte_coverage, meshed.unknown) == (1.0, 1.0, 0), meshed.uncovered
    assert {(e.source, e.destination) for e in meshed.edges} >= {
        ("bookinfo/client", "bookinfo/productpage"),
        ("bookinfo/productpage", "bookinfo/details"),
        ("bookinfo/productpage", "bookinfo/reviews"),
        ("bookinfo/reviews", "bookinfo/ratings"),
    }
    assert meshed.control_flows > 0
    assert gates(meshed)[0].verdict is Verdict.PASS
    direct = tap.snapshot([stage.DIRECT])
    assert direct.flows > 0
    assert direct.coverage == 0.0
    assert {flow.kind for flow in direct.uncovered} == {"http"}


def test_probes_are_refused_and_the_control_is_not(staged: tuple[World, Mesh, WireTap]) -> None:
    world, mesh, _ = staged
    result = staged[2].snapshot()
    result.probes = probe_workloads(world, mesh, [stage.MESHED], skip=["client"])
    assert len(result.probes) == 4 * 6
    assert gates(result)[1].verdict is Verdict.PASS, [p for p in result.probes if p.refused == (p.probe[0] == "m")]


def test_a_port_that_answers_plaintext_is_found(staged: tuple[World, Mesh, WireTap]) -> None:
    world, mesh, tap = staged
    documents = load_text(PERMISSIVE, "<permissive>")
    mesh.apply(documents)
    try:
        result = tap.snapshot()
        result.probes = probe_workloads(world, mesh, [stage.MESHED], skip=["client"])
    finally:
        mesh.delete(documents)
    assert {p.refused for p in result.probes if p.probe == "plaintext"} == {False}
    assert {p.refused for p in result.probes if p.probe == "foreign-ca"} == {True}
    assert gates(result)[1].verdict is Verdict.FAIL


def test_lost_packets_are_counted(staged: tuple[World, Mesh, WireTap]) -> None:
    world, mesh, _ = staged
    target = caller(world, stage.DIRECT)
    with WireTap(world, mesh, namespaces=[stage.DIRECT], ring_megabytes=1) as tap:
        assert tap._process is not None
        os.kill(tap._process.pid, signal.SIGSTOP)
        with closing(world.socket(type=socket.SOCK_DGRAM)) as sender:
            for _ in range(3000):
                sender.sendto(bytes(1300), (target.ip, 9))
        os.kill(tap._process.pid, signal.SIGCONT)
        result = tap.stop()
    assert result.capture_dropped > 0
    assert gates(result)[0].verdict is Verdict.INCONCLUSIVE


def test_a_planted_caller_shows_up_with_evidence_in_the_bundle(
    staged: tuple[World, Mesh, WireTap], tmp_path: Path
) -> None:
    """Last of those that use this tap, since it stops it. Three intruders: plain HTTP, a first record header of TLS and
    no more, and honest TLS that shows no certificate."""
    world, _, tap = staged
    intruder = caller(world, stage.DIRECT)
    assert get(world, intruder, "reviews.bookinfo", "/reviews/0") == 0
    with closing(world.connect(("ratings.bookinfo", 9080), source=intruder)) as raw:
        raw.sendall(b"\x16\x03\x01\x00\x40" + b"not a hello at all, but readable " * 4)
        assert answer(raw) == b""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with closing(world.connect(("details.bookinfo", 9080), source=intruder)) as raw:
        assert answer(raw, context) == b""

    bundle = Bundle.create(tmp_path, "run")
    result = tap.stop(bundle)
    assert result.coverage < 1.0
    assert {(flow.source.split("-")[0], flow.kind) for flow in result.uncovered} >= {
        ("direct/client", "http"),
        ("direct/client", "plaintext"),
    }
    verdict = gates(result)[0]
    assert verdict.verdict is Verdict.FAIL
    assert "direct/client" in verdict.reason

    replayed = FlowTable()
    for when, frame in read_pcap(bundle.root / CAPTURE_FILE):
        packet = parse(int.from_bytes(frame[12:14], "big"), frame[14:])
        assert packet is not None
        replayed.packet(packet, when, 1, True)
    assert {record.nature for record in replayed.records()} >= {"tls", "http"}
    with pytest.raises(CaptureError, match="not running"):
        tap.snapshot()


def test_the_tap_says_what_it_needs(staged: tuple[World, Mesh, WireTap]) -> None:
    world, mesh, _ = staged
    with WireTap(world, mesh) as tap:
        with pytest.raises(ValueError, match="namespaces"):
            tap.snapshot()
        assert tap._process is not None
        process = tap._process
        process.kill()
        process.wait()
        with pytest.raises(CaptureError, match=r"ended by itself|did not answer"):
            tap.snapshot([stage.MESHED])
