"""A control plane in this process, and clients that speak raw xDS to it over TLS."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from mesh.identity.ca import CertificateAuthority
from mesh.identity.svids import Svids
from mesh.identity.tokens import Identity, TokenVerifier
from mesh.resource import ResourceSet
from mesh.view import ViewKey, view_key
from mesh.xds.hub import Hub
from mesh.xds.ordering import Timing
from mesh.xds.server import DELTA, SOTW, Discovery, Server

HOST = "control-plane.mesh-system.svc"
DEADLINE = 10.0


class Plane:
    """A hub and its server, with a registry that is a dict."""

    def __init__(self, folder: Path, timing: Timing | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        jwks = folder / "jwks.json"
        jwks.write_text(json.dumps({"keys": [{**public, "kid": "k"}]}))
        self.pods: dict[tuple[str, str], str] = {}
        self.authority = CertificateAuthority.create()
        self.svids = Svids(self.authority, trust_domain="cluster.local", ttl=3600, clock=time.time)
        self.hub = Hub(view_of=self._view_of, secrets=self.svids.secrets)
        self.ready = asyncio.Event()
        self.ready.set()
        discovery = Discovery(
            self.hub, TokenVerifier(jwks).verify, ready=self._until_ready, timing=timing or Timing(linger=0.05)
        )
        self.server = Server(discovery, self.authority, names=[HOST], ttl=3600)
        self.port = 0

    async def _until_ready(self) -> None:
        await self.ready.wait()

    def _view_of(self, identity: Identity) -> ViewKey | None:
        account = self.pods.get((identity.namespace, identity.pod))
        return view_key(identity.namespace, {}, account) if account == identity.service_account else None

    def publish(self, resources: ResourceSet) -> int:
        return self.hub.publish(lambda view: resources)

    def token(self, pod: str = "pod", key: Any = None, **changed: Any) -> str:
        claims = {
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": "system:serviceaccount:ns:sa",
            "aud": ["istio-ca"],
            "exp": int(time.time()) + 600,
            "kubernetes.io": {"namespace": "ns", "pod": {"name": pod, "uid": "u"}, "serviceaccount": {"name": "sa"}},
        }
        return jwt.encode({**claims, **changed}, key or self.key, algorithm="ES256", headers={"kid": "k"})

    @asynccontextmanager
    async def connect(
        self, pod: str = "pod", *, delta: bool = True, token: str | None = None, node: str | None = None
    ) -> AsyncIterator[Client]:
        self.pods.setdefault(("ns", pod), "sa")
        credentials = grpc.ssl_channel_credentials(root_certificates=self.authority.root)
        options = (("grpc.ssl_target_name_override", HOST), ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            token = self.token(pod) if token is None else token
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            call = channel.stream_stream(DELTA if delta else SOTW)(metadata=metadata)
            client = Client(call, delta, f"sidecar~10.0.0.1~{pod}.ns~ns.svc" if node is None else node)
            yield client
            call.cancel()
            await asyncio.gather(client.pump, return_exceptions=True)


@asynccontextmanager
async def plane(folder: Path, timing: Timing | None = None) -> AsyncIterator[Plane]:
    made = Plane(folder, timing)
    made.port = await made.server.start("127.0.0.1:0")
    try:
        yield made
    finally:
        await made.server.stop(0)


class Client:
    """One stream. Sends what it is told, in the variant it was made for."""

    def __init__(self, call: Any, delta: bool, node: str) -> None:
        self._call = call
        self._delta = delta
        self._node: str | None = node
        self._received: asyncio.Queue[bytes] = asyncio.Queue()
        self.pump = asyncio.create_task(self._pump())

    async def send(
        self,
        type_url: str,
        *,
        nonce: str = "",
        error: str | None = None,
        subscribe: tuple[str, ...] = (),
        names: tuple[str, ...] = (),
        initial: Mapping[str, str] | None = None,
    ) -> None:
        request: Any
        if self._delta:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, response_nonce=nonce, resource_names_subscribe=subscribe
            )
            request.initial_resource_versions.update(initial or {})
        else:
            request = discovery_pb2.DiscoveryRequest(type_url=type_url, response_nonce=nonce, resource_names=names)
        if self._node is not None:
            request.node.id = self._node
            self._node = None
        if error is not None:
            request.error_detail.CopyFrom(status_pb2.Status(code=3, message=error))
        await self._call.write(request.SerializeToString())

    async def raw(self, data: bytes) -> None:
        await self._call.write(data)

    async def _pump(self) -> None:
        # A read that is cancelled (by a deadline) would cancel the call with it.
        while isinstance(data := await self._call.read(), bytes):
            self._received.put_nowait(data)

    async def receive(self) -> Any:
        """The next response; the test fails when none comes."""
        data = await asyncio.wait_for(self._received.get(), DEADLINE)
        kind = discovery_pb2.DeltaDiscoveryResponse if self._delta else discovery_pb2.DiscoveryResponse
        return kind.FromString(data)

    async def quiet(self, seconds: float = 0.2) -> bool:
        """Whether nothing is sent for so long."""
        try:
            await asyncio.wait_for(self._received.get(), seconds)
        except TimeoutError:
            return True
        return False

    async def ended(self) -> tuple[Any, str]:
        """Status code and details of the stream's end."""
        code = await asyncio.wait_for(self._call.code(), DEADLINE)
        return code, str(await self._call.details())
