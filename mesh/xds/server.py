"""The ADS server: gRPC over TLS, one stream per proxy, authenticated by service-account token.

Message bodies are bytes on both sides of gRPC (no serialisers): requests are parsed by `mesh.xds.wire`, responses are
concatenated there. The server certificate is fetched anew for each handshake, so it rotates without a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from mesh.identity.ca import CertificateAuthority, Issued
from mesh.identity.tokens import Identity, Unauthenticated
from mesh.xds.hub import Hub
from mesh.xds.ordering import Timing
from mesh.xds.stream import Stream
from mesh.xds.wire import Malformed, Node, Writer, parse_delta, parse_sotw

log = logging.getLogger("mesh.xds")

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
DELTA = SERVICE + "DeltaAggregatedResources"
SOTW = SERVICE + "StreamAggregatedResources"

REGISTRATION_SECONDS = 10.0
"""How long a proxy whose pod is not in the registry yet is kept waiting: the pod started before it was reported."""

OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)

Authenticate = Callable[[str], Identity]
"""Token to identity; raises `Unauthenticated`."""


class Discovery(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    """Dispatches the two variants of ADS; everything else is unimplemented."""

    def __init__(
        self,
        hub: Hub,
        authenticate: Authenticate,
        *,
        ready: Callable[[], Awaitable[None]],
        timing: Timing | None = None,
    ) -> None:
        self._hub = hub
        self._authenticate = authenticate
        self._ready = ready
        self._timing = timing
        self._writer = Writer()

    def service(self, details: Any) -> Any:
        if details.method == DELTA:
            return grpc.stream_stream_rpc_method_handler(self._delta)
        if details.method == SOTW:
            return grpc.stream_stream_rpc_method_handler(self._sotw)
        return None

    async def _delta(self, _: Any, context: Any) -> None:
        await self._serve(context, delta=True)

    async def _sotw(self, _: Any, context: Any) -> None:
        await self._serve(context, delta=False)

    async def _serve(self, context: Any, *, delta: bool) -> None:
        try:
            identity = self._authenticate(_token(context))
        except Unauthenticated as exc:
            log.warning("refused %s: %s", context.peer(), exc)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(exc))
        await self._ready()
        data = await context.read()
        if not isinstance(data, bytes):  # end of the client's requests
            return
        try:
            request, node = parse_delta(data) if delta else parse_sotw(data)
        except Malformed as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
            return
        if node is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first request must name its node")
            return
        if problem := contradiction(node, identity):
            log.warning("refused %s: %s", context.peer(), problem)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
        await self._registered(identity, context)
        stream = Stream(self._hub, identity, context, delta=delta, writer=self._writer, timing=self._timing)
        stream.node = node
        older = self._hub.add(stream)
        if older is not None:
            log.info("%s connects again: its older stream is closed", stream.proxy)
            older.close()
        try:
            await stream.run(request)
        finally:
            self._hub.remove(stream)

    async def _registered(self, identity: Identity, context: Any) -> None:
        try:
            async with asyncio.timeout(REGISTRATION_SECONDS):
                while self._hub.view_of(identity) is None:
                    await self._hub.changed()
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"no pod {identity.namespace}/{identity.pod} with service account {identity.service_account} is known",
            )


def _token(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
            return value[7:].strip()
    return ""


def contradiction(node: Node, identity: Identity) -> str:
    """What in the node's id (`sidecar~<ip>~<pod>.<namespace>~<domain>`) is not what the token proves; empty when
    nothing is. The id decides nothing: it only must not lie."""
    parts = node.id.split("~")
    if len(parts) != 4:
        return f"node id {node.id[:200]!r} is not of the form <type>~<ip>~<pod>.<namespace>~<domain>"
    if parts[2] != identity.proxy:
        return f"node id names {parts[2][:200]!r}, the token proves {identity.proxy!r}"
    return ""


class Server:
    """The listening side. `start` before `stop`, once each."""

    def __init__(self, discovery: Discovery, authority: CertificateAuthority, *, names: list[str], ttl: float) -> None:
        self._authority = authority
        self._names = names
        self._ttl = ttl
        self._discovery = discovery
        self._certificate = authority.issue_server(names, ttl)
        self._server: Any = None

    async def start(self, address: str) -> int:
        """Returns the port bound."""
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((self._discovery,))
        credentials = grpc.dynamic_ssl_server_credentials(_configuration(self._certificate), self._fetch)
        port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        return int(port)

    async def stop(self, grace: float = 0.5) -> None:
        if self._server is not None:
            await self._server.stop(grace)

    def rotate(self) -> None:
        """A new server certificate from the next handshake on."""
        self._certificate = self._authority.issue_server(self._names, self._ttl)

    def rotate_due(self, now: float) -> bool:
        certificate = self._certificate
        return now >= certificate.not_before + (certificate.not_after - certificate.not_before) / 2

    def _fetch(self) -> Any:
        return _configuration(self._certificate)


def _configuration(certificate: Issued) -> Any:
    return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)])
