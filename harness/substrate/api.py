"""What a place to run pods offers, whichever it is: local network namespaces now, kind and any cluster later.

A *world* is one closed set of pods, Services and their network. Manifests are ordinary Kubernetes YAML. Nobody
above this line knows how a pod is made.
"""

from __future__ import annotations

import socket as sockets
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from manifests import Document

NODE = "node"
"""The place every veth ends: faults, captures and probes act from here. As a `source`, the node itself."""


class ContainerInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: Literal["waiting", "running", "paused", "terminated"]
    pid: int = 0
    """Host pid of the container's first process; 0 when not running."""
    restarts: int = 0
    ready: bool = False
    last_exit: str = ""
    """Why the last instance ended, such as `exit 1` or `signal 9`; empty when it never did."""


class PodInfo(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    name: str
    ip: str
    labels: dict[str, str]
    service_account: str
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    ready: bool
    containers: tuple[ContainerInfo, ...]
    interface: str = ""
    """Name of the pod's veth end in the node namespace; local substrate only."""
    netns: str = ""
    """Path that `setns` accepts to enter the pod's network namespace; local substrate only."""
    owner: str = ""
    """Name of the Deployment that made it; empty for a bare Pod."""

    @property
    def meshed(self) -> bool:
        """Whether a proxy container stands beside the app."""
        return any(container.name == "istio-proxy" for container in self.containers)


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    name: str
    cluster_ip: str
    """Empty for a headless Service."""
    ports: dict[int, int | str]
    """Service port to target port."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One container's consumption, from the kernel's own accounting: CPU of its control group (ended processes
    included), resident memory of the processes in it now, and the highest that was seen."""

    cpu_seconds: float
    rss_bytes: int
    peak_rss_bytes: int
    throttled_periods: int = 0


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A mutating admission hook: each new pod of a matching namespace is POSTed to it as a Kubernetes Pod in JSON,
    and what it answers is what runs. It must answer before the pod is created (failurePolicy: Fail)."""

    name: str
    socket: str
    """Path of the Unix socket that serves it over HTTP."""
    path: str = "/inject"
    namespace_selector: dict[str, str] = msgspec.field(default_factory=lambda: {"istio-injection": "enabled"})
    timeout_seconds: float = 10.0


class World(Protocol):
    """A running world. All calls block until done or raise `SubstrateError`; deadlines are in seconds."""

    @property
    def name(self) -> str: ...

    @property
    def state_dir(self) -> Path:
        """Private to this world, removed with it. Holds `cluster/` (every object with its status, one JSON file each,
        named `<Kind>.<namespace>.<name>.json` and replaced atomically: what a control plane watches),
        `issuer/jwks.json` (public keys of service-account tokens) and `logs/`."""

    def apply(self, documents: Iterable[Document]) -> None:
        """Create or update core Kubernetes objects. Raises `manifests.InvalidManifests` before anything changes."""

    def delete(self, kind: str, namespace: str, name: str) -> None: ...

    def wait_ready(self, deadline: float = 30.0, namespace: str | None = None) -> None:
        """Until every wanted replica is ready; `SubstrateError` names the pods that are not, and their last log
        lines."""

    def pods(self, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[PodInfo]: ...

    def pod(self, namespace: str, name: str) -> PodInfo: ...

    def services(self, namespace: str | None = None) -> list[ServiceInfo]: ...

    def add_webhook(self, webhook: Webhook) -> None: ...

    def scale(self, namespace: str, deployment: str, replicas: int) -> None: ...

    def delete_pod(self, namespace: str, name: str) -> None:
        """Graceful: SIGTERM, then SIGKILL after the grace period. A Deployment replaces it."""

    def restart(self, namespace: str, pod: str, container: str) -> None:
        """Graceful restart of one container in place: same pod, same IP."""

    def kill(self, namespace: str, pod: str, container: str | None = None) -> None:
        """SIGKILL one container (or all of the pod); it is restarted with back-off, as after any crash."""

    def pause(self, namespace: str, pod: str, container: str | None = None) -> None:
        """Freeze: sockets stay open, nothing answers."""

    def resume(self, namespace: str, pod: str, container: str | None = None) -> None: ...

    def logs(self, namespace: str, pod: str, container: str) -> str: ...

    def usage(self, namespace: str, pod: str) -> dict[str, Usage]:
        """Container name to consumption since the container's pod began, restarts included."""

    def popen(self, argv: Sequence[str], *, source: PodInfo | str = NODE, **kwargs: object) -> subprocess.Popen[bytes]:
        """Start a program of the harness inside the network namespace of the node or of a pod. It dies with the
        world."""

    def socket(
        self,
        source: PodInfo | str = NODE,
        family: int = sockets.AF_INET,
        type: int = sockets.SOCK_STREAM,
        proto: int = 0,
        *,
        uid: int | None = None,
    ) -> sockets.socket:
        """A socket of this process that lives in the network namespace of the node or of a pod (a socket belongs
        to the namespace it was made in, whatever its process does later).

        `uid` owns it, in place of this process's: a sidecar's interception lets packets of its proxy's uid pass and
        sends all others through the proxy. Raises `SubstrateError` when the pod is gone."""

    def connect(
        self, address: tuple[str, int], *, source: PodInfo | str = NODE, timeout: float = 5.0
    ) -> sockets.socket:
        """A connected TCP socket as `socket` makes them; the host may be an IP or a Service name."""

    def resolve(self, host: str, namespace: str = "default") -> str:
        """The IP that `host` has for pods of `namespace`."""

    def rejected(self) -> int:
        """Packets of pods that were addressed outside the world and refused, so far."""

    def down(self) -> None:
        """Stop and remove everything. Idempotent."""


class SubstrateError(Exception):
    """The world could not do what was asked; the message says what was tried, what was seen, and what to do."""
