"""Packets and names of a world: Service addresses, the wall around it, and that worlds do not touch."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from manifest import deployment, documents, namespace, pod, server, service
from talk import eventually, get

from harness.substrate.api import NODE, PodInfo, SubstrateError
from harness.substrate.local import LocalWorld

pytestmark = pytest.mark.privileged

NONE_READY = "none"


@pytest.fixture(scope="module")
def shop(world: LocalWorld) -> str:
    """Two replicas of `web`, a client, a Service without pods and a headless one."""
    world.apply(
        documents(
            namespace("shop"),
            service("web", "shop"),
            service("alone", "shop"),
            service(NONE_READY, "shop"),
            {**service("flat", "shop", port=8080), "spec": {"clusterIP": "None", "selector": {"app": "web"}}},
            deployment("web", "shop", server(), replicas=2),
            pod("alone", "shop", server()),
            pod("client", "shop", server()),
        )
    )
    world.wait_ready(30)
    return "shop"


@pytest.fixture
def client(world: LocalWorld, shop: str) -> PodInfo:
    return world.pod(shop, "client")


def test_service_address_reaches_every_replica(world: LocalWorld, client: PodInfo) -> None:
    replicas = {one.name for one in world.pods("shop", {"app": "web"})}
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.add(get(world, "web", source=client)["pod"])
        return seen == replicas

    eventually(all_seen, what=f"answers of {replicas}")


def test_pod_sees_who_really_calls(world: LocalWorld, client: PodInfo) -> None:
    assert get(world, "web", source=client)["peer"] == client.ip
    assert get(world, "web.shop")["peer"] == world.node_ip


@pytest.mark.parametrize("name", ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"])
def test_every_name_of_a_service_inside_a_pod(world: LocalWorld, client: PodInfo, name: str) -> None:
    script = f"import socket; print(socket.gethostbyname({name!r}), end='')"
    assert lookup(client, script) == next(s.cluster_ip for s in world.services("shop") if s.name == "web")
    assert world.resolve(name, "shop") == lookup(client, script)


def test_short_name_means_nothing_in_another_namespace(world: LocalWorld, shop: str) -> None:
    assert world.resolve("web.shop", "default")
    with pytest.raises(SubstrateError, match=r"did you mean web\.shop"):
        world.resolve("web", "default")


def test_headless_service_resolves_to_its_pods(world: LocalWorld, client: PodInfo) -> None:
    script = "import socket; print(*sorted(a[4][0] for a in socket.getaddrinfo('flat', 8080, type=socket.SOCK_STREAM)))"
    addresses = sorted(one.ip for one in world.pods("shop", {"app": "web"}))
    assert lookup(client, script).split() == addresses


def test_unknown_name_fails_at_once(client: PodInfo) -> None:
    script = (
        "import socket, time; t = time.monotonic()\n"
        "try: socket.gethostbyname('nobody.example.com')\n"
        "except OSError: print(time.monotonic() - t < 2)"
    )
    assert lookup(client, script).strip() == "True"


def lookup(inside: PodInfo, script: str) -> str:
    """Output of a Python script that sees the files and names of the pod."""
    pid = inside.containers[0].pid
    argv = ["nsenter", f"--target={pid}", "--mount", "--net", "--", sys.executable, "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout


def test_pod_reaches_itself_through_its_service(world: LocalWorld, shop: str) -> None:
    alone = world.pod(shop, "alone")
    for _ in range(5):
        assert get(world, "alone", source=alone)["pod"] == "alone"


@pytest.mark.parametrize(
    ("address", "outside"),
    [("192.0.2.7", True), ("8.8.8.8", True), ("169.254.169.254", True), ("10.244.77.7", False), ("10.96.77.7", False)],
)
def test_world_is_closed(world: LocalWorld, client: PodInfo, address: str, outside: bool) -> None:
    before = world.rejected()
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        world.connect((address, 80), source=client)
    assert time.monotonic() - began < 3
    assert (world.rejected() > before) == outside


def test_datagrams_are_refused_and_counted(world: LocalWorld, client: PodInfo) -> None:
    before = world.rejected()
    with world.socket(client, type=socket.SOCK_DGRAM) as sender:
        sender.connect(("192.0.2.9", 53))
        sender.send(b"who?")
        sender.settimeout(5)
        with pytest.raises(OSError, match=r"(?i)refused|unreachable|host|permission"):
            sender.recv(100)
    assert world.rejected() == before + 1


@pytest.mark.parametrize("place", ["pod", NODE])
def test_service_without_endpoints_refuses(world: LocalWorld, client: PodInfo, place: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        world.connect((f"{NONE_READY}.shop", 80), source=client if place == "pod" else NODE)


def test_port_that_a_service_does_not_have_refuses(world: LocalWorld, client: PodInfo) -> None:
    with pytest.raises(ConnectionRefusedError):
        world.connect(("web", 81), source=client)


def test_established_connection_survives_other_endpoints_coming(world: LocalWorld, client: PodInfo) -> None:
    conn = http.client.HTTPConnection("alone")
    conn.sock = world.connect(("alone", 80), source=client)
    with contextlib.closing(conn):
        for replicas in (3, 2):
            conn.request("GET", "/")
            answer = conn.getresponse()
            assert (answer.status, json.loads(answer.read())["pod"]) == (200, "alone")
            world.scale("shop", "web", replicas)
            world.wait_ready(30)
        conn.request("GET", "/")
        assert conn.getresponse().status == 200


def test_deleted_pod_is_refused_and_no_longer_asked(world: LocalWorld, client: PodInfo) -> None:
    world.wait_ready(30)
    victim = next(one for one in world.pods("shop", {"app": "web"}) if one.ready)
    world.delete_pod("shop", victim.name)
    with pytest.raises(ConnectionRefusedError):
        world.connect((victim.ip, 8080), source=client)
    for _ in range(10):
        assert get(world, "web", source=client)["pod"] != victim.name
    world.wait_ready(30)
    assert victim.ip not in {one.ip for one in world.pods("shop")}


def test_stale_pod_leads_nowhere(world: LocalWorld, shop: str) -> None:
    """A namespace's name is never given to another pod."""
    world.apply(documents(pod("brief", shop, server())))
    world.wait_ready(30)
    stale = world.pod(shop, "brief")
    world.delete_pod(shop, "brief")
    world.apply(documents(pod("next", shop, server())))
    world.wait_ready(30)
    with pytest.raises(SubstrateError, match="gone"):
        world.socket(stale)
    with pytest.raises(SubstrateError, match="gone"):
        world.popen(["true"], source=stale)
    world.delete_pod(shop, "next")


