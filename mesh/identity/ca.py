"""The mesh's certificate authority: a P-256 root, plugged in or self-made, that signs short-lived certificates.

Invariants of a workload certificate (SPIFFE X.509-SVID): exactly one URI SAN and no other name, empty subject, so the
SAN is critical; not a CA; key usage critical; both extended key usages. Private keys leave this module only inside what
they are issued for, and no `repr` shows one.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATE = dt.timedelta(minutes=2)
"""Clocks of other machines may be behind: a certificate is valid from a little before it was made."""
ROOT_DAYS = 3650


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its key, PEM."""

    chain: bytes
    key: bytes
    serial: int
    not_before: float
    not_after: float

    def __repr__(self) -> str:
        return f"Issued(serial={self.serial:x}, not_after={self.not_after})"


class CertificateAuthority:
    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.root = certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def load(cls, certificate: Path, key: Path) -> CertificateAuthority:
        """Raises `ValueError` when the two do not fit, or are not a P-256 certificate authority."""
        cert = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key}: an EC P-256 key is needed, found {type(private).__name__}")
        if _public(private.public_key()) != _public(cert.public_key()):
            raise ValueError(f"{key} is not the key of {certificate}")
        constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            raise ValueError(f"{certificate} may not sign certificates (basicConstraints CA:FALSE)")
        return cls(cert, private)

    @classmethod
    def create(cls, common_name: str = "meshproof root") -> CertificateAuthority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + dt.timedelta(days=ROOT_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load_or_create(cls, certificate: Path, key: Path) -> CertificateAuthority:
        """The authority of these files; made and written (key readable by its owner only) if neither is there."""
        if certificate.exists() or key.exists():
            return cls.load(certificate, key)
        authority = cls.create()
        key.parent.mkdir(parents=True, exist_ok=True)
        certificate.parent.mkdir(parents=True, exist_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(_pem(authority._key))
        certificate.write_bytes(authority.root)
        return authority

    def issue_workload(self, spiffe_id: str, ttl: float) -> Issued:
        return self._issue([x509.UniformResourceIdentifier(spiffe_id)], ttl)

    def issue_server(self, names: list[str], ttl: float) -> Issued:
        """For the control plane itself, known by DNS names."""
        return self._issue([x509.DNSName(name) for name in names], ttl)

    def _issue(self, names: list[x509.GeneralName], ttl: float) -> Issued:
        """`ttl` in seconds; never beyond the root's own end."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        end = min(now + dt.timedelta(seconds=ttl), self._certificate.not_valid_after_utc)
        serial = x509.random_serial_number()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - BACKDATE)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(_authority_key_id(self._certificate), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            chain=certificate.public_bytes(serialization.Encoding.PEM),
            key=_pem(key),
            serial=serial,
            not_before=now.timestamp(),
            not_after=end.timestamp(),
        )


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_id(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        subject_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_id)


def _public(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError(f"an EC P-256 certificate is needed, found {type(key).__name__}")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
