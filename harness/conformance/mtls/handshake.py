"""A TLS client of the harness's own: what a server does with the certificate it is shown."""

from __future__ import annotations

import http.client
import ssl

import msgspec
from cryptography import x509

from harness.substrate.api import PodInfo, World
from harness.wire.certificates import kept

MAX_BODY = 64 << 10


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller got: whether HTTP was answered, and how it ended otherwise."""

    answered: bool
    status: int = 0
    detail: str = ""
    peer_uris: tuple[str, ...] = ()
    """URI SANs of the certificate the server presented; empty when no handshake was completed."""
    serial: int = 0
    body: bytes = b""


def request_over_tls(
    world: World,
    pod: PodInfo,
    port: int,
    *,
    alpn: list[str],
    certificate: bytes | None,
    timeout: float = 5.0,
) -> Outcome:
    """Connect from the node to `pod` with mutual TLS and ask for `/` with HTTP/1.1.

    `certificate` is PEM of key and chain, or None to show none. The server's own is read, not verified: what is judged
    is whether it lets this client in. With TLS 1.3 the client's handshake ends before the server has judged its
    certificate, so only an answer counts as let in.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(alpn)
    if certificate is not None:
        with kept(certificate) as pem:
            context.load_cert_chain(pem)
    try:
        with world.connect((pod.ip, port), timeout=timeout) as plain, context.wrap_socket(plain) as tls:
            return _ask(tls)
    except (OSError, ssl.SSLError) as exc:
        return Outcome(answered=False, detail=f"{type(exc).__name__}: {exc}")


def _ask(tls: ssl.SSLSocket) -> Outcome:
    der = tls.getpeercert(binary_form=True)
    certificate = x509.load_der_x509_certificate(der) if der else None
    uris: tuple[str, ...] = ()
    if certificate is not None:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
    serial = certificate.serial_number if certificate else 0
    try:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
        response = http.client.HTTPResponse(tls)
        response.begin()
        body = response.read(MAX_BODY)
    except (OSError, http.client.HTTPException) as exc:
        return Outcome(answered=False, detail=f"{type(exc).__name__}: {exc}", peer_uris=uris, serial=serial)
    return Outcome(answered=True, status=response.status, peer_uris=uris, serial=serial, body=body)
