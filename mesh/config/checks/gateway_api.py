"""HTTPRoute: the rules of Gateway API's CRD (its CEL included) and of routes whose parent is a Service (GAMMA)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from manifests.load import FieldPath
from mesh.config.checks import values
from mesh.config.checks.findings import Findings
from mesh.config.snapshot import Config
from mesh.config.types import HTTPRoute
from mesh.config.types import gateway_api as gateway

MAX_RULES = 16
MAX_MATCHES = 64
MAX_FILTERS = 16
MAX_BACKENDS = 16

_FILTER_FIELDS = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
}
_REPEATABLE = frozenset({"RequestMirror"})
_NOT_IN_PATH = re.compile(r"//|/\.{1,2}(/|$)|%2f|%2F|#")


def check_http_route(config: Config[HTTPRoute], findings: Findings) -> None:
    spec = config.spec
    if not spec.parent_refs:
        findings.error(("spec", "parentRefs"), "is empty, so the route is attached to nothing", expected="a Service")
    for index, parent in enumerate(spec.parent_refs):
        _parent(findings, ("spec", "parentRefs", index), parent)
    if len(spec.rules) > MAX_RULES:
        findings.error(("spec", "rules"), f"has {len(spec.rules)} rules", expected=f"at most {MAX_RULES}")
    names = Counter(rule.name for rule in spec.rules if rule.name)
    for index, rule in enumerate(spec.rules):
        path: FieldPath = ("spec", "rules", index)
        if names[rule.name] > 1:
            findings.error((*path, "name"), "is the name of another rule too", value=rule.name)
        _rule(findings, path, rule)


def _parent(findings: Findings, path: FieldPath, parent: gateway.ParentReference) -> None:
    if parent.kind == "Gateway":
        where: FieldPath = (*path, "kind") if findings.wrote((*path, "kind")) else path
        findings.error(
            where,
            "is a Gateway, which is not supported by this mesh yet",
            value=parent.name,
            expected='a Service: {group: "", kind: Service, name: ...}',
        )
    elif parent.kind != "Service" or parent.group not in ("", "core"):
        findings.error(
            (*path, "kind" if parent.kind != "Service" else "group"),
            "is not what a route can be attached to",
            value=f"{parent.group}/{parent.kind}",
            expected='group "" and kind Service',
        )


def _rule(findings: Findings, path: FieldPath, rule: gateway.HTTPRouteRule) -> None:
    for name, items, most in (
        ("matches", rule.matches, MAX_MATCHES),
        ("filters", rule.filters, MAX_FILTERS),
        ("backendRefs", rule.backend_refs, MAX_BACKENDS),
    ):
        if len(items) > most:
            findings.error((*path, name), f"has {len(items)} entries", expected=f"at most {most}")
    for index, match in enumerate(rule.matches):
        _match(findings, (*path, "matches", index), match)
    _filters(findings, path, rule.filters, rule.matches)
    kinds = {item.type for item in rule.filters}
    if "RequestRedirect" in kinds and rule.backend_refs:
        findings.error((*path, "backendRefs"), "is given beside a RequestRedirect filter", expected="one of the two")
    if not rule.backend_refs and "RequestRedirect" not in kinds:
        findings.warn(path, "has no backendRefs, so every request is answered 500")
    for index, backend in enumerate(rule.backend_refs):
        _backend(findings, (*path, "backendRefs", index), backend, rule.matches)
    if len(rule.backend_refs) > 0 and sum(backend.weight for backend in rule.backend_refs) == 0:
        findings.warn((*path, "backendRefs"), "has weights that add up to 0, so every request is answered 500")
    timeouts = rule.timeouts or gateway.HTTPRouteTimeouts()
    if timeouts.request and timeouts.backend_request and timeouts.backend_request > timeouts.request:
        findings.error(
            (*path, "timeouts", "backendRequest"),
            "is longer than request",
            value=str(timeouts.backend_request),
            expected=f"at most {timeouts.request}",
        )


def _match(findings: Findings, path: FieldPath, match: gateway.HTTPRouteMatch) -> None:
    value = match.path.value
    if match.path.type == "RegularExpression":
        values.check_regex(findings, (*path, "path", "value"), value)
    elif not value.startswith("/"):
        findings.error((*path, "path", "value"), "is not a path", value=value or '""', expected='a path, beginning "/"')
    elif bad := _NOT_IN_PATH.search(value):
        findings.error((*path, "path", "value"), f'contains "{bad[0]}", which no normalized path does', value=value)
    seen: set[str] = set()
    for index, header in enumerate(match.headers):
        where: FieldPath = (*path, "headers", index)
        values.check_header_name(findings, (*where, "name"), header.name)
        if header.name.lower() in seen:
            findings.error((*where, "name"), "is matched twice; only the first would count", value=header.name)
        seen.add(header.name.lower())
        if header.type == "RegularExpression":
            values.check_regex(findings, (*where, "value"), header.value)
    names: set[str] = set()
    for index, parameter in enumerate(match.query_params):
        where = (*path, "queryParams", index)
        if parameter.name in names:
            findings.error((*where, "name"), "is matched twice; only the first would count", value=parameter.name)
        names.add(parameter.name)
        if parameter.type == "RegularExpression":
            values.check_regex(findings, (*where, "value"), parameter.value)


def _filters(
    findings: Findings,
    path: FieldPath,
    filters: Sequence[gateway.HTTPRouteFilter],
    matches: Sequence[gateway.HTTPRouteMatch],
) -> None:
    counts = Counter(item.type for item in filters)
    for index, item in enumerate(filters):
        where: FieldPath = (*path, "filters", index)
        if counts[item.type] > 1 and item.type not in _REPEATABLE:
            findings.error((*where, "type"), "is given more than once", value=item.type, expected="each type once")
        _filter(findings, where, item, matches)
    if counts["RequestRedirect"] and counts["URLRewrite"]:
        findings.error((*path, "filters"), "has both RequestRedirect and URLRewrite", expected="one of the two")


def _filter(
    findings: Findings,
    path: FieldPath,
    item: gateway.HTTPRouteFilter,
    matches: Sequence[gateway.HTTPRouteMatch],
) -> None:
    given = {
        "requestHeaderModifier": item.request_header_modifier,
        "responseHeaderModifier": item.response_header_modifier,
        "requestMirror": item.request_mirror,
        "requestRedirect": item.request_redirect,
        "urlRewrite": item.url_rewrite,
    }
    wanted = _FILTER_FIELDS[item.type]
    if given[wanted] is None:
        findings.error((*path, wanted), "is missing", expected=f"it, as type is {item.type}")
    for name, value in given.items():
        if name != wanted and value is not None:
            findings.error((*path, name), f"is given, but type is {item.type}", expected=wanted)
    for name, modifier in (
        ("requestHeaderModifier", item.request_header_modifier),
        ("responseHeaderModifier", item.response_header_modifier),
    ):
        if modifier is not None:
            _headers(findings, (*path, name), modifier)
    if item.request_mirror is not None:
        mirror = item.request_mirror
        _reference(findings, (*path, "requestMirror", "backendRef"), mirror.backend_ref)
        if mirror.percent is not None and mirror.fraction is not None:
            findings.error((*path, "requestMirror", "fraction"), "is given beside percent", expected="one of the two")
        if mirror.fraction is not None and mirror.fraction.numerator > mirror.fraction.denominator:
            findings.error(
                (*path, "requestMirror", "fraction", "numerator"),
                "is larger than the denominator",
                value=mirror.fraction.numerator,
                expected=f"at most {mirror.fraction.denominator}",
            )
    if item.request_redirect is not None:
        where: FieldPath = (*path, "requestRedirect")
        _hostname(findings, (*where, "hostname"), item.request_redirect.hostname)
        _path_modifier(findings, (*where, "path"), item.request_redirect.path, matches)
    if item.url_rewrite is not None:
        where = (*path, "urlRewrite")
        _hostname(findings, (*where, "hostname"), item.url_rewrite.hostname)
        _path_modifier(findings, (*where, "path"), item.url_rewrite.path, matches)
        if not item.url_rewrite.hostname and item.url_rewrite.path is None:
            findings.error(where, "says nothing", expected="hostname or path")


def _hostname(findings: Findings, path: FieldPath, hostname: str) -> None:
    if hostname:
        values.check_host(findings, path, hostname, wildcard=False)


def _headers(findings: Findings, path: FieldPath, modifier: gateway.HTTPHeaderFilter) -> None:
    for name, headers in (("set", modifier.set), ("add", modifier.add)):
        for index, header in enumerate(headers):
            values.check_header_name(findings, (*path, name, index, "name"), header.name, write=True)
            values.check_header_value(findings, (*path, name, index, "value"), header.value)
    for index, removed in enumerate(modifier.remove):
        values.check_header_name(findings, (*path, "remove", index), removed, write=True)
    if not (modifier.set or modifier.add or modifier.remove):
        findings.error(path, "says nothing", expected="set, add or remove")


def _path_modifier(
    findings: Findings,
    path: FieldPath,
    modifier: gateway.HTTPPathModifier | None,
    matches: Sequence[gateway.HTTPRouteMatch],
) -> None:
    if modifier is None:
        return
    full = modifier.type == "ReplaceFullPath"
    wanted, other = ("replaceFullPath", "replacePrefixMatch") if full else ("replacePrefixMatch", "replaceFullPath")
    value = modifier.replace_full_path if full else modifier.replace_prefix_match
    unwanted = modifier.replace_prefix_match if full else modifier.replace_full_path
    if value is None:
        findings.error((*path, wanted), "is missing", expected=f"it, as type is {modifier.type}")
    elif value and not value.startswith("/"):
        findings.error((*path, wanted), "is not a path", value=value, expected='a path, beginning "/"')
    if unwanted is not None:
        findings.error((*path, other), f"is given, but type is {modifier.type}", expected=wanted)
    if not full and (len(matches) != 1 or matches[0].path.type != "PathPrefix"):
        findings.error(
            (*path, "type"),
            "needs a prefix to replace",
            value=modifier.type,
            expected="exactly one match in the rule, of type PathPrefix",
        )


def _reference(
    findings: Findings, path: FieldPath, reference: gateway.BackendObjectReference | gateway.HTTPBackendRef
) -> None:
    if reference.kind != "Service" or reference.group not in ("", "core"):
        kind = f"{reference.group}/{reference.kind}".lstrip("/")
        findings.warn(path, "is no Service, so its share of the requests is answered 500", value=kind)
    elif reference.port is None:
        findings.error((*path, "port"), "is missing", expected="the port of the Service")


def _backend(
    findings: Findings,
    path: FieldPath,
    backend: gateway.HTTPBackendRef,
    matches: Sequence[gateway.HTTPRouteMatch],
) -> None:
    _reference(findings, path, backend)
    _filters(findings, path, backend.filters, matches)
    for index, item in enumerate(backend.filters):
        where: FieldPath = (*path, "filters", index)
        if item.type in ("RequestMirror", "RequestRedirect"):
            findings.error((*where, "type"), "is not supported by this mesh yet on a backend", value=item.type)
        if item.url_rewrite is not None and item.url_rewrite.path is not None:
            findings.error((*where, "urlRewrite", "path"), "is not supported by this mesh yet on a backend")
