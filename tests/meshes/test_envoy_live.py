"""The reference mesh in a real world: pods, Envoy sidecars, our control plane, and traffic that must not notice.

One world for the module. Load is what a client pod's app would send: new connections, one request each, through its
sidecar, from inside its network namespace.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest
from cryptography import x509

from harness import stage
from harness.meshes.api import Mesh, MeshError
from harness.meshes.envoy import EnvoyMesh
from harness.substrate.api import PodInfo, World
from manifests import Document, InvalidManifests, load_text

pytestmark = pytest.mark.privileged

FLIPS = 1000

Live = tuple[World, Mesh]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with stage.opened("envoy") as (world, mesh):
        stage.deploy_bookinfo(world, mesh, twin=False)
        yield world, mesh


def pod(world: World, **labels: str) -> PodInfo:
    return world.pods("bookinfo", labels)[0]


def get(world: World, host: str, path: str, *, source: PodInfo, port: int = 9080) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.sock = world.connect((host, port), source=source)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Load:
    """Requests of the client pod, in threads, until it is left; every failure is kept."""

    def __init__(self, world: World, host: str, path: str, good: Callable[[bytes], bool]) -> None:
        self.world, self.host, self.path, self.good = world, host, path, good
        self.source = pod(world, app="client")
        self.sent = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status, body = get(self.world, self.host, self.path, source=self.source)
                failure = "" if status == 200 and self.good(body) else f"{status} {body[:200]!r}"
            except (OSError, http.client.HTTPException) as exc:
                failure = repr(exc)
            with self._lock:
                self.sent += 1
                if failure:
                    self.failed.append(f"{time.monotonic():.3f} {failure}")

    def until(self, sent: int, deadline: float = 20.0) -> None:
        """Go on until `sent` more requests were answered."""
        target, end = self.sent + sent, time.monotonic() + deadline
        while self.sent < target:
            assert time.monotonic() < end, f"only {self.sent} requests in {deadline} s"
            time.sleep(0.02)

    @contextmanager
    def running(self, threads: int = 3) -> Iterator[Load]:
        workers = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield self
        finally:
            self._stop.set()
            for worker in workers:
                worker.join(15)


def page(world: World) -> Load:
    return Load(world, "productpage", "/productpage", lambda body: b"Error fetching" not in body)


def reviews_to(version: str) -> list[Document]:
    return load_text(f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: bookinfo}}
spec:
  hosts: [reviews]
  http: [{{route: [{{destination: {{host: reviews, subset: {version}}}}}]}}]
""")


# --- it works


def test_the_page_goes_through_mutual_tls(live: Live) -> None:
    world, mesh = live
    status, body = get(world, "productpage", "/productpage", source=pod(world, app="client"))
    assert status == 200
    assert b"Error fetching" not in body
    product = pod(world, app="productpage")
    deadline = time.monotonic() + 5
    while not (served := [e for e in mesh.access_log("bookinfo", product.name) if e["direction"] == "inbound"]):
        assert time.monotonic() < deadline, "no access log entry"
        time.sleep(0.05)
    assert served[0]["peer_principal"] == "spiffe://cluster.local/ns/bookinfo/sa/client"
    assert "istio_requests_total" in mesh.metrics("bookinfo", product.name)


def test_plaintext_from_the_node_is_refused(live: Live) -> None:
    world, _ = live
    with world.connect((pod(world, app="productpage").ip, 9080)) as connection:
        connection.sendall(b"GET /productpage HTTP/1.1\r\nhost: productpage\r\n\r\n")
        connection.settimeout(5)
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_pod_can_call_itself_through_its_service(live: Live) -> None:
    world, _ = live
    assert get(world, "productpage", "/health", source=pod(world, app="productpage"))[0] == 200


def test_every_proxy_is_known_and_runs_what_it_was_sent(live: Live) -> None:
    world, mesh = live
    assert mesh.settled().complete
    proxies = {proxy.id: proxy for proxy in mesh.proxies()}
    assert set(proxies) == {f"{p.name}.bookinfo" for p in world.pods("bookinfo")}
    for proxy in proxies.values():
        assert set(proxy.acked) == {"CDS", "EDS", "LDS", "RDS", "SDS"}
        assert proxy.acked == proxy.sent
        assert proxy.nacked == {}


# --- changes


