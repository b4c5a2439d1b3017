"""Broken manifests name file, line, field and reason, all mistakes at once; good ones are accepted as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests import InvalidManifests, ManifestError, load_file, load_text
from mesh.config.validate import validate

HERE = Path(__file__).parent
HOSTS = {
    f"{name}.bookinfo.svc.cluster.local": frozenset({9080}) for name in ("productpage", "details", "reviews", "ratings")
}

Expected = list[tuple[int, str, str]]
"""Line, field, part of the message (or of what was expected)."""

BROKEN: dict[str, Expected] = {
    "authorization": [
        (8, "spec.rules[0].from[0].source.ipBlocks[0]", "is not an IP address or CIDR"),
        (9, "spec.rules[0].from[0].source.principals[0]", "has a scheme"),
        (12, "spec.rules[0].to[0].operation.ports[0]", "is not a port"),
        (13, "spec.rules[0].to[0].operation.methods", "is empty"),
        (15, "spec.rules[0].when[0].key", 'did you mean "source.ip"?'),
    ],
    "bad-yaml": [(7, "", "not valid YAML")],
    "costly-regex": [(9, "spec.http[0].match[0].uri.regex", "too large")],
    "dangling-gateway": [(8, "spec.gateways[1]", "there is no Gateway bookinfo/bookinfo-gateway")],
    "dangling-host": [
        (9, "spec.http[0].route[0].destination.host", 'did you mean "reviews.bookinfo.svc.cluster.local"?')
    ],
    "dangling-parent": [(8, "spec.parentRefs[0].name", 'did you mean "reviews"?')],
    "dangling-port": [(10, "spec.http[0].route[0].destination.port.number", "one of 9080")],
    "dangling-subset": [(21, "spec.http[0].route[1].destination.subset", "one of v1, v2")],
    "duplicate-host": [(15, "spec.hosts[0]", "is claimed by VirtualService/bookinfo/reviews")],
    "duplicate-key": [(9, "spec.hosts", "is written twice (first on line 5)")],
    "duplicate-object": [(9, "metadata.name", "is a second DestinationRule of this name")],
    "duplicate-subset": [(8, "spec.subsets[1].name", "is the name of subsets[0] already")],
    "duration": [
        (7, "spec.http[0].timeout", "the unit is missing"),
        (10, "spec.http[0].retries.perTryTimeout", "is not a duration"),
    ],
    "enum": [(6, "spec.mtls.mode", 'did you mean "STRICT"?')],
    "gateway-parent": [(6, "spec.parentRefs[0]", "is not supported by this mesh yet")],
    "header-name": [
        (10, "spec.http[0].headers.request.set.x user", "is not a valid header name"),
        (12, "spec.http[0].headers.request.remove[0]", "cannot be changed as a header"),
    ],
    "hostname": [
        (6, "spec.hosts[0]", "only a whole first label may be *"),
        (7, "spec.hosts[1]", "would claim every host"),
        (10, "spec.http[0].route[0].destination.host", "is not a valid host name"),
    ],
    "http-route": [
        (9, "spec.rules[0].matches[0].path.value", 'a path, beginning "/"'),
        (10, "spec.rules[0].filters", "has both RequestRedirect and URLRewrite"),
        (13, "spec.rules[0].filters[0].urlRewrite.path.type", "needs a prefix to replace"),
        (14, "spec.rules[0].filters[1].requestRedirect", "is missing"),
        (15, "spec.rules[0].filters[1].requestHeaderModifier", "type is RequestRedirect"),
        (16, "spec.rules[0].backendRefs", "is given beside a RequestRedirect filter"),
        (17, "spec.rules[0].backendRefs[0].port", "is missing"),
        (18, "spec.rules[0].timeouts.backendRequest", "is longer than request"),
        (21, "spec.rules[1].timeouts.request", "GEP-2257"),
    ],
    "invalid-regex": [
        (9, "spec.http[0].match[0].uri.regex", "is not a valid regular expression"),
        (12, "spec.http[0].match[1].headers.cookie.regex", "without look-around"),
    ],
    "jwks": [
        (7, "spec.jwtRules[0].jwks", "is not JSON"),
        (9, "spec.jwtRules[1].jwks", "has a private or secret key: key 0 has the member d"),
        (11, "spec.jwtRules[2].jwks", "has a private or secret key: key 0 has the member k"),
        (12, "spec.jwtRules[3].jwks", "is missing"),
    ],
    "load-balancer": [
        (9, "spec.trafficPolicy.loadBalancer.consistentHash", "is given beside simple"),
        (11, "spec.trafficPolicy.loadBalancer.consistentHash.useSourceIp", "is given beside httpHeaderName"),
        (13, "spec.trafficPolicy.outlierDetection.interval", "is too short"),
        (14, "spec.trafficPolicy.outlierDetection.maxEjectionPercent", "a whole number from 0 to 100"),
    ],
    "missing-name": [(3, "metadata.name", "is missing")],
    "missing-required": [(8, "spec.http[0].route[0].destination.host", "is missing")],
    "name-and-labels": [
        (4, "metadata.name", "is not a valid name"),
        (6, "metadata.labels.app", "is not a valid label value"),
        (8, "metadata.annotations.owner", "put it in quotes"),
    ],
    "out-of-range": [
        (9, "spec.http[0].fault.abort.httpStatus", "is out of range"),
        (10, "spec.http[0].fault.abort.percentage.value", "a number from 0 to 100"),
        (12, "spec.http[0].route[0].destination.port.number", "a whole number from 1 to 65535"),
        (13, "spec.http[0].route[0].weight", "is out of range"),
    ],
    "port-mtls": [(8, "spec.portLevelMtls.http", "is not a number")],
    "port-mtls-scope": [(6, "spec.portLevelMtls", "needs a selector")],
    "redirect-and-route": [
        (9, "spec.http[0].redirect", "is given beside route"),
        (10, "spec.http[0].rewrite", "is given beside redirect"),
    ],
    "retry": [(9, "spec.http[0].retries.retryOn", 'did you mean "connect-failure"?')],
    "service-entry": [
        (5, "spec.hosts[0]", "is a wildcard"),
        (8, "spec.ports[1].name", "is that of ports[0] already"),
        (8, "spec.ports[1].number", "is that of ports[0] already"),
        (11, "spec.endpoints[0].address", "is not an IP address"),
    ],
    "sidecar": [(7, "spec.egress[0].hosts[0]", "has no namespace")],
    "tab-indent": [(4, "", "not valid YAML")],
    "two-uri-matches": [
        (10, "spec.http[0].match[0].uri.prefix", "is given beside exact"),
        (11, "spec.http[0].match[1]", "says nothing"),
    ],
    "unknown-field": [(7, "spec.http[0].timeOut", 'is an unknown field; did you mean "timeout"?')],
    "unknown-kind": [(2, "kind", 'did you mean "VirtualService"?')],
    "unquoted-label": [(9, "spec.subsets[0].labels.version", "put it in quotes")],
    "unsupported-field": [(7, "spec.http[0].corsPolicy", "is not supported by this mesh yet")],
    "unsupported-value": [
        (5, "spec.action", "is not supported by this mesh yet"),
        (6, "spec.provider", "is not supported by this mesh yet"),
    ],
    "weights": [(7, "spec.http[0].route", "add up to 0")],
    "wrong-api-version": [(1, "apiVersion", "networking.istio.io/v1")],
    "wrong-type": [
        (5, "spec.hosts", "a list of texts"),
        (8, "spec.http[0].route[0].destination.port.number", "remove the quotes"),
    ],
}


def errors_of(path: Path) -> tuple[ManifestError, ...]:
    try:
        return validate(load_file(path), hosts=HOSTS).errors
    except InvalidManifests as exc:
        return exc.errors


def test_every_broken_manifest_has_an_expectation() -> None:
    assert {path.stem for path in (HERE / "broken").glob("*.yaml")} == BROKEN.keys()
    assert len(BROKEN) >= 20


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_manifest(name: str) -> None:
    path = HERE / "broken" / f"{name}.yaml"
    errors = errors_of(path)
    assert [(error.line, error.field) for error in errors] == [(line, field) for line, field, _ in BROKEN[name]]
    for error, (_, _, part) in zip(errors, BROKEN[name], strict=True):
        assert error.file == str(path)
        assert part in f"{error.message}; expected {error.expected}"


def test_a_private_key_is_never_shown() -> None:
    text = "\n".join(map(str, errors_of(HERE / "broken" / "jwks.yaml")))
    assert "c2VjcmV0LXNjYWxhcg" not in text
    assert "c2hhcmVkLXNlY3JldA" not in text


@pytest.mark.parametrize("path", sorted((HERE / "valid").glob("*.yaml")), ids=lambda path: path.stem)
def test_valid_manifest(path: Path) -> None:
    documents = load_file(path)
    judged = validate(documents, hosts=HOSTS)
    assert [str(error) for error in judged.errors] == []
    assert [str(warning) for warning in judged.warnings] == []
    assert len(judged.entries) == len(documents)
    assert all(entry.config is not None for entry in judged.entries)


ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: [reviews.bookinfo.svc.cluster.local], http: [{{route: [{{destination: {{host: {host}}}}}]}}]{more}}}
"""


