"""Identity: certificates are what they say, and wrong ones are refused."""

from __future__ import annotations

import datetime as dt
import time

from harness.conformance.checks import check
from harness.conformance.fleet import token
from harness.conformance.lab import Lab
from harness.conformance.mtls import handshake
from harness.conformance.mtls.test_modes import XFCC, peer_authentication
from harness.wire import WireTap
from harness.wire.certificates import Signer, spiffe_id
from harness.workloads.echo.protocol import HTTP_PORT, decode_echo


def _spiffe(lab: Lab, account: str, namespace: str = "") -> str:
    return spiffe_id(lab.mesh.ca.trust_domain, namespace or lab.fleet.namespace, account)


@check(
    "M9",
    "peers are spiffe://<trust domain>/ns/<ns>/sa/<sa>, on both ends",
    feature="Identity",
    mutants=("hide-peer-identity",),
)
def test_peer_identity(lab: Lab) -> None:
    for client, namespace in (("client", lab.fleet.namespace), ("stranger", lab.fleet.namespaces[1])):
        seen = lab.get(client=client).echo
        assert seen is not None
        assert f"URI={_spiffe(lab, client, namespace)}" in (seen.header(XFCC) or "").split(";")
    forged = [(XFCC, f"URI={_spiffe(lab, 'admin')}")]
    seen = lab.get(headers=forged).echo
    assert seen is not None
    assert "sa/admin" not in (seen.header(XFCC) or ""), "a forged identity header is not passed on"
    certificate = Signer.load(lab.mesh.ca).issue(_spiffe(lab, "client"))
    outcome = handshake.request_over_tls(
        lab.world, lab.fleet.pod("server", "v1"), HTTP_PORT, alpn=sorted(lab.mesh.alpn), certificate=certificate
    )
    lab.note("the server's certificate", repr(outcome))
    assert outcome.peer_uris == (_spiffe(lab, "server"),), "exactly one URI SAN"
    told = decode_echo(outcome.body)
    assert told is not None
    assert f"URI={_spiffe(lab, 'client')}" in (told.header(XFCC) or "").split(";"), "what the app is told of its peer"


@check(
    "M10",
    "a client refuses a server whose SAN is not the expected one",
    feature="Identity",
    mutants=("accept-any-san",),
)
def test_wrong_server_name(lab: Lab) -> None:
    def expecting(name: str) -> str:
        return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: server, namespace: $NS}}
spec:
  host: server.$NS.svc.cluster.local
  trafficPolicy:
    tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ["{name}"]}}
"""

    lab.apply(expecting(_spiffe(lab, "somebody-else")))
    lab.until(lambda: lab.status() == 503, "the wrong name is refused")
    assert {r.status for r in lab.call(count=10)} == {503}
    lab.apply(expecting(_spiffe(lab, "server")))
    lab.until(lambda: lab.status() == 200, "the right name is accepted")


@check(
    "M11",
    "an untrusted, expired, not yet valid or missing client certificate is refused",
    feature="Identity",
    mutants=("accept-any-certificate",),
)
def test_bad_client_certificates(lab: Lab) -> None:
    lab.apply(peer_authentication("STRICT"))
    mesh, now = Signer.load(lab.mesh.ca), dt.datetime.now(dt.UTC)
    name, hour = _spiffe(lab, "client"), dt.timedelta(hours=1)
    bad = {
        "foreign root": mesh.impostor().issue(name),
        "expired": mesh.issue(name, not_before=now - 48 * hour, not_after=now - hour),
        "not yet valid": mesh.issue(name, not_before=now + hour, not_after=now + 48 * hour),
        "foreign trust domain": mesh.issue(f"spiffe://elsewhere.example/ns/{lab.fleet.namespace}/sa/client"),
        "none": None,
    }
    pod = lab.fleet.pod("server", "v1")

    def let_in(certificate: bytes | None) -> bool:
        outcome = handshake.request_over_tls(
            lab.world, pod, HTTP_PORT, alpn=sorted(lab.mesh.alpn), certificate=certificate
        )
        lab.note("handshake", repr(outcome))
        return outcome.answered

    assert let_in(mesh.issue(name)), "a good certificate is accepted, so that a refusal means something"
    assert {kind: let_in(certificate) for kind, certificate in bad.items()} == dict.fromkeys(bad, False)


@check("M12", "every leaf is replaced under load without one error", feature="Identity", mutants=("broken-leaf",))
def test_rotation_under_load(lab: Lab) -> None:
    good = Signer.load(lab.mesh.ca).issue(_spiffe(lab, "client"))
    pod = lab.fleet.pod("server", "v1")

    def serial() -> int:
        return handshake.request_over_tls(
            lab.world, pod, HTTP_PORT, alpn=sorted(lab.mesh.alpn), certificate=good
        ).serial

    before = serial()
    assert before
    name = token()
    with lab.fleet.background(
        "client", "server", count=50_000, rate=150, concurrency=8, new_connection=True, instruct={"token": name}
    ) as load:

        def arrived() -> int:
            return sum(lab.fleet.attempts(name).values())

        def go_on(more: int = 50) -> None:
            goal = arrived() + more
            lab.until(lambda: arrived() >= goal, f"{more} more requests of the load")

        go_on()
        for _ in range(2):
            lab.mesh.rotate_certificates()
            go_on()
        lab.until(lambda: serial() not in (0, before), "the server presents a new certificate")
        results = load.stop().results
    lab.note("load", f"{len(results)} requests, new connections, two rotations")
    assert [r for r in results if r.status != 200] == []


@check(
    "M17",
    "100 % of inter-workload flows are mutual TLS on the wire, none unknown",
    feature="Mesh",
    mutants=("plaintext-outbound",),
)
def test_wire_coverage(lab: Lab) -> None:
    lab.apply(peer_authentication("PERMISSIVE"))
    namespaces = lab.fleet.namespaces[:2]
    with WireTap(lab.world, lab.mesh, namespaces=namespaces) as tap:
        # Connections kept from earlier checks cannot be vouched for, their handshake was not seen: start new proxies.
        pods = [lab.fleet.pod("client"), lab.fleet.pod("stranger"), *lab.fleet.servers().values()]
        for pod in pods:
            lab.world.kill(pod.namespace, pod.name, "istio-proxy")
        lab.world.wait_ready()
        lab.mesh.settled()
        since = time.time()
        for protocol in ("http1", "http2", "grpc", "tcp", "tcp-server-first", "websocket"):
            for client in ("client", "stranger"):
                path = "/ws" if protocol == "websocket" else "/"
                results = lab.call("server", path, client=client, protocol=protocol, count=3, body=b"hello")
                assert [r.error for r in results] == [""] * 3, f"{client} by {protocol}"
        found = tap.stop(since=since)
    lab.note("wire", repr(found))
    lab.note("not covered", "\n".join(map(repr, found.uncovered)))
    assert found.flows >= 6
    assert found.unknown == 0
    assert found.coverage == 1.0, f"not covered: {found.uncovered}"
