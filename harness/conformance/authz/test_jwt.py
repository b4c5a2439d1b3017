"""RequestAuthentication: tokens of end users."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.conformance.authz.test_policies import policy
from harness.conformance.checks import check
from harness.conformance.lab import Lab

ISSUER = "https://issuer.example"


@cache
def _key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _jwks() -> str:
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(_key("good").public_key()))
    return json.dumps({"keys": [public | {"kid": "good", "alg": "RS256", "use": "sig"}]})


def _token(*, key: str = "good", lifetime: float = 600.0, **claims: Any) -> str:
    now = time.time()
    payload = {"iss": ISSUER, "sub": "alice", "iat": int(now), "exp": int(now + lifetime)} | claims
    return jwt.encode(payload, _key(key), algorithm="RS256", headers={"kid": "good"})


def _unsigned() -> str:
    return jwt.encode({"iss": ISSUER, "sub": "alice", "exp": int(time.time() + 600)}, "", algorithm="none")


def _authentication() -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: $NS}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  jwtRules:
  - issuer: {ISSUER}
    jwks: '{_jwks()}'
"""


def _status(lab: Lab, token: str | None) -> int:
    return lab.status(headers=[("Authorization", f"Bearer {token}")] if token is not None else [])


@check("J1", "a valid token passes", feature="RequestAuthentication", mutants=("jwt-wrong-keys",))
def test_valid(lab: Lab) -> None:
    lab.apply(_authentication())
    lab.until(lambda: _status(lab, "not.a.token") == 401, "a bad token is refused")
    good = _token()
    assert [_status(lab, good) for _ in range(5)] == [200] * 5


@check(
    "J2",
    "an expired token, a wrong signature, issuer or algorithm is refused with 401",
    feature="RequestAuthentication",
    mutants=("drop-jwt", "jwt-failures-allowed"),
)
def test_invalid(lab: Lab) -> None:
    lab.apply(_authentication())
    lab.until(lambda: _status(lab, "not.a.token") == 401, "a bad token is refused")
    bad = {
        "expired": _token(lifetime=-3600),
        "wrong signature": _token(key="bad"),
        "wrong issuer": _token(iss="https://elsewhere.example"),
        "no algorithm": _unsigned(),
        "garbage": "a.b.c",
    }
    assert {kind: _status(lab, token) for kind, token in bad.items()} == dict.fromkeys(bad, 401)
    assert _status(lab, _token()) == 200


@check(
    "J3",
    "no token passes authentication and is stopped by requestPrincipals",
    feature="RequestAuthentication",
    mutants=("drop-authorization", "jwt-missing-refused"),
)
def test_missing(lab: Lab) -> None:
    lab.apply(_authentication())
    lab.until(lambda: _status(lab, "not.a.token") == 401, "a bad token is refused")
    assert _status(lab, None) == 200, "authentication alone does not require a token"
    lab.apply(
        policy("users", f'action: ALLOW\nrules: [{{from: [{{source: {{requestPrincipals: ["{ISSUER}/alice"]}}}}]}}]')
    )
    lab.until(lambda: _status(lab, None) == 403, "a principal is required")
    assert _status(lab, _token()) == 200
    assert _status(lab, _token(sub="mallory")) == 403
    assert _status(lab, None) == 403
