"""The control plane put together: sources in, streams out. Wiring only; every rule is in the module it belongs to.

What is read (configuration folder, cluster folder) is complete before the first proxy is answered: a control plane that
has not read the world yet would serve an empty one. Nothing else is kept between runs but the root key, so a restart
compiles the same bytes under the same versions, and a proxy that comes back is sent nothing it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from manifests import Document, ManifestError
from mesh.admin.api import AdminApi, MonitoringApi
from mesh.admin.metrics import Metrics
from mesh.admin.patches import Patches
from mesh.compile import Compiler
from mesh.config.source import FileSource
from mesh.identity.ca import CertificateAuthority
from mesh.identity.svids import Svids
from mesh.identity.tokens import AUDIENCE, Identity, TokenVerifier
from mesh.inject.bootstrap import BootstrapSettings
from mesh.inject.webhook import InjectSettings, inject
from mesh.registry.cluster import ClusterSource
from mesh.registry.service_entries import with_service_entries
from mesh.registry.types import Registry
from mesh.settings import STATS_PREFIX, MeshSettings
from mesh.view import ViewKey, view_key
from mesh.xds.hub import Answers, Hub
from mesh.xds.scheduler import Debouncer
from mesh.xds.server import Discovery, Server

log = logging.getLogger("mesh")

SERVICE_NAME = "control-plane"
DAY = 86_400.0
ROTATION_POLL_SECONDS = 0.25
"""How often it is looked whether a certificate is due: little beside the shortest lifetime one would choose."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    config_dir: Path
    cluster_dir: Path
    socket: Path
    jwks: Path
    state_dir: Path
    ca_cert: Path
    ca_key: Path
    envoy: str
    trust_domain: str = "cluster.local"
    cluster_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    namespace: str = "mesh-system"
    """Where the control plane runs: part of the name its certificate is for."""
    address: str = "0.0.0.0"
    xds_port: int = 15012
    monitoring_port: int = 15014
    svid_ttl: float = DAY
    token_audience: str = AUDIENCE
    token_issuer: str = "https://kubernetes.default.svc.cluster.local"
    patches: str = ""

    @property
    def host(self) -> str:
        return f"{SERVICE_NAME}.{self.namespace}.svc"


