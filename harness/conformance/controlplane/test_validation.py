"""What the mesh accepts and refuses, and how it says so."""

from __future__ import annotations

import pytest

from harness.conformance.checks import check
from harness.conformance.lab import Lab
from harness.conformance.routing.manifests import SUBSETS, to, virtual_service
from manifests import InvalidManifests

_HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad, namespace: $NS}\n"
_HOST = "server.$NS.svc.cluster.local"

VALID = {
    "subsets": SUBSETS,
    "a route": virtual_service(f"- timeout: 2s\n  retries: {{attempts: 2}}\n  route: {to('v1')}\n"),
    "a strict policy": "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
    "metadata: {name: ok, namespace: $NS}\nspec: {mtls: {mode: STRICT}}\n",
    "an allow policy": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: ok, namespace: $NS}\nspec: {rules: [{to: [{operation: {methods: [GET]}}]}]}\n",
}

INVALID = {
    "unknown field": (_HEAD + f"spec: {{hosts: [{_HOST}], httpp: []}}\n", "httpp"),
    "wrong type": (_HEAD + f"spec: {{hosts: {_HOST}, http: []}}\n", "hosts"),
    "negative weight": (
        _HEAD + f"spec: {{hosts: [{_HOST}], http: [{{route: [{{destination: {{host: {_HOST}}}, weight: -1}}]}}]}}\n",
        "weight",
    ),
    "invalid regex": (
        _HEAD + f"spec: {{hosts: [{_HOST}], http: [{{match: [{{uri: {{regex: '(['}}}}], "
        f"route: [{{destination: {{host: {_HOST}}}}}]}}]}}\n",
        "regex",
    ),
    "percentage over 100": (
        _HEAD
        + f"spec: {{hosts: [{_HOST}], http: [{{fault: {{abort: {{httpStatus: 500, percentage: {{value: 120}}}}}}, "
        f"route: [{{destination: {{host: {_HOST}}}}}]}}]}}\n",
        "value",
    ),
    "no such subset": (
        _HEAD + f"spec: {{hosts: [{_HOST}], http: [{{route: [{{destination: {{host: {_HOST}, subset: nope}}}}]}}]}}\n",
        "subset",
    ),
    "unknown mode": (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: bad, namespace: $NS}\n"
        "spec: {mtls: {mode: SOMETIMES}}\n",
        "mode",
    ),
    "unparsable duration": (
        _HEAD + f"spec: {{hosts: [{_HOST}], http: [{{timeout: soon, route: [{{destination: {{host: {_HOST}}}}}]}}]}}\n",
        "timeout",
    ),
}


@check(
    "C1",
    "valid configuration is accepted, invalid is refused with the field at fault, and nothing changes",
    feature="ControlPlane",
    mutants=("@accepts-everything",),
)
def test_corpus(lab: Lab) -> None:
    before = lab.mesh.digest()
    for text in VALID.values():
        lab.mesh.validate(lab.documents(text))
    for kind, (text, field) in INVALID.items():
        with pytest.raises(InvalidManifests) as refusal:
            lab.mesh.apply(lab.documents(text))
        errors = refusal.value.errors
        lab.note(f"refused: {kind}", "\n".join(map(str, errors)))
        assert any(field in error.field for error in errors), f"{kind}: {field} is not named in {errors}"
        assert all(error.line > 0 for error in errors), f"{kind}: no line in {errors}"
    assert lab.mesh.digest() == before, "a refused manifest changed the mesh"
