"""Certificates and tokens: what is issued is what SPIFFE says, and who asks is who the token proves."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from mesh.identity.ca import CertificateAuthority
from mesh.identity.svids import ROOT_SECRET, WORKLOAD_SECRET, Svids
from mesh.identity.tokens import Identity, TokenVerifier, Unauthenticated

REVIEWS = Identity(namespace="bookinfo", service_account="reviews", pod="reviews-1")


def leaf_of(chain: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain)


# --- certificates


def test_a_workload_certificate_is_a_spiffe_svid() -> None:
    authority = CertificateAuthority.create()
    leaf = leaf_of(authority.issue_workload(REVIEWS.spiffe("cluster.local"), 60).chain)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [(type(name), name.value) for name in san.value] == [
        (x509.UniformResourceIdentifier, "spiffe://cluster.local/ns/bookinfo/sa/reviews")
    ]
    assert san.critical, "an empty subject makes the SAN critical"
    assert not list(leaf.subject)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert isinstance(key := leaf.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_a_server_certificate_verifies_against_the_root() -> None:
    authority = CertificateAuthority.create()
    leaf = leaf_of(authority.issue_server(["control-plane.mesh-system.svc"], 60).chain)
    root = x509.load_pem_x509_certificate(authority.root)
    verifier = PolicyBuilder().store(Store([root])).build_server_verifier(x509.DNSName("control-plane.mesh-system.svc"))
    assert verifier.verify(leaf, [])[-1] == root


def test_no_certificate_outlives_its_root() -> None:
    authority = CertificateAuthority.create()
    leaf = leaf_of(authority.issue_workload("spiffe://cluster.local/ns/a/sa/b", 1e9).chain)
    assert leaf.not_valid_after_utc <= x509.load_pem_x509_certificate(authority.root).not_valid_after_utc


def test_the_root_is_made_once_and_kept(tmp_path: Path) -> None:
    certificate, key = tmp_path / "ca" / "cert.pem", tmp_path / "ca" / "key.pem"
    first = CertificateAuthority.load_or_create(certificate, key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert CertificateAuthority.load_or_create(certificate, key).root == first.root


def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path) -> None:
    CertificateAuthority.load_or_create(tmp_path / "a.pem", tmp_path / "a.key")
    CertificateAuthority.load_or_create(tmp_path / "b.pem", tmp_path / "b.key")
    with pytest.raises(ValueError, match="is not the key of"):
        CertificateAuthority.load(tmp_path / "a.pem", tmp_path / "b.key")


def test_a_leaf_cannot_be_plugged_in_as_a_root(tmp_path: Path) -> None:
    issued = CertificateAuthority.create().issue_workload("spiffe://cluster.local/ns/a/sa/b", 60)
    (tmp_path / "cert.pem").write_bytes(issued.chain)
    (tmp_path / "key.pem").write_bytes(issued.key)
    with pytest.raises(ValueError, match="may not sign"):
        CertificateAuthority.load(tmp_path / "cert.pem", tmp_path / "key.pem")


# --- rotation


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def serial(svids: Svids, identity: Identity) -> int:
    return svids.current(identity).issued.serial


def test_a_certificate_is_replaced_at_about_half_its_life() -> None:
    clock = Clock()
    svids = Svids(CertificateAuthority.create(), trust_domain="cluster.local", ttl=1000, clock=clock)
    first = serial(svids, REVIEWS)
    clock.now += 440
    assert serial(svids, REVIEWS) == first
    clock.now += 120
    assert serial(svids, REVIEWS) != first


def test_rotation_is_spread() -> None:
    svids = Svids(CertificateAuthority.create(), trust_domain="cluster.local", ttl=1000, clock=Clock())
    moments = {svids.current(Identity(namespace="a", service_account="b", pod=f"p{i}")).rotate_at for i in range(20)}
    assert len(moments) == 20


def test_a_refreshed_token_keeps_the_certificate_and_another_pod_has_its_own() -> None:
    svids = Svids(CertificateAuthority.create(), trust_domain="cluster.local", ttl=1000, clock=time.time)
    first = serial(svids, REVIEWS)
    assert serial(svids, Identity(**{**_fields(REVIEWS), "expires": 5.0})) == first
    assert serial(svids, Identity(**{**_fields(REVIEWS), "pod": "reviews-2"})) != first


def test_what_is_served_is_certificate_key_and_root_and_no_repr_shows_the_key() -> None:
    authority = CertificateAuthority.create()
    svids = Svids(authority, trust_domain="cluster.local", ttl=1000, clock=time.time)
    secrets = svids.secrets(REVIEWS)
    workload = secret_pb2.Secret.FromString(secrets[WORKLOAD_SECRET].body)
    root = secret_pb2.Secret.FromString(secrets[ROOT_SECRET].body)
    key = serialization.load_pem_private_key(workload.tls_certificate.private_key.inline_bytes, None)
    leaf = leaf_of(workload.tls_certificate.certificate_chain.inline_bytes)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == leaf.public_key()
    assert root.validation_context.trusted_ca.inline_bytes == authority.root
    shown = repr(svids.current(REVIEWS)) + repr(svids.current(REVIEWS).issued)
    assert "PRIVATE KEY" not in shown


def _fields(identity: Identity) -> dict[str, Any]:
    return {name: getattr(identity, name) for name in identity.__struct_fields__}


# --- tokens


class TokenIssuer:
    """A cluster's issuer, for tokens right and wrong."""

    def __init__(self, path: Path, kid: str = "one") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid = kid
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        path.write_text(json.dumps({"keys": [{**public, "kid": kid, "alg": "ES256", "use": "sig"}]}))

    def claims(self, **changed: Any) -> dict[str, Any]:
        claims = {
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": "system:serviceaccount:bookinfo:reviews",
            "aud": ["istio-ca"],
            "exp": int(time.time()) + 600,
            "kubernetes.io": {
                "namespace": "bookinfo",
                "pod": {"name": "reviews-1", "uid": "u"},
                "serviceaccount": {"name": "reviews"},
            },
        }
        return {**claims, **changed}

    def token(self, algorithm: str = "ES256", key: Any = None, **changed: Any) -> str:
        return jwt.encode(self.claims(**changed), key or self.key, algorithm=algorithm, headers={"kid": self.kid})


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


