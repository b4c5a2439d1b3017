"""The reference mesh: our control plane, and stock Envoy as every pod's proxy.

Installed through manifests, driven through the control plane's admin socket and each proxy's own ports. Nothing of
the mesh's code is imported: the adapter knows it as it would know a stranger's.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from harness.meshes.api import CertificateAuthority, MeshError, ProxyStatus, Receipt
from harness.meshes.envoy import authority, binary
from harness.meshes.envoy.control import ControlClient, Unreachable, submission
from harness.meshes.envoy.deployment import DEPLOYMENT, NAMESPACE, Layout, objects
from harness.substrate.api import Webhook, World
from manifests import Document

PROXY = "istio-proxy"
PROMETHEUS_PORT = 15090
ADMIN_PORT = 15000
PATCHES = "harness.conformance.mutants"
"""Module whose `MUTANTS` the control plane can apply to resources in flight."""

READY_SECONDS = 30.0

FEATURES = frozenset(
    {
        "AuthorizationPolicy",
        "ControlPlane",
        "DestinationRule",
        "HTTPRoute",
        "Identity",
        "Mesh",
        "PeerAuthentication",
        "RequestAuthentication",
        "Telemetry",
        "VirtualService",
    }
)


class _Digest(msgspec.Struct, frozen=True):
    digest: str


class EnvoyMesh:
    name = "envoy"
    alpn = frozenset({"istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"})
    features = FEATURES
    control_namespace = NAMESPACE

    def __init__(self, flags: Mapping[str, str] | None = None) -> None:
        """`flags` are more of the control plane's own, such as `{"svid-ttl": "20"}`."""
        self._flags = dict(flags or {})
        self._world: World | None = None
        self._ca: CertificateAuthority | None = None

    # === life ===

    def install(self, world: World) -> None:
        envoy = binary.binary()
        layout = Layout(world.state_dir)
        layout.make()
        self._ca = authority.create(layout.ca)
        self._world = world
        world.apply(objects(layout, envoy, {"patches": PATCHES} | self._flags))
        world.wait_ready(READY_SECONDS, NAMESPACE)
        self.control.wait_ready(READY_SECONDS)
        world.add_webhook(Webhook(name="meshproof-injector", socket=str(layout.socket)))

    def attach(self, world: World) -> None:
        layout = Layout(world.state_dir)
        if not layout.ca.is_dir():
            raise MeshError(f"mesh {self.name} is not installed in world {world.name}: there is no {layout.ca}")
        self._world = world
        self._ca = authority.create(layout.ca)

    def uninstall(self) -> None:
        """The control plane goes; proxies of pods that run keep what they have."""
        for kind, name in (("Deployment", DEPLOYMENT), ("Service", "control-plane"), ("ServiceAccount", DEPLOYMENT)):
            self.world.delete(kind, NAMESPACE, name)

    @property
    def world(self) -> World:
        if self._world is None:
            raise MeshError(f"mesh {self.name} is not installed: call install(world) or attach(world) first")
        return self._world

    @property
    def ca(self) -> CertificateAuthority:
        if self._ca is None:
            raise MeshError(f"mesh {self.name} is not installed: call install(world) or attach(world) first")
        return self._ca

    @property
    def control(self) -> ControlClient:
        """The control plane's admin interface."""
        return ControlClient(Layout(self.world.state_dir).socket)

    # === configuration ===

    def apply(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        return self._change("/apply", documents, deadline)

    def delete(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        return self._change("/delete", documents, deadline)

    def validate(self, documents: Iterable[Document]) -> None:
        self.control.post("/validate", dict, {"documents": submission(documents)})

    def digest(self) -> str:
        return self.control.get("/digest", _Digest).digest

    def proxies(self) -> list[ProxyStatus]:
        return self.control.get("/proxies", list[ProxyStatus])

    def settled(self, deadline: float = 10.0) -> Receipt:
        end = time.monotonic() + deadline
        while True:
            left = max(0.1, end - time.monotonic())
            try:
                return self.control.get("/settled", Receipt, deadline=left)
            except Unreachable:
                # It is being restarted; until the deadline it may come back.
                if time.monotonic() >= end:
                    raise
                time.sleep(0.05)

    def rotate_certificates(self, deadline: float = 10.0) -> None:
        self.control.post("/rotate", Receipt, deadline=deadline)

    @contextlib.contextmanager
    def mutant(self, name: str) -> Iterator[None]:
        try:
            self.control.put("/mutant", Receipt, {"name": name})
            yield
        finally:
            self.control.delete("/mutant", Receipt)

    def _change(self, path: str, documents: Iterable[Document], deadline: float) -> Receipt:
        body = {"documents": submission(documents), "wait": True, "deadline": deadline}
        return self.control.post(path, Receipt, body, deadline=deadline)

    # === proxies ===

    def metrics(self, namespace: str, pod: str) -> str:
        return self._ask(namespace, pod, PROMETHEUS_PORT, "/stats/prometheus").decode()

    def admin(self, namespace: str, pod: str, path: str) -> bytes:
        """GET `path` of the proxy's own admin interface."""
        return self._ask(namespace, pod, ADMIN_PORT, path)

    def access_log(self, namespace: str, pod: str) -> Iterator[dict[str, object]]:
        for line in self.world.logs(namespace, pod, PROXY).splitlines():
            if not line.startswith("{"):
                continue  # Envoy's own messages
            try:
                entry: dict[str, object] = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                continue  # being written
            yield entry

    def _ask(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        """GET from inside the pod, where the proxy's own ports are."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
        try:
            connection.sock = self.world.connect(("127.0.0.1", port), source=self.world.pod(namespace, pod))
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise MeshError(f"proxy of {namespace}/{pod}: GET :{port}{path}: {exc or type(exc).__name__}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise MeshError(f"proxy of {namespace}/{pod}: GET :{port}{path}: status {response.status}")
        return body

    def metadata(self) -> dict[str, str]:
        try:
            version = importlib.metadata.version("meshproof")
        except importlib.metadata.PackageNotFoundError:
            version = "0"
        return {
            "name": "meshproof reference mesh",
            "version": version,
            "organisation": "meshproof",
            "url": "https://www.envoyproxy.io",
            "data_plane": "Envoy",
            "data_plane_version": binary.version(),
        }
