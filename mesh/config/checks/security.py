"""PeerAuthentication, AuthorizationPolicy, RequestAuthentication: Istio's rules, and those that keep secrets out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jwt
import msgspec

from manifests.load import FieldPath
from manifests.metadata import guess_for, is_dns_label
from mesh.config.checks import values
from mesh.config.checks.findings import Findings
from mesh.config.snapshot import Config
from mesh.config.types import AuthorizationPolicy, PeerAuthentication, RequestAuthentication
from mesh.config.types import istio_security as istio
from mesh.config.types.istio_networking import MatchLabelsSelector

CONDITION_KEYS = (
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
)
_MAP_KEY = re.compile(r"request\.(headers\[[^\[\]]+\]|auth\.claims(\[[^\[\]]+\])+)")
_IP_KEYS = frozenset({"source.ip", "remote.ip", "destination.ip"})

PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members of a JWK (RFC 7518) that only its owner may have."""


def _selector(findings: Findings, selector: MatchLabelsSelector | None) -> None:
    if selector is None:
        return
    path: FieldPath = ("spec", "selector", "matchLabels")
    if not selector.match_labels:
        findings.warn(("spec", "selector"), "is empty, so it selects every workload of the namespace")
    for key, value in selector.match_labels.items():
        if "*" in key or "*" in value:
            findings.error((*path, key), "has a wildcard, which selectors do not have", value=f"{key}: {value}")
            return
    values.check_labels(findings, path, selector.match_labels)


# === PeerAuthentication ===


def check_peer_authentication(config: Config[PeerAuthentication], findings: Findings) -> None:
    spec = config.spec
    _selector(findings, spec.selector)
    path: FieldPath = ("spec", "portLevelMtls")
    if findings.wrote(path) and not spec.port_level_mtls:
        findings.error(path, "is empty", expected="at least one port, or no portLevelMtls")
    if spec.port_level_mtls and (spec.selector is None or not spec.selector.match_labels):
        findings.error(path, "needs a selector: ports are those of workloads", expected="spec.selector.matchLabels")
    for port in spec.port_level_mtls:
        if not 1 <= port <= 65535:
            findings.error((*path, str(port)), "is not a port", value=port, expected="1 to 65535")


# === AuthorizationPolicy ===


def check_authorization_policy(config: Config[AuthorizationPolicy], findings: Findings) -> None:
    spec = config.spec
    _selector(findings, spec.selector)
    if spec.action in ("DENY", "AUDIT") and not spec.rules:
        findings.warn(("spec",), f"has no rules, so this {spec.action} never matches", expected="rules: [{}] for all")
    for index, rule in enumerate(spec.rules):
        path: FieldPath = ("spec", "rules", index)
        for name, entries in (("from", rule.from_), ("to", rule.to), ("when", rule.when)):
            if findings.wrote((*path, name)) and not entries:
                findings.error((*path, name), "is empty", expected=f"at least one entry, or no {name}")
        for number, entry in enumerate(rule.from_):
            _source(findings, (*path, "from", number, "source"), entry.source)
        for number, operation in enumerate(rule.to):
            _operation(findings, (*path, "to", number, "operation"), operation.operation)
        for number, condition in enumerate(rule.when):
            _condition(findings, (*path, "when", number), condition)


def _lists(findings: Findings, path: FieldPath, struct: istio.Source | istio.Operation) -> None:
    """Every list that was written has entries, and no entry is empty."""
    given = False
    for field in msgspec.structs.fields(struct):
        items: Sequence[str] = getattr(struct, field.name)
        where: FieldPath = (*path, field.encode_name)
        if items:
            given = True
        elif findings.wrote(where):
            given = True
            findings.error(where, "is empty", expected=f"at least one value, or no {field.encode_name}")
        for index, item in enumerate(items):
            if not item:
                findings.error((*where, index), "is empty", value='""')
            elif _has_literal_star(item):
                findings.warn(
                    (*where, index),
                    "has a * that is taken literally: only one at the beginning or at the end is a wildcard",
                    value=item,
                )
    if not given:
        findings.error(path, "says nothing", expected="at least one field")


def _has_literal_star(item: str) -> bool:
    template = "{*}" in item or "{**}" in item
    both_ends = len(item) > 1 and item.startswith("*") and item.endswith("*")
    return not template and ("*" in item.strip("*") or both_ends)


def _source(findings: Findings, path: FieldPath, source: istio.Source) -> None:
    _lists(findings, path, source)
    for name, blocks in (
        ("ipBlocks", source.ip_blocks),
        ("notIpBlocks", source.not_ip_blocks),
        ("remoteIpBlocks", source.remote_ip_blocks),
        ("notRemoteIpBlocks", source.not_remote_ip_blocks),
    ):
        for index, block in enumerate(blocks):
            values.check_cidr(findings, (*path, name, index), block)
    accounts = [*source.service_accounts, *source.not_service_accounts]
    others = [*source.principals, *source.not_principals, *source.namespaces, *source.not_namespaces]
    if accounts and others:
        findings.error(
            (*path, "serviceAccounts" if source.service_accounts else "notServiceAccounts"),
            "cannot be combined with principals or namespaces",
            expected="one way to name the caller",
        )
    for name, items in (
        ("serviceAccounts", source.service_accounts),
        ("notServiceAccounts", source.not_service_accounts),
    ):
        for index, item in enumerate(items):
            namespace, slash, account = item.rpartition("/")
            if "*" in item or not account or (slash and not is_dns_label(namespace)):
                findings.error(
                    (*path, name, index), "is not a service account", value=item, expected="name or namespace/name"
                )
    for name, items in (("principals", source.principals), ("notPrincipals", source.not_principals)):
        for index, item in enumerate(items):
            if item.startswith("spiffe://"):
                findings.error(
                    (*path, name, index), "has a scheme", value=item, expected=item.removeprefix("spiffe://")
                )


