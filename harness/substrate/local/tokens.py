"""Service-account tokens, as a cluster issues them: JWTs bound to a pod, signed by the world's own key.

The key is made per world and never leaves the supervisor's memory; its public half is a JWKS file.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
_ALGORITHM: Final = "ES256"
_COORDINATE_BYTES: Final = 32
REFRESH_AT: Final = 0.8
"""Part of its life after which a token is replaced, as the kubelet does."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    service_account: str
    pod: str
    pod_uid: str


class Issuer:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        self._jwk = {"kty": "EC", "crv": "P-256", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}
        # RFC 7638: members in lexical order, nothing else.
        thumbprint = hashlib.sha256(msgspec.json.encode(dict(sorted(self._jwk.items())))).digest()
        self.key_id = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()

    def jwks(self) -> dict[str, Any]:
        return {"keys": [{**self._jwk, "kid": self.key_id, "use": "sig", "alg": _ALGORITHM}]}

    def token(self, subject: Subject, audience: str, seconds: int, now: float | None = None) -> str:
        issued = int(time.time() if now is None else now)
        claims = {
            "iss": ISSUER,
            "sub": f"system:serviceaccount:{subject.namespace}:{subject.service_account}",
            "aud": [audience or ISSUER],
            "iat": issued,
            "nbf": issued,
            "exp": issued + seconds,
            "kubernetes.io": {
                "namespace": subject.namespace,
                "pod": {"name": subject.pod, "uid": subject.pod_uid},
                "serviceaccount": {"name": subject.service_account},
            },
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self.key_id})


def _coordinate(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(_COORDINATE_BYTES, "big")).rstrip(b"=").decode()
