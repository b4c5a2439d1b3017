"""A mesh under test, as the harness sees it: installed into a world, configured by manifests, asked over HTTP.

The harness treats its own mesh as it would a stranger's. An adapter is one folder, `harness/meshes/<name>/`, with
`Mesh` implemented in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from harness.substrate.api import World
from manifests import Document


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one change: which proxies run it, and how long that took."""

    digest: str
    """Config digest after the change: equal digests mean equal clusters, listeners and routes in every view. Endpoints
    and certificates are no part of it: a pod replaced by its like leaves it as it was."""
    proxies: int
    acked: int
    nacked: dict[str, str] = {}
    """Proxy id to the error it gave."""
    elapsed_ms: float = 0.0
    """From the change being accepted to the last ACK."""

    @property
    def complete(self) -> bool:
        return self.acked == self.proxies and not self.nacked


class CertificateAuthority(msgspec.Struct, frozen=True, kw_only=True):
    """The root the harness plugs into the mesh, so that it can also issue certificates the mesh must refuse
    (expired, wrong SAN, foreign). Paths of PEM files; the key is readable by root only."""

    certificate: str
    key: str
    trust_domain: str = "cluster.local"


class ProxyStatus(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    """`<pod>.<namespace>`"""
    connected: bool
    acked: dict[str, str] = {}
    """Type short name (CDS, EDS, LDS, RDS, SDS) to the version last ACKed."""
    sent: dict[str, str] = {}
    nacked: dict[str, str] = {}
    """Type short name to the proxy's last error_detail."""


class Mesh(Protocol):
    """One mesh, installed in one world."""

    name: str
    alpn: frozenset[str]
    """ALPN values by which the mesh's own TLS is known on the wire."""
    features: frozenset[str]
    """Feature names (as the checks declare them) that this mesh claims."""
    ca: CertificateAuthority
    control_namespace: str

    def install(self, world: World) -> None:
        """Control plane up and ready, injection on for namespaces labelled `istio-injection: enabled`."""

    def attach(self, world: World) -> None:
        """Join the mesh that another process installed into `world`: from now on as if it had been installed here."""

    def uninstall(self) -> None: ...

    def apply(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        """Create or update mesh configuration and wait until every proxy has answered. Raises
        `manifests.InvalidManifests` when the mesh refuses it (nothing has changed then), `MeshError` when not
        every proxy answered in time."""

    def delete(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt: ...

    def validate(self, documents: Iterable[Document]) -> None:
        """Raises `manifests.InvalidManifests` when the mesh would refuse it."""

    def digest(self) -> str:
        """Config digest now."""

    def proxies(self) -> list[ProxyStatus]: ...

    def settled(self, deadline: float = 10.0) -> Receipt:
        """Wait until every connected proxy has ACKed the present state."""

    def rotate_certificates(self, deadline: float = 10.0) -> None:
        """Have every workload certificate replaced now; returns when every proxy has its new one."""

    def mutant(self, name: str) -> AbstractContextManager[None]:
        """While entered, the named transformation of xDS resources in flight is active on every proxy."""

    def metrics(self, namespace: str, pod: str) -> str:
        """The proxy's Prometheus exposition text."""

    def access_log(self, namespace: str, pod: str) -> Iterator[dict[str, object]]:
        """The proxy's access log entries so far, oldest first."""

    def metadata(self) -> dict[str, str]:
        """Name, version, organisation, URL, data plane and its version: what a report says was tested."""


class MeshError(Exception):
    """The mesh did not do what was asked in time; the message says who did not, and what it said."""
