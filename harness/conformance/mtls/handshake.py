"""A TLS client of the harness's own, and the certificates it presents.

The harness plugged the root into the mesh, so it can issue what the mesh must refuse: expired, not yet valid, of a
foreign root. Everything is made in memory or in a private temporary folder.
"""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.meshes.api import CertificateAuthority
from harness.substrate.api import PodInfo, World

DAY = dt.timedelta(days=1)


class Issuer(msgspec.Struct, frozen=True):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller got: whether an application answered, and how it ended otherwise."""

    answered: bool
    status: int = 0
    detail: str = ""
    peer_uris: tuple[str, ...] = ()
    """URI SANs of the certificate the server presented; empty when no handshake was completed."""
    serial: int = 0


def mesh_issuer(ca: CertificateAuthority) -> Issuer:
    key = serialization.load_pem_private_key(Path(ca.key).read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{ca.key}: expected an EC private key, found {type(key).__name__}")
    return Issuer(x509.load_pem_x509_certificate(Path(ca.certificate).read_bytes()), key)


def foreign_issuer(like: Issuer) -> Issuer:
    """A root that looks like `like` (same names) but is another key: what an attacker would make."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(like.certificate.subject)
        .issuer_name(like.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Issuer(certificate, key)


def leaf(issuer: Issuer, spiffe: str, *, start: dt.timedelta = -DAY, end: dt.timedelta = DAY) -> tuple[bytes, bytes]:
    """A workload certificate for `spiffe`, valid from now + `start` to now + `end`; certificate and key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "probe")]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def request_over_tls(
    world: World,
    pod: PodInfo,
    port: int,
    *,
    alpn: list[str],
    certificate: tuple[bytes, bytes] | None,
    timeout: float = 5.0,
) -> Outcome:
    """Connect from the node to `pod` with mutual TLS and ask for `/` with HTTP/1.1.

    The server's certificate is read, not verified: what is judged is whether the server lets this client in. With
    TLS 1.3 the client's handshake ends before the server has judged its certificate, so only an
    answer counts as let in.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(alpn)
    if certificate is not None:
        with tempfile.TemporaryDirectory() as folder:
            chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
            chain.write_bytes(certificate[0])
            key.touch(mode=0o600)
            key.write_bytes(certificate[1])
            context.load_cert_chain(chain, key)
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
        head = tls.recv(4096)
    except (OSError, ssl.SSLError) as exc:
        return Outcome(answered=False, detail=f"{type(exc).__name__}: {exc}", peer_uris=uris, serial=serial)
    if not head.startswith(b"HTTP/1."):
        return Outcome(answered=bool(head), detail=repr(head[:40]), peer_uris=uris, serial=serial)
    return Outcome(answered=True, status=int(head.split(b" ", 2)[1]), peer_uris=uris, serial=serial)


def request_in_plaintext(world: World, pod: PodInfo, port: int, timeout: float = 5.0) -> Outcome:
    """Ask `pod` for `/` with HTTP/1.1 in the clear, from the node."""
    try:
        with world.connect((pod.ip, port), timeout=timeout) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
            head = sock.recv(4096)
    except TimeoutError:
        return Outcome(answered=False, detail=f"no answer and no reset within {timeout:g} s")
    except OSError as exc:
        return Outcome(answered=False, detail=f"{type(exc).__name__}: {exc}")
    if head.startswith(b"HTTP/1."):
        return Outcome(answered=True, status=int(head.split(b" ", 2)[1]))
    return Outcome(answered=bool(head), detail=repr(head[:40]) if head else "closed without a byte")
