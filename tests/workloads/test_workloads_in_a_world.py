"""The manifests on the local substrate, without a mesh: Service names, stars, the fleet and its control API."""

from __future__ import annotations

import http.client
import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from harness.substrate.api import PodInfo, World
from harness.substrate.local import LocalWorld
from harness.workloads import manifests
from harness.workloads.echo import client
from harness.workloads.echo.protocol import HTTP_PORT, Protocol
from harness.workloads.manifests import EchoApp

pytestmark = pytest.mark.privileged

FLEET: dict[Protocol, tuple[int, str]] = {
    "http1": (8080, "/"),
    "http2": (8081, "/"),
    "grpc": (7070, "/"),
    "grpc-stream": (7070, "/"),
    "tcp": (9000, ""),
    "tcp-server-first": (9001, ""),
    "websocket": (8080, "/ws"),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with LocalWorld.create(f"workloads-{os.getpid()}", attached=True) as one:
        one.apply(manifests.bookinfo("direct", injected=False, env={"PROFILE_OFF": "1"}))
        apps = [EchoApp(name="client"), EchoApp(name="server", versions=("v1", "v2"))]
        one.apply(manifests.echo_fleet("fleet", injected=False, apps=apps))
        one.wait_ready(60)
        yield one


def get(world: World, pod: PodInfo, host: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, 9080, timeout=20)
    connection.sock = world.connect((host, 9080), source=pod)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_the_page_is_read_by_service_name_and_shows_every_version(world: World) -> None:
    [caller] = world.pods("direct", {"app": "client"})
    seen: Counter[str] = Counter()
    for _ in range(60):
        # A kept connection stays with one instance where no mesh balances requests, so ask reviews itself.
        status, text = get(world, caller, "reviews", "/reviews/0")
        assert status == 200
        version = re.search(r'"version":"(v\d)"', text)
        assert version is not None
        seen[version[1]] += 1
        assert ("stars" in text) == (version[1] != "v1")
    assert set(seen) == {"v1", "v2", "v3"}
    for name in ("productpage", "productpage.direct", "productpage.direct.svc.cluster.local"):
        status, page = get(world, caller, name, "/productpage")
        assert (status, "unavailable" in page) == (200, False)
        served = re.search(r'id="reviews-instance">([^<]+)<', page)
        assert served is not None
        assert served[1] in {pod.name for pod in world.pods("direct", {"app": "reviews"})}


def test_service_accounts_and_labels_are_istios(world: World) -> None:
    accounts = {pod.labels["app"]: pod.service_account for pod in world.pods("direct")}
    assert accounts == {
        **{app: f"bookinfo-{app}" for app in ("productpage", "details", "reviews", "ratings")},
        "client": "client",
    }
    assert {p.labels["version"] for p in world.pods("direct", {"app": "reviews"})} == {"v1", "v2", "v3"}


@pytest.mark.parametrize("protocol", FLEET)
def test_the_fleet_speaks_every_protocol_between_pods(world: World, protocol: Protocol) -> None:
    [caller] = world.pods("fleet", {"app": "client"})
    port, path = FLEET[protocol]
    scheme = "tcp" if protocol.startswith("tcp") else "http"
    results = client.call(
        world, caller, f"{scheme}://server:{port}{path}", protocol=protocol, body=b"x", count=4, new_connection=True
    ).results
    assert [(r.error, r.detail) for r in results] == [("", "")] * 4
    pods = {pod.name: pod for pod in world.pods("fleet", {"app": "server"})}
    for result in results:
        assert result.echo is not None
        heard = result.echo
        assert heard.peer[0] == caller.ip
        assert heard.instance.namespace == "fleet"
        assert heard.instance.service_account == "server"
        assert pods[heard.instance.pod].labels["version"] == heard.instance.version


def test_what_each_instance_received_is_known(world: World) -> None:
    [caller] = world.pods("fleet", {"app": "client"})
    servers = world.pods("fleet", {"app": "server"})
    for pod in servers:
        client.reset(world, pod)
    client.call(world, caller, f"http://server-v2:{HTTP_PORT}/", count=7, headers=[("x-echo-token", "t")])
    assert {p.labels["version"]: client.attempts(world, p, "t") for p in servers} == {"v1": 0, "v2": 7}
    assert {p.labels["version"]: client.counts(world, p).requests for p in servers} == {"v1": 0, "v2": 7}


def test_the_control_api_is_out_of_reach_of_other_pods(world: World) -> None:
    [caller] = world.pods("fleet", {"app": "client"})
    [server] = world.pods("fleet", {"app": "server", "version": "v1"})
    assert client.call(world, caller, f"http://{server.ip}:8089/counts").results[0].error == "connect"


def test_a_bare_client_pod(world: World) -> None:
    world.apply([manifests.client_pod("fleet", "lonely", labels={"role": "stranger"})])
    world.wait_ready(30, "fleet")
    pod = world.pod("fleet", "lonely")
    assert pod.labels == {"app": "lonely", "version": "v1", "role": "stranger"}
    assert client.call(world, pod, f"http://server:{HTTP_PORT}/").results[0].status == 200


def test_a_pod_that_is_told_to_stop_fails_no_request(world: World) -> None:
    """Its replacement is ready first; then requests in progress end well and new ones go elsewhere."""
    [caller] = world.pods("fleet", {"app": "client"})
    world.scale("fleet", "server-v1", 2)
    world.wait_ready(30, "fleet")
    victim = world.pods("fleet", {"app": "server", "version": "v1"})[0]
    headers = [("x-echo-delay", "20")]
    url = f"http://server-v1:{HTTP_PORT}/"
    with client.start(
        world, caller, url, count=10_000, rate=100.0, concurrency=8, headers=headers, new_connection=True
    ) as load:
        world.delete_pod("fleet", victim.name)
        world.wait_ready(30, "fleet")
    results = load.join().results
    assert len(results) > 10
    assert Counter(r.error or r.status for r in results) == {200: len(results)}
