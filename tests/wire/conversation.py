"""Real TLS conversations without a network, and packets made of them."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from harness.wire.classify import FlowRecord, FlowTable
from harness.wire.packets import ACK, FIN, PSH, SYN, TCP, Packet

CLIENT, SERVER = "10.244.0.2", "10.244.0.3"
Turn = tuple[str, bytes]
"""`up` or `down`, and the bytes."""


def certificate(folder: Path) -> Path:
    """One self-signed certificate with its key, good for either side."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("peer")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "peer.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def tls(
    pem: Path,
    *,
    alpn: Sequence[str] = ("istio",),
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    client_certificate: bool = True,
    ciphers: str | None = None,
    curve: str | None = None,
    data: bytes = b"GET / HTTP/1.1\r\n\r\n" * 40,
    finish: bool = True,
) -> list[Turn]:
    """What a client and a server of OpenSSL say to each other. `curve` makes the server send a HelloRetryRequest."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    server.set_alpn_protocols(list(alpn))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(pem)
    client.set_alpn_protocols(list(alpn))
    for context in (server, client):
        context.minimum_version = context.maximum_version = version
        if ciphers:
            context.set_ciphers(ciphers)
    if client_certificate:
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(pem)
        client.load_cert_chain(pem)
    if curve:
        server.set_ecdh_curve(curve)
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    left = client.wrap_bio(client_in, client_out, server_hostname="peer")
    right = server.wrap_bio(server_in, server_out, server_side=True)
    turns: list[Turn] = []
    done = {"up": False, "down": False}

    def move() -> bool:
        moved = False
        for way, source, target in (("up", client_out, server_in), ("down", server_out, client_in)):
            if chunk := source.read():
                turns.append((way, chunk))
                target.write(chunk)
                moved = True
        return moved

    for _ in range(20):
        for way, end in (("up", left), ("down", right)):
            if not done[way]:
                try:
                    end.do_handshake()
                    done[way] = True
                except ssl.SSLWantReadError:
                    pass
            if not finish and turns and turns[-1][0] == "down":
                return turns
        if not move() and all(done.values()):
            break
    assert all(done.values())
    left.write(data)
    move()
    assert right.read(len(data)) == data
    right.write(data)
    move()
    return turns


class Wire:
    """Turns conversations into packets, as the node sees them."""

    def __init__(self, table: FlowTable) -> None:
        self.table = table
        self.now = 1000.0
        self._port = 40000

    def say(
        self,
        turns: Sequence[Turn],
        *,
        client: str = CLIENT,
        server: str = SERVER,
        port: int = 9080,
        interfaces: Sequence[tuple[int, bool, str]] = ((1, False, ""), (2, True, "")),
        chunk: int = 1400,
        syn: bool = True,
        close: bool = True,
        isn: int = 0xFFFFFF00,
        client_port: int = 0,
    ) -> int:
        """Each packet is shown on each of `interfaces`: (index, whether the client's packets leave the node there,
        server address as seen there). `isn` wraps around early on purpose. Returns the client's port."""
        self._port += 1
        local = client_port or self._port
        position = {"up": isn, "down": (isn * 7) % 2**32}

        def send(way: str, flags: int, payload: bytes = b"") -> None:
            self.now += 0.001
            for index, leaves, seen_as in interfaces:
                far = ip_address(seen_as or server).packed, port
                near = ip_address(client).packed, local
                source, destination = (near, far) if way == "up" else (far, near)
                self.table.packet(
                    Packet(
                        TCP, source[0], destination[0], source[1], destination[1], flags, position[way], 0,
                        payload, len(payload),
                    ),
                    self.now, index, leaves if way == "up" else not leaves,
                )  # fmt: skip
            position[way] = (position[way] + len(payload) + bool(flags & (SYN | FIN))) % 2**32

        if syn:
            send("up", SYN)
            send("down", SYN | ACK)
        for way, data in turns:
            for at in range(0, len(data), chunk):
                send(way, ACK | PSH, data[at : at + chunk])
        if close:
            send("up", FIN | ACK)
            send("down", FIN | ACK)
        return local


def only(table: FlowTable) -> FlowRecord:
    records = list(table.records())
    assert len(records) == 1, records
    return records[0]