def route(name: str = "a", namespace: str = "bookinfo", host: str = "reviews", more: str = "") -> str:
    return ROUTE.format(name=name, namespace=namespace, host=host, more=more)


def test_one_host_may_have_a_virtual_service_per_namespace_that_keeps_it_to_itself() -> None:
    own = ", exportTo: ['.']"
    far = "reviews.bookinfo.svc.cluster.local"
    apart = load_text(route("a", "one", far, own) + "---" + route("b", "two", far, own))
    assert validate(apart, hosts=HOSTS).errors == ()
    together = load_text(route("a", "one", far, own) + "---" + route("b", "two", far))
    assert [error.field for error in validate(together, hosts=HOSTS).errors] == ["spec.hosts[0]"]


def test_a_reference_to_a_service_is_an_error_only_in_what_is_changed() -> None:
    documents = load_text(route(host="gone"))
    field = "spec.http[0].route[0].destination.host"
    changed = validate(documents, hosts=HOSTS, strict=["VirtualService/bookinfo/a"])
    assert [error.field for error in changed.errors] == [field]
    ran_before = validate(documents, hosts=HOSTS, strict=())
    assert ran_before.errors == ()
    assert [warning.field for warning in ran_before.warnings] == [field]
    unknown = validate(documents, hosts=None)
    assert (unknown.errors, unknown.warnings) == ((), ())


