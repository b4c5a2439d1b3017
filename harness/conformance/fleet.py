"""The echo fleet the checks work with, in namespaces of their own.

====================  =====================  ==========================================================
pod                   namespace              what it is
====================  =====================  ==========================================================
client                `<ns>`                 meshed, ServiceAccount `client`
stranger              `<ns>-other`           meshed, ServiceAccount `stranger`: another identity and namespace
outside               `<ns>-outside`         not meshed: what a caller without the mesh can do
server (v1, v2, v3)   `<ns>`                 meshed, ServiceAccount `server`; Services `server`, `server-v1` ...
====================  =====================  ==========================================================
"""

from __future__ import annotations

import secrets
from typing import Any

from harness.substrate.api import PodInfo, World
from harness.workloads import manifests
from harness.workloads.echo import client as echo
from harness.workloads.echo.protocol import (
    AUTO_PORT,
    GRPC_PORT,
    GRPC_UNARY,
    HTTP2_PORT,
    HTTP_PORT,
    TCP_PORT,
    TCP_SERVER_PORT,
    CallResult,
)
from harness.workloads.manifests import EchoApp
from manifests import Document

NAMESPACE = "conformance"
VERSIONS = ("v1", "v2", "v3")

DEFAULT_PORTS = {
    "http1": HTTP_PORT,
    "http2": HTTP2_PORT,
    "grpc": GRPC_PORT,
    "grpc-stream": GRPC_PORT,
    "tcp": TCP_PORT,
    "tcp-server-first": TCP_SERVER_PORT,
    "websocket": HTTP_PORT,
    "auto": AUTO_PORT,
}


class Fleet:
    """A running fleet; names pods by role."""

    def __init__(self, world: World, namespace: str = NAMESPACE) -> None:
        self.world = world
        self.namespace = namespace
        self.namespaces = (namespace, f"{namespace}-other", f"{namespace}-outside")

    def pod(self, role: str, version: str = "") -> PodInfo:
        """The pod of `role` (client, stranger, outside, server) as it is now."""
        namespace = {"stranger": self.namespaces[1], "outside": self.namespaces[2]}.get(role, self.namespace)
        labels = {"app": role} | ({"version": version} if version else {})
        found = self.world.pods(namespace, labels)
        if not found:
            raise LookupError(f"no pod with labels {labels} in namespace {namespace}")
        return found[0]

    def servers(self) -> dict[str, PodInfo]:
        """Version to pod."""
        return {version: self.pod("server", version) for version in VERSIONS}

    def host(self, service: str) -> str:
        """The fully qualified name of a Service of the fleet."""
        return service if "." in service else f"{service}.{self.namespace}.svc.cluster.local"

    def url(self, to: str, path: str = "/", port: int | None = None, protocol: str = "http1") -> str:
        scheme = "tcp" if protocol.startswith("tcp") else "http"
        number = port or DEFAULT_PORTS[protocol]
        if protocol.startswith("grpc"):
            path = GRPC_UNARY if path == "/" else path
        return f"{scheme}://{self.host(to)}:{number}" + ("" if scheme == "tcp" else path)

    def call(
        self,
        client: str,
        to: str,
        path: str = "/",
        *,
        port: int | None = None,
        protocol: str = "http1",
        instruct: dict[str, Any] | None = None,
        headers: list[tuple[str, str]] | None = None,
        **how: Any,
    ) -> list[CallResult]:
        """Have the app in pod `client` call; `instruct` are the `x-echo-*` instructions for the server."""
        pairs = [*(headers or []), *_told(instruct or {})]
        url = self.url(to, path, port, protocol)
        return echo.call(self.world, self.pod(client), url, protocol=protocol, headers=pairs, **how).results

    def background(
        self, client: str, to: str, path: str = "/", *, instruct: dict[str, Any] | None = None, **how: Any
    ) -> echo.Background:
        """Begin a call and return at once."""
        return echo.start(self.world, self.pod(client), self.url(to, path), headers=_told(instruct or {}), **how)

    def attempts(self, token: str) -> dict[str, int]:
        """How many requests with `token` each version of the server received."""
        return {version: echo.attempts(self.world, pod, token) for version, pod in self.servers().items()}


def _told(instruct: dict[str, Any]) -> list[tuple[str, str]]:
    """Instructions to the server, as the headers that carry them."""
    return [(f"x-echo-{name}", str(value)) for name, value in instruct.items()]


def token() -> str:
    """A fresh name for a request, to find it again at the server."""
    return f"t-{secrets.token_hex(6)}"


def documents(namespace: str = NAMESPACE, *, injected: bool = True) -> list[Document]:
    """The fleet's manifests."""
    return [
        *manifests.echo_fleet(
            namespace, injected=injected, apps=[EchoApp(name="client"), EchoApp(name="server", versions=VERSIONS)]
        ),
        *manifests.echo_fleet(f"{namespace}-other", injected=injected, apps=[EchoApp(name="stranger")]),
        *manifests.echo_fleet(f"{namespace}-outside", injected=False, apps=[EchoApp(name="outside")]),
    ]


def deploy(world: World, namespace: str = NAMESPACE, *, injected: bool = True) -> Fleet:
    """The fleet, ready."""
    world.apply(documents(namespace, injected=injected))
    world.wait_ready(60.0)
    return Fleet(world, namespace)