def test_a_thousand_flips_fail_no_request(live: Live) -> None:
    world, mesh = live
    load = Load(world, "reviews", "/reviews/0", lambda body: b"reviews" in body)
    with load.running():
        for flip in range(FLIPS):
            receipt = mesh.apply(reviews_to("v1" if flip % 2 else "v3"))
            assert receipt.complete, receipt
    mesh.delete(reviews_to("v1"))
    print(f"{FLIPS} flips, {load.sent} requests")
    assert load.failed == []
    assert load.sent > FLIPS


def test_a_route_is_in_force_when_apply_returns(live: Live) -> None:
    world, mesh = live
    client = pod(world, app="client")
    for version in ("v1", "v3", "v2", "v1"):
        mesh.apply(reviews_to(version))
        wrong, deadline = True, time.monotonic() + 5
        while wrong and time.monotonic() < deadline:
            answers = [msgspec.json.decode(get(world, "reviews", "/reviews/0", source=client)[1]) for _ in range(5)]
            wrong = any(version not in str(answer["podname"]) for answer in answers)
        assert not wrong, f"reviews {version} is not reached"
    mesh.delete(reviews_to("v1"))


def test_what_is_refused_changes_nothing(live: Live) -> None:
    _, mesh = live
    before = mesh.digest()
    with pytest.raises(InvalidManifests) as caught:
        mesh.apply(reviews_to("v9"))
    assert "v9" in str(caught.value)
    assert caught.value.errors[0].line == 7
    assert mesh.digest() == before


def test_applying_and_deleting_comes_back_to_the_same_digest(live: Live) -> None:
    _, mesh = live
    before = mesh.settled().digest
    assert mesh.apply(reviews_to("v3")).digest != before
    assert mesh.delete(reviews_to("v3")).digest == before


def test_a_mutant_breaks_every_proxy_and_is_gone_afterwards(live: Live) -> None:
    world, mesh = live
    before = mesh.digest()
    with mesh.mutant("inbound-takes-plaintext"):
        assert mesh.digest() != before
        with world.connect((pod(world, app="productpage").ip, 9080)) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert connection.recv(12).startswith(b"HTTP/1.")
    assert mesh.digest() == before
    with pytest.raises(MeshError, match="no-such-mutant"), mesh.mutant("no-such-mutant"):
        pass


# --- what traffic must not notice


def test_the_control_plane_is_killed_and_comes_back_and_no_request_fails(live: Live) -> None:
    world, mesh = live
    before = mesh.settled().digest
    load = page(world)
    with load.running():
        load.until(20)
        world.kill(mesh.control_namespace, world.pods(mesh.control_namespace)[0].name)
        load.until(20)
        after = mesh.settled(30)
        load.until(20)
    assert load.failed == []
    assert after.complete
    assert after.proxies == len(world.pods("bookinfo"))
    assert after.digest == before
    assert isinstance(mesh, EnvoyMesh)
    for status in mesh.control.get("/debug/proxy_status", list[dict[str, Any]]):
        pushed = {name: of["pushes"] for name, of in status["types"].items() if of["pushes"]}
        assert set(pushed) <= {"EDS", "SDS"}, f"{status['id']} was sent again what it has: {pushed}"


def test_every_certificate_is_replaced_under_load_and_no_request_fails(live: Live) -> None:
    world, mesh = live
    product = pod(world, app="productpage")
    load = page(world)
    serials = {_serial(world, product)}
    with load.running():
        for _ in range(5):
            mesh.rotate_certificates()
            load.until(10)
            serials.add(_serial(world, product))
    assert load.failed == []
    assert len(serials) == 6


def test_a_pod_that_ends_finishes_what_it_began(live: Live) -> None:
    world, mesh = live
    world.scale("bookinfo", "details-v1", 2)
    world.wait_ready(30)
    mesh.settled()
    load = page(world)
    with load.running():
        load.until(20)
        world.delete_pod("bookinfo", pod(world, app="details").name)
        world.wait_ready(30)
        load.until(20)
    world.scale("bookinfo", "details-v1", 1)
    assert load.failed == []


def _serial(world: World, target: PodInfo) -> str:
    """Serial number of the certificate the pod's proxy serves now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio"])
    with world.connect((target.ip, 9080)) as plain:
        plain.settimeout(5)
        with context.wrap_socket(plain, do_handshake_on_connect=False) as wrapped:
            with suppress(ssl.SSLError):  # it asks for our certificate, after it has shown its own
                wrapped.do_handshake()
            der = wrapped.getpeercert(binary_form=True)
    assert der is not None
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"
