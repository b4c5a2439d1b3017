"""The ADS server over real TLS and HTTP/2: who may connect, and that bytes on the wire are what the machine said."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from xds_build import cluster, endpoints, held
from xds_client import HOST, Plane, plane

from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, ResourceSet
from mesh.view import ViewKey
from mesh.xds import server as server_module
from mesh.xds.ordering import Timing

StatusCode = grpc.StatusCode


def view(*names: str, version: str = "1") -> ResourceSet:
    return {
        CLUSTER: held(*(cluster(name, version) for name in names)),
        ENDPOINT: held(*(endpoints(name) for name in names)),
        LISTENER: {},
        ROUTE: {},
    }


def names(response: Any) -> list[str]:
    return [r.name for r in response.resources]


async def run_clusters(client: Any, *wanted: str) -> None:
    """Behave as Envoy does until it runs `wanted`."""
    await client.send(CLUSTER)
    response = await client.receive()
    assert names(response) == list(wanted)
    await client.send(CLUSTER, nonce=response.nonce)
    await client.send(ENDPOINT, subscribe=wanted)
    response = await client.receive()
    assert names(response) == list(wanted)
    await client.send(ENDPOINT, nonce=response.nonce)


def test_a_change_is_pushed_acked_and_reported(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p, p.connect() as client:
            p.publish(view("a"))
            await run_clusters(client, "a")
            generation = p.publish(view("a", "b"))
            waiting = asyncio.create_task(p.hub.answers(generation, deadline=5))
            for expected in (CLUSTER, ENDPOINT):
                response = await client.receive()
                assert (response.type_url, names(response)) == (expected, ["b"])
                assert not waiting.done()
                await client.send(expected, nonce=response.nonce)
            await client.send(ENDPOINT, subscribe=("b",))
            response = await client.receive()
            await client.send(ENDPOINT, nonce=response.nonce)
            answers = await waiting
            assert (answers.proxies, answers.acked, answers.nacked, answers.missing) == (1, 1, {}, ())
            assert all(r.ttl.seconds == 0 and not r.HasField("ttl") for r in response.resources)  # 17: no heartbeat
            assert await client.quiet()  # 14

    asyncio.run(body())


def test_a_refusal_names_the_object_that_caused_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p, p.connect() as client:
            p.publish(view("a"))
            await run_clusters(client, "a")
            generation = p.publish(view("a", "b"))
            for _ in range(2):
                response = await client.receive()
                error = "Error adding/updating cluster(s) b: no" if response.type_url == CLUSTER else None
                await client.send(response.type_url, nonce=response.nonce, error=error)
            answers = await p.hub.answers(generation, deadline=5)
            assert answers.acked == 0
            assert answers.missing == ()
            assert answers.nacked == {"pod.ns": "CDS b (from Test/ns/b): Error adding/updating cluster(s) b: no"}
            assert list(p.hub.refusals()) == [("Test/ns/b", "pod.ns", answers.nacked["pod.ns"])]
            assert await client.quiet(), "no resend loop"

    asyncio.run(body())


def test_a_silent_proxy_is_named(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p, p.connect() as client:
            p.publish(view("a"))
            await run_clusters(client, "a")
            answers = await p.hub.answers(p.publish(view("a", "b")), deadline=0.3)
            assert answers.missing == ("pod.ns",)

    asyncio.run(body())


def test_a_view_that_cannot_be_compiled_is_reported_and_takes_nothing_away(tmp_path: Path) -> None:
    def broken(key: ViewKey) -> ResourceSet:
        raise ValueError("this view")

    async def body() -> None:
        async with plane(tmp_path) as p, p.connect("one") as client, p.connect("two") as second:
            p.publish(view("a"))
            await run_clusters(client, "a")
            generation = p.hub.publish(broken)
            answers = await p.hub.answers(generation, deadline=5)
            assert "this view" in answers.nacked["one.ns"]
            assert answers.acked == 0
            assert await client.quiet()
            await run_clusters(second, "a")  # what the view was before

    asyncio.run(body())


def test_a_view_that_was_never_compiled_is_not_served_as_an_empty_one(tmp_path: Path) -> None:
    def broken(key: ViewKey) -> ResourceSet:
        raise ValueError("this view")

    async def body() -> None:
        async with plane(tmp_path) as p, p.connect() as client:
            p.hub.publish(broken)
            await client.send(CLUSTER, initial={"a": "1"})
            assert await client.quiet()
            answers = await p.hub.answers(p.hub.generation, deadline=0.2)
            assert answers.missing == ("pod.ns",)
            p.publish(view("a", "b"))
            assert names(await client.receive()) == ["b"]

    asyncio.run(body())


def test_state_of_the_world_is_served_too(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p, p.connect(delta=False) as client:
            p.publish(view("a"))
            await client.send(CLUSTER)
            response = await client.receive()
            assert [any_.value for any_ in response.resources] == [b"a@1"]
            await client.send(CLUSTER, nonce=response.nonce)
            await client.send(ENDPOINT, names=("a",))
            response = await client.receive()
            assert [(any_.type_url, any_.value) for any_ in response.resources] == [(ENDPOINT, b"a@1")]

    asyncio.run(body())


def test_a_client_that_comes_back_is_sent_nothing_it_has(tmp_path: Path) -> None:  # 15
    async def body() -> None:
        async with plane(tmp_path) as p:
            p.publish(view("a"))
            async with p.connect() as client:
                await run_clusters(client, "a")
            async with p.connect() as client:
                await client.send(CLUSTER, initial={"a": "1"})
                assert await client.quiet()
                p.publish(view("a", "b"))
                assert names(await client.receive()) == ["b"]

    asyncio.run(body())


def test_a_reconnect_that_overlaps_takes_over(tmp_path: Path) -> None:  # 18
    async def body() -> None:
        async with plane(tmp_path) as p:
            p.publish(view("a"))
            async with p.connect() as old, p.connect() as new:
                await run_clusters(old, "a")
                await run_clusters(new, "a")
                await old.ended()
                assert [s.proxy for s in p.hub.streams] == ["pod.ns"]
                answers = asyncio.create_task(p.hub.answers(p.publish(view("a", version="2")), deadline=5))
                for _ in range(2):
                    response = await new.receive()
                    await new.send(response.type_url, nonce=response.nonce)
                assert (await answers).acked == 1

    asyncio.run(body())


def test_the_node_is_read_from_the_first_request_only(tmp_path: Path) -> None:  # 1
    async def body() -> None:
        async with plane(tmp_path) as p, p.connect() as client:
            p.publish(view("a"))
            await run_clusters(client, "a")
            assert p.hub.streams[0].node.id == "sidecar~10.0.0.1~pod.ns~ns.svc"

    asyncio.run(body())


def test_nothing_is_served_before_the_world_was_read(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p:
            p.ready.clear()
            async with p.connect() as client:
                await client.send(CLUSTER)
                assert await client.quiet()
            p.publish(view("a"))
            p.ready.set()
            async with p.connect() as client:
                await run_clusters(client, "a")

    asyncio.run(body())


def test_a_pod_that_is_reported_late_is_waited_for(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p, p.connect() as client:
            p.publish(view("a"))
            del p.pods["ns", "pod"]
            await client.send(CLUSTER)
            assert await client.quiet()

    asyncio.run(body())


def test_the_secret_is_the_tokens_identity(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p, p.connect() as client:
            p.publish(view())
            await client.send(SECRET, subscribe=("default", "ROOTCA"))
            response = await client.receive()
            secrets = {r.name: secret_pb2.Secret.FromString(r.resource.value) for r in response.resources}
            chain = secrets["default"].tls_certificate.certificate_chain.inline_bytes
            san = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName)
            assert [name.value for name in san.value] == ["spiffe://cluster.local/ns/ns/sa/sa"]
            assert secrets["ROOTCA"].validation_context.trusted_ca.inline_bytes == p.authority.root
            await client.send(SECRET, nonce=response.nonce)
            p.svids.rotate([p.hub.streams[0].identity])
            p.hub.secrets_changed()
            assert names(await client.receive()) == ["default"]

    asyncio.run(body())


# --- who may not


async def refusal(p: Plane, **how: Any) -> tuple[Any, str]:
    async with p.connect(**how) as client:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await client.send(CLUSTER)
        return await client.ended()


def test_who_proves_nothing_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p:
            p.publish(view("a"))
            stranger = ec.generate_private_key(ec.SECP256R1())
            for token, message in (
                ("", "no token"),
                ("nonsense", "refused"),
                (p.token(aud=["elsewhere"]), "udience"),
                (p.token(exp=int(time.time()) - 60), "expired"),
                (p.token(key=stranger), "Signature"),
            ):
                code, details = await refusal(p, token=token)
                assert (code, message in details) == (StatusCode.UNAUTHENTICATED, True), details
                assert not token or token not in details
            assert p.hub.streams == []

    asyncio.run(body())


def test_a_node_id_that_contradicts_the_token_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p:
            p.publish(view("a"))
            for node in ("sidecar~10.0.0.1~other.ns~ns.svc", "sidecar~10.0.0.1~pod.kube-system~x", "me", ""):
                code, _ = await refusal(p, node=node)
                assert code is StatusCode.PERMISSION_DENIED

    asyncio.run(body())


def test_a_pod_nobody_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REGISTRATION_SECONDS", 0.2)

    async def body() -> None:
        async with plane(tmp_path) as p:
            p.publish(view("a"))
            p.pods["ns", "pod"] = "another-account"
            code, details = await refusal(p)
            assert code is StatusCode.PERMISSION_DENIED
            assert "ns/pod" in details

    asyncio.run(body())


def test_a_stream_ends_with_its_token(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p:
            p.publish(view("a"))
            async with p.connect(token=p.token(exp=int(time.time()) + 2)) as client:
                await run_clusters(client, "a")
                code, details = await client.ended()
                assert code is StatusCode.UNAUTHENTICATED
                assert "expired" in details

    asyncio.run(body())


def test_nonsense_ends_the_stream_and_nothing_else(tmp_path: Path) -> None:
    async def body() -> None:
        async with plane(tmp_path) as p:
            p.publish(view("a"))
            async with p.connect("one") as good, p.connect("two") as bad, p.connect("three") as worse:
                await run_clusters(good, "a")
                await run_clusters(bad, "a")
                await bad.raw(b"\xff\xff\xff")
                await worse.raw(b"\xff\xff\xff")
                assert (await bad.ended())[0] is StatusCode.INVALID_ARGUMENT
                assert (await worse.ended())[0] is StatusCode.INVALID_ARGUMENT
                p.publish(view("a", "b"))
                assert names(await good.receive()) == ["b"]

    asyncio.run(body())


def test_the_server_certificate_is_replaced_without_a_restart(tmp_path: Path) -> None:
    async def serial(p: Plane) -> int:
        context = ssl.create_default_context(cadata=p.authority.root.decode())
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", p.port, ssl=context, server_hostname=HOST)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number

    async def body() -> None:
        async with plane(tmp_path) as p:
            first = await serial(p)
            assert await serial(p) == first
            p.server.rotate()
            assert await serial(p) != first

    asyncio.run(body())


def test_a_proxy_that_never_acks_clusters_is_given_routes_all_the_same(tmp_path: Path) -> None:  # 21
    from xds_build import listener

    async def body() -> None:
        async with plane(tmp_path, Timing(ack_deadline=0.3)) as p, p.connect() as client:
            p.publish(view("a"))
            await run_clusters(client, "a")
            await client.send(LISTENER)
            response = await client.receive()
            await client.send(LISTENER, nonce=response.nonce)
            p.publish({**view("a", version="2"), LISTENER: held(listener("in"))})
            got = [(await client.receive()).type_url for _ in range(3)]
            assert got == [CLUSTER, ENDPOINT, LISTENER]

    asyncio.run(body())
