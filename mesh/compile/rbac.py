"""AuthorizationPolicy rules to Envoy's RBAC.

A rule is `from` and `to` and `when`; lists are alternatives. On TCP nothing of HTTP can be known: an ALLOW rule that
asks for it is dropped (it could only allow too much), a DENY rule loses the condition (it could only deny too little).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac
from envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2 import UriTemplateMatchConfig
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, ValueMatcher

from mesh.compile.wire import cidr, packed, string_matcher
from mesh.config.snapshot import Config
from mesh.config.types import AuthorizationPolicy
from mesh.config.types import istio_security as istio
from mesh.model.hosts import spiffe_id
from mesh.model.matching import StringMatch, exact, wildcard

JWT_METADATA = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "payload"

Action = Literal["ALLOW", "DENY"]


class _NotOnTcp(Exception):
    """The rule asks for something of HTTP."""


def http_rules(action: Action, policies: Sequence[Config[AuthorizationPolicy]], trust_domain: str) -> Any:
    """Per-route configuration of one RBAC filter."""
    return RBACPerRoute(rbac=HttpRbac(rules=_rules(action, policies, trust_domain, tcp=False)))


def network_rules(
    action: Action, policies: Sequence[Config[AuthorizationPolicy]], trust_domain: str, stat_prefix: str
) -> Any:
    return NetworkRbac(rules=_rules(action, policies, trust_domain, tcp=True), stat_prefix=stat_prefix)


def _rules(action: Action, policies: Sequence[Config[AuthorizationPolicy]], trust_domain: str, tcp: bool) -> Any:
    rules = RBAC(action=RBAC.DENY if action == "DENY" else RBAC.ALLOW)
    for item in policies:
        for number, rule in enumerate(item.spec.rules):
            try:
                lowered = _Rule(item.namespace, trust_domain, action, tcp).lower(rule)
            except _NotOnTcp:
                continue
            rules.policies[f"ns[{item.namespace}]-policy[{item.name}]-rule[{number}]"].CopyFrom(lowered)
    return rules


class _Terms(msgspec.Struct, frozen=True):
    """How the terms of a policy combine: permissions and principals are two messages of one shape."""

    message: Any
    members: str
    either: str
    every: str
    negation: str

    def _set(self, field: str, items: Sequence[Any]) -> Any:
        return self.message(**{field: self.message.Set(**{self.members: items})})

    def any(self, items: Sequence[Any]) -> Any:
        return items[0] if len(items) == 1 else self._set(self.either, items)

    def all(self, items: Sequence[Any]) -> Any:
        if not items:
            return self.message(any=True)
        return items[0] if len(items) == 1 else self._set(self.every, items)

    def none(self, items: Sequence[Any]) -> Any:
        return self.message(**{self.negation: self.any(items)})


_PERMISSIONS = _Terms(Permission, "rules", "or_rules", "and_rules", "not_rule")
_PRINCIPALS = _Terms(Principal, "ids", "or_ids", "and_ids", "not_id")


# === one rule ===


class _Rule:
    def __init__(self, namespace: str, trust_domain: str, action: Action, tcp: bool) -> None:
        self._namespace = namespace
        self._trust_domain = trust_domain
        self._action = action
        self._tcp = tcp

    def lower(self, rule: istio.Rule) -> Any:
        when_principals: list[Any] = []
        when_permissions: list[Any] = []
        for condition in rule.when:
            self._when(condition, when_principals, when_permissions)
        sources = [self._source(entry.source) for entry in rule.from_] or [[]]
        operations = [self._operation(entry.operation) for entry in rule.to] or [[]]
        return Policy(
            principals=[_PRINCIPALS.all([*source, *when_principals]) for source in sources],
            permissions=[_PERMISSIONS.all([*operation, *when_permissions]) for operation in operations],
        )

    def _http_only(self) -> bool:
        """Whether to leave the condition out. Raises when that would allow too much."""
        if not self._tcp:
            return False
        if self._action == "ALLOW":
            raise _NotOnTcp
        return True

    def _add(
        self,
        terms: _Terms,
        out: list[Any],
        values: Sequence[str],
        not_values: Sequence[str],
        build: Callable[[str], Any],
        http: bool = False,
    ) -> None:
        """Any of `values`, and none of `not_values`; neither is no condition."""
        if not (values or not_values) or (http and self._http_only()):
            return
        if values:
            out.append(terms.any([build(value) for value in values]))
        if not_values:
            out.append(terms.none([build(value) for value in not_values]))

    def _source(self, source: istio.Source) -> list[Any]:
        out: list[Any] = []
        add = partial(self._add, _PRINCIPALS, out)
        add(source.principals, source.not_principals, _principal)
        add(source.request_principals, source.not_request_principals, request_principal, http=True)
        add(source.namespaces, source.not_namespaces, self._in_namespace)
        add(source.service_accounts, source.not_service_accounts, self._service_account)
        add(source.trust_domains, source.not_trust_domains, _in_trust_domain)
        add(source.ip_blocks, source.not_ip_blocks, _direct_ip)
        add(source.remote_ip_blocks, source.not_remote_ip_blocks, _remote_ip)
        return out

    def _operation(self, operation: istio.Operation) -> list[Any]:
        out: list[Any] = []
        add = partial(self._add, _PERMISSIONS, out)
        add(operation.hosts, operation.not_hosts, _host, http=True)
        add(operation.ports, operation.not_ports, _port)
        add(operation.methods, operation.not_methods, _method, http=True)
        add(operation.paths, operation.not_paths, _path, http=True)
        return out

    def _when(self, condition: istio.Condition, principals: list[Any], permissions: list[Any]) -> None:
        key = condition.key
        both = (condition.values, condition.not_values)
        if key in ("destination.ip", "destination.port", "connection.sni"):
            build = {"destination.ip": _destination_ip, "destination.port": _port, "connection.sni": _sni}[key]
            self._add(_PERMISSIONS, permissions, *both, build)
            return
        layer4 = {
            "source.ip": _direct_ip,
            "remote.ip": _remote_ip,
            "source.principal": _principal,
            "source.namespace": self._in_namespace,
            "source.serviceAccount": self._service_account,
            "source.trustDomain": _in_trust_domain,
        }
        if key in layer4:
            self._add(_PRINCIPALS, principals, *both, layer4[key])
        elif key == "request.auth.principal":
            self._add(_PRINCIPALS, principals, *both, request_principal, http=True)
        elif key == "request.auth.audiences":
            self._add(_PRINCIPALS, principals, *both, lambda value: _claim(["aud"], value), http=True)
        elif key == "request.auth.presenter":
            self._add(_PRINCIPALS, principals, *both, lambda value: _claim(["azp"], value), http=True)
        elif key.startswith("request.auth.claims["):
            path = re.findall(r"\[([^\]]+)\]", key)
            self._add(_PRINCIPALS, principals, *both, lambda value: _claim(path, value), http=True)
        elif key.startswith("request.headers["):
            name = key.removeprefix("request.headers[").removesuffix("]")
            self._add(_PRINCIPALS, principals, *both, lambda value: Principal(header=_header(name, value)), http=True)
        else:
            # An unknown key is refused with the policy; should one get here, it must not allow anything.
            never = _PRINCIPALS.none([Principal(any=True)])
            principals.append(never if self._action == "ALLOW" else Principal(any=True))

    def _in_namespace(self, value: str) -> Any:
        match = wildcard(value)
        start = f"spiffe://{self._trust_domain}/ns/"
        if match.kind == "exact":
            return _authenticated(StringMatch(kind="prefix", value=f"{start}{value}/"))
        if match.kind == "prefix":
            return _authenticated(StringMatch(kind="prefix", value=start + match.value))
        if match.kind == "suffix":
            pattern = f"{re.escape(start)}[^/]*{re.escape(match.value)}/.*"
            return _authenticated(StringMatch(kind="regex", value=pattern))
        return _authenticated(StringMatch(kind="prefix", value=start))

    def _service_account(self, value: str) -> Any:
        namespace, slash, account = value.partition("/")
        if not slash:
            namespace, account = self._namespace, value
        return _authenticated(exact(spiffe_id(self._trust_domain, namespace, account)))


# === leaves ===


def _authenticated(match: StringMatch) -> Any:
    return Principal(authenticated=Principal.Authenticated(principal_name=string_matcher(match)))


def _principal(value: str) -> Any:
    """`cluster.local/ns/a/sa/b`: a SPIFFE id without its scheme."""
    match = wildcard(value)
    if match.kind in ("exact", "prefix"):
        match = StringMatch(kind=match.kind, value=f"spiffe://{match.value}")
    return _authenticated(match)


def _in_trust_domain(value: str) -> Any:
    match = wildcard(value)
    if match.kind == "exact":
        return _authenticated(StringMatch(kind="prefix", value=f"spiffe://{value}/"))
    if match.kind == "prefix":
        return _authenticated(StringMatch(kind="prefix", value=f"spiffe://{match.value}"))
    if match.kind == "suffix":
        return _authenticated(StringMatch(kind="regex", value=f"spiffe://[^/]*{re.escape(match.value)}/.*"))
    return _authenticated(StringMatch(kind="prefix", value="spiffe://"))


def _direct_ip(value: str) -> Any:
    return Principal(direct_remote_ip=cidr(value))


def _remote_ip(value: str) -> Any:
    return Principal(remote_ip=cidr(value))


def _metadata(path: Sequence[str], value: Any) -> Any:
    return Principal(
        metadata=MetadataMatcher(
            filter=JWT_METADATA,
            path=[MetadataMatcher.PathSegment(key=key) for key in (JWT_PAYLOAD, *path)],
            value=value,
        )
    )


def _claim(path: Sequence[str], value: str) -> Any:
    """A claim is a string or a list of them."""
    matcher = ValueMatcher(string_match=string_matcher(wildcard(value)))
    return _PRINCIPALS.any(
        [_metadata(path, matcher), _metadata(path, ValueMatcher(list_match=ListMatcher(one_of=matcher)))]
    )


def _issuer_and_subject(issuer: StringMatch, subject: StringMatch) -> Any:
    return _PRINCIPALS.all(
        [
            _metadata(["iss"], ValueMatcher(string_match=string_matcher(issuer))),
            _metadata(["sub"], ValueMatcher(string_match=string_matcher(subject))),
        ]
    )


_SOMETHING = StringMatch(kind="regex", value=".+")


def request_principal(value: str) -> Any:
    """`issuer/subject`. An issuer may hold slashes itself, so every way to cut the value is an alternative."""
    match = wildcard(value)
    text = match.value
    cuts = [(text[:at], text[at + 1 :]) for at, char in enumerate(text) if char == "/"]
    if match.kind == "exact":
        pairs = [(exact(issuer), exact(subject)) for issuer, subject in cuts]
    elif match.kind == "prefix":
        pairs = [
            (exact(issuer), StringMatch(kind="prefix", value=subject) if subject else _SOMETHING)
            for issuer, subject in cuts
        ]
        pairs.append((StringMatch(kind="prefix", value=text), _SOMETHING))
    elif match.kind == "suffix":
        pairs = [
            (StringMatch(kind="suffix", value=issuer) if issuer else _SOMETHING, exact(subject))
            for issuer, subject in cuts
        ]
        pairs.append((_SOMETHING, StringMatch(kind="suffix", value=text)))
    else:
        pairs = [(_SOMETHING, _SOMETHING)]
    if not pairs:  # exact, and no slash: no token has such a principal
        return _PRINCIPALS.none([Principal(any=True)])
    return _PRINCIPALS.any([_issuer_and_subject(issuer, subject) for issuer, subject in pairs])


def _header(name: str, value: str) -> Any:
    if value == "*":
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=string_matcher(wildcard(value)))


def _host(value: str) -> Any:
    """Host names have no case, and a port the client wrote after one does not make it another."""
    if value == "*":
        return Permission(header=HeaderMatcher(name=":authority", present_match=True))
    match = wildcard(value)
    if match.kind == "prefix":
        pattern = f"(?i){re.escape(match.value)}.*"
    else:
        start = ".*" if match.kind == "suffix" else ""
        pattern = f"(?i){start}{re.escape(match.value)}(:[0-9]+)?"
    matcher = StringMatcher(safe_regex=RegexMatcher(regex=pattern))
    return Permission(header=HeaderMatcher(name=":authority", string_match=matcher))


def _method(value: str) -> Any:
    return Permission(header=_header(":method", value))


def _path(value: str) -> Any:
    """Without the query. `{*}` stands for one segment, `{**}` for any number."""
    if "{*}" in value or "{**}" in value:
        template = value.replace("{**}", "**").replace("{*}", "*")
        return Permission(
            uri_template=TypedExtensionConfig(
                name="uri-template", typed_config=packed(UriTemplateMatchConfig(path_template=template))
            )
        )
    return Permission(url_path=PathMatcher(path=string_matcher(wildcard(value))))


def _port(value: str) -> Any:
    return Permission(destination_port=int(value))


def _destination_ip(value: str) -> Any:
    return Permission(destination_ip=cidr(value))


def _sni(value: str) -> Any:
    return Permission(requested_server_name=string_matcher(wildcard(value)))