def _operation(findings: Findings, path: FieldPath, operation: istio.Operation) -> None:
    _lists(findings, path, operation)
    for name, ports in (("ports", operation.ports), ("notPorts", operation.not_ports)):
        for index, port in enumerate(ports):
            if not _is_port(port):
                findings.error((*path, name, index), "is not a port", value=port, expected='"1" to "65535"')
    for name, methods in (("methods", operation.methods), ("notMethods", operation.not_methods)):
        for index, method in enumerate(methods):
            if method.strip("*"):
                values.check_method(findings, (*path, name, index), method.strip("*"))
    for name, paths in (("paths", operation.paths), ("notPaths", operation.not_paths)):
        for index, text in enumerate(paths):
            if text and not text.startswith(("/", "*")):
                findings.error((*path, name, index), "can match no path", value=text, expected='a path, beginning "/"')
            if "?" in text:
                findings.error((*path, name, index), "has a query, and paths are matched without", value=text)
            template = "{*}" in text or "{**}" in text
            if template and ("*" in text.replace("{**}", "").replace("{*}", "") or text.count("{**}") > 1):
                findings.error(
                    (*path, name, index), "is not a valid template", value=text, expected="{*} segments, one {**}"
                )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535


def _condition(findings: Findings, path: FieldPath, condition: istio.Condition) -> None:
    key = condition.key
    if key not in CONDITION_KEYS and not _MAP_KEY.fullmatch(key):
        guess = guess_for(key, CONDITION_KEYS)
        findings.error(
            (*path, "key"),
            "is not a condition" + (f'; did you mean "{guess}"?' if guess else ""),
            value=key or '""',
            expected="one of " + ", ".join([*CONDITION_KEYS, "request.headers[NAME]", "request.auth.claims[NAME]"]),
        )
    if not condition.values and not condition.not_values:
        findings.error(path, "has nothing to compare with", expected="values or notValues")
    for name, items in (("values", condition.values), ("notValues", condition.not_values)):
        for index, item in enumerate(items):
            if not item:
                findings.error((*path, name, index), "is empty", value='""')
            elif key in _IP_KEYS:
                values.check_cidr(findings, (*path, name, index), item)
            elif key == "destination.port" and not _is_port(item):
                findings.error((*path, name, index), "is not a port", value=item, expected='"1" to "65535"')


# === RequestAuthentication ===


def check_request_authentication(config: Config[RequestAuthentication], findings: Findings) -> None:
    spec = config.spec
    _selector(findings, spec.selector)
    issuers: dict[str, int] = {}
    for index, rule in enumerate(spec.jwt_rules):
        path: FieldPath = ("spec", "jwtRules", index)
        if not rule.issuer:
            findings.error((*path, "issuer"), "is empty", expected="who the tokens are from")
        first = issuers.setdefault(rule.issuer, index)
        if first != index:
            findings.error((*path, "issuer"), f"is that of jwtRules[{first}] already", value=rule.issuer)
        if not rule.jwks and not rule.jwks_uri:
            findings.error((*path, "jwks"), "is missing", expected="the issuer's public keys, inline")
        if rule.jwks:
            _jwks(findings, (*path, "jwks"), rule.jwks)
        for name, items in (("audiences", rule.audiences), ("fromParams", rule.from_params)):
            for number, item in enumerate(items):
                if not item:
                    findings.error((*path, name, number), "is empty", value='""')
        for number, header in enumerate(rule.from_headers):
            values.check_header_name(findings, (*path, "fromHeaders", number, "name"), header.name)


def _jwks(findings: Findings, path: FieldPath, text: str) -> None:
    """The keys are never shown: one that should not be here must not reach a log as well."""
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        findings.error(path, f"is not JSON: {exc}", expected='{"keys": [...]}')
        return
    keys: Any = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not keys:
        findings.error(path, "holds no keys", expected='{"keys": [...]} with at least one key (RFC 7517)')
        return
    for number, key in enumerate(keys):
        if not isinstance(key, dict):
            findings.error(path, f"has a key {number} that is not an object", expected="a JWK (RFC 7517)")
            continue
        private = sorted(PRIVATE_MEMBERS & key.keys())
        if private:
            findings.error(
                path,
                f"has a private or secret key: key {number} has the member {private[0]}",
                expected="public keys only; treat this key as compromised",
            )
            continue
        try:
            jwt.PyJWK.from_dict(key)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError) as exc:
            reason = str(exc) or type(exc).__name__
            findings.error(path, f"has a key {number} that cannot be used: {reason}", expected="a JWK (RFC 7517)")
