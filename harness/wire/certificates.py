"""Certificates that a prober shows: one the mesh must accept, and ones it must refuse.

All are SPIFFE workload certificates as the mesh itself issues them (P-256, one URI SAN, both extended key usages), so
that a refusal is for the one thing that is wrong with them.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from harness.meshes.api import CertificateAuthority

_SKEW = datetime.timedelta(minutes=5)
_LIFE = datetime.timedelta(minutes=30)
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Signer(msgspec.Struct, frozen=True):
    """A CA that can sign now."""

    certificate: x509.Certificate
    key: SigningKey

    @classmethod
    def load(cls, authority: CertificateAuthority) -> Signer:
        """The mesh's own CA, as the harness plugged it in."""
        key = serialization.load_pem_private_key(Path(authority.key).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ValueError(f"{authority.key}: expected an EC or RSA key, found {type(key).__name__}")
        return cls(x509.load_pem_x509_certificate(Path(authority.certificate).read_bytes()), key)

    def impostor(self) -> Signer:
        """Another CA that calls itself exactly what this one does, with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.certificate.subject)
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return Signer(builder.sign(key, hashes.SHA256()), key)

    def issue(
        self,
        uri: str,
        *,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
    ) -> bytes:
        """A workload certificate for the SPIFFE id `uri`: PEM of the key, the leaf and this CA's certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - _SKEW)
            .not_valid_after(not_after or now + _LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        return (
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + leaf.public_bytes(serialization.Encoding.PEM)
            + self.certificate.public_bytes(serialization.Encoding.PEM)
        )


@contextmanager
def kept(pem: bytes) -> Iterator[Path]:
    """`pem` in a file that only its owner can read, for as long as entered: OpenSSL loads keys from files alone."""
    with TemporaryDirectory(prefix="meshproof-cert-") as folder:
        path = Path(folder, "chain.pem")
        path.touch(0o600)
        path.write_bytes(pem)
        yield path


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account or 'default'}"
