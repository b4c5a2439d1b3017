"""Who is calling: a Kubernetes service-account token, verified with the cluster's own keys.

The identity of a stream comes from its token and from nothing the client says about itself. Algorithm, issuer,
audience and expiry are pinned; the pod and its namespace are read from the bound-token claims.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import msgspec

ALGORITHM = "ES256"
AUDIENCE = "istio-ca"
"""Audience of the projected token, as Istio's."""
LEEWAY_SECONDS = 5
MAX_TOKEN_BYTES = 16 << 10


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A pod, as its token proves it."""

    namespace: str
    service_account: str
    pod: str
    pod_uid: str = ""
    expires: float = 0.0
    """Unix time at which the token ends."""

    @property
    def proxy(self) -> str:
        """`<pod>.<namespace>`"""
        return f"{self.pod}.{self.namespace}"

    def spiffe(self, trust_domain: str) -> str:
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


class Unauthenticated(Exception):
    """The caller did not prove who it is; the message says what was wrong and never holds the token."""


class TokenVerifier:
    """Verifies tokens against the keys in a JWKS file, which is read again when a token names a key that is not
    in it (keys rotate)."""

    def __init__(self, jwks: Path, *, audience: str = AUDIENCE, issuer: str = "") -> None:
        self._path = jwks
        self._audience = audience
        self._issuer = issuer
        self._keys: dict[str, jwt.PyJWK] = {}
        self._stamp: tuple[int, int] | None = None

    def verify(self, token: str) -> Identity:
        """Raises `Unauthenticated`."""
        if not token:
            raise Unauthenticated("no token: send `authorization: Bearer <service account token>`")
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"token of {len(token)} bytes is larger than {MAX_TOKEN_BYTES}")
        try:
            key = self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer or None,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as exc:
            raise Unauthenticated(f"token refused: {exc}") from None
        return _identity(claims)

    def _key(self, kid: str) -> jwt.PyJWK:
        if kid not in self._keys:
            self._read()
        if kid not in self._keys and len(self._keys) == 1 and not kid:
            return next(iter(self._keys.values()))
        try:
            return self._keys[kid]
        except KeyError:
            raise Unauthenticated(f"token is signed with a key ({kid!r}) that is not the cluster's") from None

    def _read(self) -> None:
        try:
            stat = self._path.stat()
            if self._stamp == (stat.st_mtime_ns, stat.st_ino):
                return
            data = json.loads(self._path.read_bytes())
        except (OSError, ValueError) as exc:
            raise Unauthenticated(f"no token can be verified: {self._path} cannot be read: {exc}") from None
        # A key of another type than the pinned algorithm's would open algorithm confusion: only EC P-256 is taken.
        self._keys = {
            str(key.get("kid", "")): jwt.PyJWK(key, ALGORITHM)
            for key in data.get("keys", [])
            if key.get("kty") == "EC" and key.get("crv") == "P-256"
        }
        self._stamp = (stat.st_mtime_ns, stat.st_ino)


def _identity(claims: dict[str, Any]) -> Identity:
    bound = claims.get("kubernetes.io")
    try:
        if not isinstance(bound, dict):
            raise KeyError("kubernetes.io")
        identity = Identity(
            namespace=str(bound["namespace"]),
            service_account=str(bound["serviceaccount"]["name"]),
            pod=str(bound["pod"]["name"]),
            pod_uid=str(bound["pod"].get("uid", "")),
            expires=float(claims["exp"]),
        )
    except (KeyError, TypeError) as exc:
        raise Unauthenticated(f"token is not bound to a pod: claim {exc} is missing") from None
    expected = f"system:serviceaccount:{identity.namespace}:{identity.service_account}"
    if claims["sub"] != expected:
        raise Unauthenticated(f"token's subject {claims['sub']!r} contradicts its claims ({expected!r})")
    return identity