def test_rules_of_others_stay(world: LocalWorld, client: PodInfo) -> None:
    """A fault's redirect on the node is not washed away by the next change of endpoints."""
    rule = [
        "-d",
        "10.96.200.200",
        "-p",
        "tcp",
        "-j",
        "DNAT",
        "--to-destination",
        f"{world.pod('shop', 'alone').ip}:8080",
    ]
    assert world.popen(["iptables", "-t", "nat", "-I", "PREROUTING", *rule]).wait(20) == 0
    world.scale("shop", "web", 1)
    world.wait_ready(30)
    assert get(world, "10.96.200.200", source=client)["pod"] == "alone"
    assert world.popen(["iptables", "-t", "nat", "-D", "PREROUTING", *rule]).wait(20) == 0
    world.scale("shop", "web", 2)
    world.wait_ready(30)


def test_popen_dies_with_nothing_else_and_sees_the_world(world: LocalWorld, client: PodInfo) -> None:
    program = world.popen(
        ["python3", "-c", "import urllib.request as u; print(u.urlopen('http://web.shop/').status)"],
        source=client,
        stdout=-1,
    )
    output, _ = program.communicate(timeout=20)
    assert (program.returncode, output) == (0, b"200\n")


@contextlib.contextmanager
def second(new_name: Callable[[], str]) -> Iterator[LocalWorld]:
    with LocalWorld.create(new_name(), attached=True) as made:
        yield made


def test_two_worlds_do_not_touch(world: LocalWorld, shop: str, new_name: Callable[[], str]) -> None:
    """Same addresses, other pods: each world has its own node."""
    with second(new_name) as other:
        other.apply(documents(namespace("shop"), service("web", "shop"), pod("web", "shop", server())))
        other.wait_ready(30)
        assert other.resolve("web.shop") == world.resolve("web.shop")
        assert get(other, "web.shop")["pod"] == "web"
        assert get(world, "web.shop")["pod"] != "web"
        assert set(LocalWorld.list()) >= {world.name, other.name}
    assert other.name not in LocalWorld.list()
    assert get(world, "web.shop")["status"] == 200