def test_a_backend_that_does_not_exist_is_accepted_with_a_warning() -> None:
    """Gateway API: it is answered 500, and the other rules work."""
    text = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: bookinfo}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews, port: 9080}]
  rules:
  - backendRefs: [{name: nobody, port: 80}]
"""
    judged = validate(load_text(text), hosts=HOSTS)
    assert judged.errors == ()
    assert [warning.field for warning in judged.warnings] == ["spec.rules[0].backendRefs[0].name"]


def test_rules_behind_one_that_takes_everything_are_warned_of() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: bookinfo}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /}}]
    route: [{destination: {host: reviews}}]
  - match: [{uri: {exact: /never}}]
    route: [{destination: {host: ratings}}]
"""
    judged = validate(load_text(text), hosts=HOSTS)
    assert judged.errors == ()
    assert [(warning.line, warning.field) for warning in judged.warnings] == [(10, "spec.http[1]")]


def test_a_mistake_in_one_object_does_not_hide_or_invent_mistakes_in_another() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: bookinfo}
spec: {host: reviews, subsets: [{nam: v1}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: bookinfo}
spec: {hosts: [reviews], http: [{timeout: 1, route: [{destination: {host: reviews, subset: v1}}]}]}
"""
    errors = validate(load_text(text), hosts=HOSTS).errors
    assert [error.field for error in errors] == ["spec.subsets[0].nam", "spec.http[0].timeout"]