def test_a_good_token_proves_pod_namespace_and_account(jwks: Path) -> None:
    identity = TokenVerifier(jwks).verify(TokenIssuer(jwks).token())
    assert (identity.namespace, identity.service_account, identity.pod) == ("bookinfo", "reviews", "reviews-1")
    assert identity.proxy == "reviews-1.bookinfo"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"aud": ["someone-else"]}, "udience"),
        ({"exp": 1_000_000_000}, "expired"),
        ({"nbf": 4_000_000_000}, "not yet valid"),
        ({"sub": "system:serviceaccount:bookinfo:ratings"}, "contradicts"),
        ({"kubernetes.io": {"namespace": "bookinfo", "serviceaccount": {"name": "reviews"}}}, "not bound to a pod"),
        ({"kubernetes.io": None}, "not bound to a pod"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(jwks: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        TokenVerifier(jwks).verify(TokenIssuer(jwks).token(**changed))


def test_the_issuer_is_pinned(jwks: Path) -> None:
    token = TokenIssuer(jwks).token()
    assert TokenVerifier(jwks, issuer="https://kubernetes.default.svc.cluster.local").verify(token)
    with pytest.raises(Unauthenticated, match="ssuer"):
        TokenVerifier(jwks, issuer="https://elsewhere").verify(token)


def test_a_token_without_expiry_is_refused(jwks: Path) -> None:
    issuer = TokenIssuer(jwks)
    claims = issuer.claims()
    del claims["exp"]
    with pytest.raises(Unauthenticated, match="exp"):
        TokenVerifier(jwks).verify(jwt.encode(claims, issuer.key, algorithm="ES256", headers={"kid": "one"}))


def test_another_clusters_token_is_refused_even_under_the_same_key_id(jwks: Path, tmp_path: Path) -> None:
    TokenIssuer(jwks)
    other = TokenIssuer(tmp_path / "other.json")
    with pytest.raises(Unauthenticated, match="Signature"):
        TokenVerifier(jwks).verify(other.token())


def test_the_algorithm_is_pinned(jwks: Path) -> None:
    issuer = TokenIssuer(jwks)
    verifier = TokenVerifier(jwks)
    with pytest.raises(Unauthenticated, match="alg"):
        verifier.verify(issuer.token("HS256", b"a secret of at least thirty-two bytes."))
    with pytest.raises(Unauthenticated):
        verifier.verify(jwt.encode(issuer.claims(), None, algorithm="none", headers={"kid": "one"}))


def test_keys_that_were_rotated_are_read_again(jwks: Path) -> None:
    TokenIssuer(jwks, "one")
    verifier = TokenVerifier(jwks)
    with pytest.raises(Unauthenticated):
        verifier.verify("")
    replacement = jwks.with_suffix(".new")
    issuer = TokenIssuer(replacement, "two")
    replacement.replace(jwks)
    assert verifier.verify(issuer.token()).pod == "reviews-1"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é" * 10, "x" * 100_000])
def test_what_is_no_token_is_refused_and_not_repeated_in_the_message(jwks: Path, token: str) -> None:
    TokenIssuer(jwks)
    with pytest.raises(Unauthenticated) as caught:
        TokenVerifier(jwks).verify(token)
    assert token[:50] not in str(caught.value) or len(token) < 2
