"""Two captured pods with a real Envoy each: `client`, and a server pod that stands for several by its addresses."""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from compile_envoy import Authority, Envoy
from compile_pods import Pod, pair
from compile_world import World

from mesh.registry.types import Port
from mesh.settings import MeshSettings

CLIENT = "10.244.0.2"
SERVERS = {"echo-v1": ("10.244.0.3", "v1"), "echo-v2": ("10.244.0.4", "v2")}
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


def fleet() -> World:
    world = World()
    world.pod("client", CLIENT, {"app": "client", "version": "v1"})
    for name, (address, version) in SERVERS.items():
        world.pod(name, address, {"app": "echo", "version": version})
    world.service(
        "echo",
        Port(number=80, name="http", protocol="http", target=8080),
        Port(number=8080, name="http-alt", protocol="http", target=8080),
        Port(number=9000, name="tcp", protocol="tcp", target=9000),
        Port(number=7000, name="undeclared", protocol="auto", target=8080),
        Port(number=7001, name="undeclared-tcp", protocol="auto", target=9001),
    )
    return world


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def seen(self) -> Any:
        """What the app received."""
        return json.loads(self.body)

    @property
    def received(self) -> dict[str, str]:
        return dict(self.seen["headers"])


class Mesh:
    """The two pods and their Envoys."""

    def __init__(self, folder: Path, client: Pod, server: Pod, authority: Authority) -> None:
        self.client = client
        self.server = server
        self.authority = authority
        self.world = fleet()
        self.logs = {"client": folder / "client.log", "server": folder / "server.log"}
        self._settings = {name: MeshSettings(access_log_path=str(path)) for name, path in self.logs.items()}
        self.envoys = {
            "client": self._envoy(folder / "client", client, "client", "client"),
            "server": self._envoy(folder / "server", server, "server", "echo-v1"),
        }

    def _envoy(self, folder: Path, pod: Pod, name: str, workload: str) -> Envoy:
        account = self.world.view(workload).service_account
        return Envoy(
            folder,
            self._compile(name, workload, STRICT),
            certificate=self.authority.issue(f"spiffe://cluster.local/ns/bookinfo/sa/{account}"),
            roots=self.authority.pem,
            prefix=pod.as_proxy(),
            call=pod.call,
        )

    def _compile(self, name: str, workload: str, config: str) -> Any:
        view = self.world.view(workload)
        return self.world.compile_for(view, config, self._settings[name])

    def apply(self, config: str = "", base: str = STRICT) -> None:
        text = f"{base}\n---\n{config}" if config else base
        self.envoys["client"].apply(self._compile("client", "client", text))
        self.envoys["server"].apply(self._compile("server", "echo-v1", text))

    def service_ip(self) -> str:
        return self.world.registry.services["echo.bookinfo.svc.cluster.local"].addresses[0]

    def get(
        self, path: str = "/", headers: dict[str, str] | None = None, port: int = 80, method: str = "GET"
    ) -> Answer:
        host = "echo" if port == 80 else f"echo:{port}"
        return self.client.call(_request, self.service_ip(), port, method, path, {"host": host, **(headers or {})})

    def connection(self) -> http.client.HTTPConnection:
        """A kept-alive connection of the client's app."""
        return self.client.call(_connect, self.service_ip(), 80)

    def count(self, path: str) -> int:
        """How often the app was asked for `path` so far."""
        return int(self.server.call(_request, "127.0.0.1", 8080, "GET", "/count", {}).seen.get(path, 0))


def entry(mesh: Mesh, side: str, wanted: Callable[[dict[str, Any]], bool], deadline: float = 5.0) -> dict[str, Any]:
    """The newest access log entry that `wanted` accepts."""
    end = time.monotonic() + deadline
    while True:
        entries = [json.loads(line) for line in mesh.logs[side].read_text().splitlines() if line.endswith("}")]
        for found in reversed(entries):
            if wanted(found):
                return found
        assert time.monotonic() < end, f"no such entry in the {side} log"
        time.sleep(0.02)


def _connect(host: str, port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(host, port, timeout=15)
    connection.connect()
    return connection


def ask(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> Answer:
    connection.putrequest(method, path, skip_host="host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read().decode()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def _request(host: str, port: int, method: str, path: str, headers: dict[str, str]) -> Answer:
    connection = _connect(host, port)
    try:
        return ask(connection, method, path, headers)
    finally:
        connection.close()


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def running(authority: Authority) -> Iterator[Mesh]:
    # Not pytest's folder: every run of pytest closes that to other users, and the proxy is one.
    with tempfile.TemporaryDirectory(prefix="envoys-of-tests-") as name, pair(CLIENT, "10.244.0.3") as (client, server):
        folder = Path(name)
        folder.chmod(0o777)
        server.run("ip", "address", "add", "10.244.0.4/24", "dev", server.device)
        client.capture()
        server.capture()
        server.python((Path(__file__).parent / "compile_app.py").read_text(), "8080", "9000,9001")
        mesh = Mesh(folder, client, server, authority)
        try:
            for envoy in mesh.envoys.values():
                envoy.start()
            yield mesh
        finally:
            for envoy in mesh.envoys.values():
                envoy.stop()


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The running pods with STRICT mTLS and nothing else; what a test applies is gone after it."""
    yield running
    running.apply()
    for name, envoy in running.envoys.items():
        assert envoy.complaints() == [], name
