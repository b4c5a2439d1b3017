"""Istio `security.istio.io` (v1, v1beta1): PeerAuthentication, AuthorizationPolicy, RequestAuthentication.

Names and meanings are Istio's. In AuthorizationPolicy, "no rules" (nothing matches) and "a rule with nothing in it"
(everything matches) mean opposite things, so absence is kept apart from emptiness all the way.
"""

# ruff: noqa: RUF012 - msgspec copies a Struct's mutable defaults; ruff does not see that Kube, imported, is one.

from __future__ import annotations

from typing import Literal

import msgspec

from manifests.kube import Kube
from manifests.scalars import Duration
from mesh.config.types.istio_networking import MatchLabelsSelector

# === PeerAuthentication ===


class MutualTLS(Kube, frozen=True, kw_only=True):
    mode: Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"] = "UNSET"
    """UNSET inherits from the wider scope."""


class PeerAuthentication(Kube, frozen=True, kw_only=True):
    selector: MatchLabelsSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: dict[int, MutualTLS] = {}
    """By the workload's port, not the Service's."""


# === AuthorizationPolicy ===


class Source(Kube, frozen=True, kw_only=True):
    """All that are given must hold; within one, any value. Exact, `prefix*`, `*suffix` or `*` (present)."""

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()


class Operation(Kube, frozen=True, kw_only=True):
    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    """Strings, as in Istio."""
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class RuleFrom(Kube, frozen=True, kw_only=True):
    source: Source


class RuleTo(Kube, frozen=True, kw_only=True):
    operation: Operation


class Condition(Kube, frozen=True, kw_only=True):
    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class Rule(Kube, frozen=True, kw_only=True):
    """`from` and `to` and `when`; an empty rule matches everything."""

    from_: tuple[RuleFrom, ...] = msgspec.field(default=(), name="from")
    to: tuple[RuleTo, ...] = ()
    when: tuple[Condition, ...] = ()


class AuthorizationPolicy(Kube, frozen=True, kw_only=True):
    selector: MatchLabelsSelector | None = None
    action: Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"] = "ALLOW"
    rules: tuple[Rule, ...] = ()
    """Empty matches nothing: with ALLOW, that denies everything."""


# === RequestAuthentication ===


class JWTHeader(Kube, frozen=True, kw_only=True):
    name: str
    prefix: str = ""


class ClaimToHeader(Kube, frozen=True, kw_only=True):
    header: str
    claim: str


class JWTRule(Kube, frozen=True, kw_only=True):
    issuer: str
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    """A JWKS document, inline."""
    jwks_uri: str = ""
    from_headers: tuple[JWTHeader, ...] = ()
    """Empty, together with `from_params` and `from_cookies`: `Authorization: Bearer` and `?access_token=`."""
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    forward_original_token: bool = False
    output_payload_to_header: str = ""
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None


class RequestAuthentication(Kube, frozen=True, kw_only=True):
    selector: MatchLabelsSelector | None = None
    jwt_rules: tuple[JWTRule, ...] = ()
