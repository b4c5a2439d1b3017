"""The active side of mutual-TLS coverage: ask every workload port, from outside the mesh, for what it must refuse.

Three callers must be refused: one without TLS, one without a client certificate, one whose certificate comes from a
foreign CA that bears the mesh CA's name. A fourth, with a certificate of the mesh's own CA, must be accepted: without
this positive control a dead port would look perfectly safe.

A connection is *refused* when it ends without a byte from the application: reset, closed, or a TLS alert. In TLS 1.3
the client's handshake is over before the server has looked at its certificate, so a completed handshake says nothing
yet: the prober asks for something and reads until an answer, an alert or the end. A port that says nothing and stays
open did not refuse.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from harness.meshes.api import Mesh
from harness.substrate.api import NODE, PodInfo, World
from harness.wire.certificates import Signer, kept, spiffe_id
from harness.wire.coverage import CONTROL_PROBE
from reports.model import PortProbe

_ALERT_RECORD = (b"\x15\x03\x00", b"\x15\x03\x01", b"\x15\x03\x02", b"\x15\x03\x03")
_SILENCE = 2.0
"""Seconds without a word after which a port counts as having accepted the connection."""
_PROXY = "istio-proxy"


class Reply(msgspec.Struct, frozen=True):
    """What became of one attempt: `answered`, `refused`, or `open` (accepted, and silent)."""

    outcome: str
    detail: str


def probe_workloads(
    world: World,
    mesh: Mesh,
    namespaces: Collection[str],
    *,
    source: PodInfo | str = NODE,
    skip: Collection[str] = (),
) -> list[PortProbe]:
    """Every declared TCP port of every ready pod with a sidecar in `namespaces`.

    `source` must be outside the mesh; the node is. Pods whose `app` label is in `skip` are left out (bare clients)."""
    pods = [pod for namespace in sorted(namespaces) for pod in world.pods(namespace)]
    pods = [pod for pod in pods if pod.meshed and pod.ready and pod.labels.get("app") not in skip]
    if not pods:
        return []  # no mesh, so no CA either
    signer = Signer.load(mesh.ca)
    impostor = signer.impostor()
    probes: list[PortProbe] = []
    for pod in pods:
        identity = spiffe_id(mesh.ca.trust_domain, pod.namespace, pod.service_account)
        good, bad = signer.issue(identity), impostor.issue(identity)
        for port in workload_ports(world, pod):
            probes += _probe(world, pod, port, source, sorted(mesh.alpn), good, bad)
    return probes


def workload_ports(world: World, pod: PodInfo) -> list[int]:
    """The TCP ports its containers declare, the proxy's own left out."""
    document = msgspec.json.decode((world.state_dir / "cluster" / f"Pod.{pod.namespace}.{pod.name}.json").read_bytes())
    ports = {
        port["containerPort"]
        for container in document["spec"]["containers"]
        if container["name"] != _PROXY
        for port in container.get("ports", [])
        if port.get("protocol", "TCP") == "TCP"
    }
    return sorted(ports)


def _probe(
    world: World, pod: PodInfo, port: int, source: PodInfo | str, alpn: Sequence[str], good: bytes, bad: bytes
) -> Iterator[PortProbe]:
    request = f"GET / HTTP/1.1\r\nHost: {pod.ip}:{port}\r\nConnection: close\r\n\r\n".encode()
    for name, certificate in (
        ("plaintext", None),
        ("no-client-certificate", b""),
        ("foreign-ca", bad),
        (CONTROL_PROBE, good),
    ):
        try:
            with contextlib.closing(world.connect((pod.ip, port), source=source, timeout=5.0)) as raw:
                raw.settimeout(_SILENCE)
                if certificate is None:
                    reply = ask(raw, request)
                else:
                    with kept(certificate) as pem:
                        reply = ask_tls(raw, request, alpn, pem if certificate else None)
        except OSError as error:
            reply = Reply("refused", f"no connection: {error}")
        yield PortProbe(
            destination=f"{pod.namespace}/{pod.name}",
            port=port,
            probe=name,
            refused=reply.outcome == "refused",
            detail=reply.detail,
        )


def ask(connection: socket.socket, request: bytes) -> Reply:
    """Send `request` as it is and see what the other side makes of it."""
    try:
        connection.sendall(request)
        answer = connection.recv(256)
    except TimeoutError:
        return Reply("open", f"no answer within {_SILENCE:g} s, connection left open")
    except OSError as error:
        return Reply("refused", f"reset ({error.strerror or error})")
    if not answer:
        return Reply("refused", "closed without a byte")
    if answer.startswith(_ALERT_RECORD):
        return Reply("refused", f"TLS alert {answer[6] if len(answer) > 6 else '(short)'}")
    return Reply("answered", f"answered {_excerpt(answer)}")


def ask_tls(connection: socket.socket, request: bytes, alpn: Sequence[str], pem: Path | None) -> Reply:
    """The same inside TLS, with the certificate in `pem` or none. The server's own certificate is not judged here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    if pem is not None:
        context.load_cert_chain(pem)
    try:
        with context.wrap_socket(connection, suppress_ragged_eofs=False) as session:
            session.sendall(request)
            answer = session.recv(256)
    except TimeoutError:
        return Reply("open", f"no answer within {_SILENCE:g} s, connection left open")
    except ssl.SSLEOFError:
        return Reply("refused", "closed without a byte")
    except ssl.SSLError as error:
        return Reply("refused", f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}")
    except OSError as error:
        return Reply("refused", f"reset ({error.strerror or error})")
    if not answer:
        return Reply("refused", "closed without a byte")
    return Reply("answered", f"answered {_excerpt(answer)}")


def _excerpt(answer: bytes) -> str:
    return ascii(answer[:48].split(b"\r\n")[0].decode("latin-1"))