class ControlPlane:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.metrics = Metrics()
        self.patches = Patches(options.patches)
        self.ready = asyncio.Event()
        self.settings = MeshSettings(
            trust_domain=options.trust_domain,
            cluster_domain=options.cluster_domain,
            root_namespace=options.root_namespace,
        )
        self.authority = CertificateAuthority.load_or_create(options.ca_cert, options.ca_key)
        self.svids = Svids(self.authority, trust_domain=options.trust_domain, ttl=options.svid_ttl, clock=time.time)
        self.config = FileSource(options.config_dir)
        self.cluster = ClusterSource(options.cluster_dir, options.cluster_domain)
        self.registry: Registry = self.cluster.registry
        self._published: tuple[str, Registry] | None = None
        self._views: set[ViewKey] = set()
        self.hub = Hub(
            view_of=self._view_of,
            secrets=self.svids.secrets,
            all_views=lambda: self._views,
            observer=self.metrics,
        )
        self._debouncer = Debouncer(self._publish)
        self._verifier = TokenVerifier(options.jwks, audience=options.token_audience, issuer=options.token_issuer)
        self._server = Server(
            Discovery(self.hub, self._verifier.verify, ready=self._until_ready),
            self.authority,
            names=[options.host, f"{options.host}.{options.cluster_domain}", "localhost"],
            ttl=max(options.svid_ttl, 3600.0),
        )
        self._inject_settings = InjectSettings(
            bootstrap=BootstrapSettings(
                discovery_host=options.host,
                discovery_port=options.xds_port,
                root_certificate=self.authority.root.decode(),
                cluster_domain=options.cluster_domain,
                stats_prefixes=(STATS_PREFIX,),
            ),
            python=sys.executable,
            envoy=options.envoy,
            token_audience=options.token_audience,
        )

    # === life ===

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises what made it impossible to go on."""
        admin, monitoring = AdminApi(self), MonitoringApi(self)
        await admin.start(self.options.socket)
        self.config.load()
        self.cluster.load()
        self._publish()
        await self._server.start(f"{self.options.address}:{self.options.xds_port}")
        await monitoring.start(self.options.address, self.options.monitoring_port)
        self.ready.set()
        log.info("ready: xDS on %s:%d, admin on %s", self.options.address, self.options.xds_port, self.options.socket)
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("configuration", self.config.run()),
                ("cluster", self.cluster.run()),
                ("configuration changes", self._follow(self.config)),
                ("cluster changes", self._follow(self.cluster)),
                ("rotation", self._rotate_due()),
            )
        ]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                log.error("%s ended", task.get_name())
                task.result()
        finally:
            self.ready.clear()
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await self._server.stop()
            await monitoring.stop()
            await admin.stop()
            self.options.socket.unlink(missing_ok=True)

    async def _until_ready(self) -> None:
        await self.ready.wait()

    async def _follow(self, source: FileSource | ClusterSource) -> None:
        async for _ in source.changes():
            self._debouncer.notify()

    # === state ===

    def _publish(self) -> None:
        """Make a new generation of what the sources hold, if that is not what is served already."""
        snapshot = self.config.snapshot
        registry = with_service_entries(self.cluster.registry, snapshot)
        key = (snapshot.digest, self.cluster.registry)
        if self._published is not None and self._published[0] == key[0] and self._published[1] is key[1]:
            return
        self._published = key
        self.registry = registry
        self._views = {
            view_key(w.namespace, dict(w.labels), w.service_account) for w in registry.workloads.values() if w.meshed
        }
        self.svids.forget(lambda identity: (identity.namespace, identity.pod) in registry.workloads)
        self.hub.publish(Compiler(snapshot, registry, self.settings))

    def refresh(self) -> None:
        """Take in what was written to the folders up to now, without waiting to be told of it."""
        self.config.load()
        self.cluster.load()
        self._publish()

    def _view_of(self, identity: Identity) -> ViewKey | None:
        workload = self.registry.workloads.get((identity.namespace, identity.pod))
        if workload is None or workload.service_account != identity.service_account:
            return None
        return view_key(workload.namespace, dict(workload.labels), workload.service_account)

    # === what is asked over the admin interface ===

    async def apply(self, documents: list[Document]) -> int:
        """Returns the generation that holds the change. Raises `InvalidManifests`."""
        self.cluster.load()
        await self.config.apply(documents, self.registry)
        self._publish()
        return self.hub.generation

    async def delete(self, documents: list[Document]) -> int:
        await self.config.delete(documents, self.registry)
        self._publish()
        return self.hub.generation

    def validate(self, documents: list[Document]) -> list[ManifestError]:
        """Warnings. Raises `InvalidManifests`."""
        return list(self.config.validate(documents, self.registry))

    def inject(self, pod: dict[str, Any]) -> dict[str, Any]:
        return inject(pod, self._inject_settings)

    def rotate(self) -> int:
        """Replace every certificate in use; returns the generation to wait for."""
        self.svids.rotate([stream.identity for stream in self.hub.streams])
        self._server.rotate()
        return self.hub.publish(self.hub.views.compile)

    async def settled(self, deadline: float) -> Answers:
        """Every meshed pod that is ready is connected and runs what is in the folders now, with nothing left over."""
        started = time.monotonic()
        self.refresh()
        missing = self._unconnected()
        while missing and (left := started + deadline - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.hub.changed()
            missing = self._unconnected()
        left = max(0.0, started + deadline - time.monotonic())
        answers = await self.hub.answers(self.hub.generation, deadline=left, clean=True)
        return msgspec.structs.replace(
            answers,
            proxies=answers.proxies + len(missing),
            missing=tuple(sorted({*answers.missing, *missing})),
            elapsed=time.monotonic() - started,
        )

    def _unconnected(self) -> list[str]:
        connected = {stream.proxy for stream in self.hub.streams}
        return [
            proxy
            for w in self.registry.workloads.values()
            if w.meshed and w.ready and (proxy := f"{w.name}.{w.namespace}") not in connected
        ]

    # === rotation ===

    async def _rotate_due(self) -> None:
        """Replace what has reached half its life: workload certificates (the streams ask for the current one when
        woken) and the server's own."""
        while True:
            await asyncio.sleep(ROTATION_POLL_SECONDS)
            now = time.time()
            if self._server.rotate_due(now):
                self._server.rotate()
            due = self.svids.next_rotation()
            if due is not None and due <= now:
                self.hub.secrets_changed()
