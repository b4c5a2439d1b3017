"""A document to a typed object: every mistake at once, each where it was written."""

from __future__ import annotations

import pytest

from manifests import InvalidManifests, load_text
from manifests.decode import decode, decode_errors
from manifests.kube import Deployment, Pod, Service
from manifests.scalars import Duration, GatewayDuration

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: app
  labels:
    version: 1
    ready: yes
spec:
  containers:
  - name: app
    imagePullPolicy: always
    ports:
    - containerPort: "80"
    - containerport: 81
    - {}
    env:
    - {name: A, value: 5}
    readinessProbe:
      httpGet: {port: [80]}
      periodSeconds: 0
  volumes:
"""


def test_every_mistake_with_its_line() -> None:
    errors = decode_errors(load_text(POD, "pod.yaml")[0], Pod)
    assert [(error.line, error.field, error.message) for error in sorted(errors)] == [
        (7, "metadata.labels.version", "is a number: every value of labels is text, put it in quotes"),
        (
            8,
            "metadata.labels.ready",
            "is true/false (YAML also reads yes, no, on and off so): every value of labels is text, put it in quotes",
        ),
        (12, "spec.containers[0].imagePullPolicy", 'is not one of the allowed values; did you mean "Always"?'),
        (14, "spec.containers[0].ports[0].containerPort", "is text: remove the quotes"),
        (15, "spec.containers[0].ports[1].containerport", 'is an unknown field; did you mean "containerPort"?'),
        (16, "spec.containers[0].ports[2].containerPort", "is missing"),
        (18, "spec.containers[0].env[0].value", "is a number: put it in quotes"),
        (20, "spec.containers[0].readinessProbe.httpGet.port", "is a list"),
        (21, "spec.containers[0].readinessProbe.periodSeconds", "is out of range"),
        (22, "spec.volumes", "is empty (null)"),
    ]
    assert all(error.file == "pod.yaml" for error in errors)


def test_a_right_document_is_decoded() -> None:
    ports = "[{port: 80, targetPort: web}, {port: 81, targetPort: 8}]"
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: {ports}}}"
    service = decode(load_text(text)[0], Service)
    assert [port.target_port for port in service.spec.ports] == ["web", 8]


def test_null_is_only_where_a_field_may_be_absent() -> None:
    text = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, creationTimestamp: null}
spec: {selector: null, template: {spec: {containers: []}}}
"""
    with pytest.raises(InvalidManifests) as refusal:
        decode(load_text(text)[0], Deployment)
    assert [error.field for error in refusal.value.errors] == ["spec.selector"]


def test_what_is_known_and_not_supported_is_no_typo() -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {sessionAffinity: ClientIP, clusterIP: fixed}"
    unsupported = {"spec.sessionAffinity": "", "spec.clusterIP=fixed": "choose None"}
    errors = decode_errors(load_text(text)[0], Service, unsupported=unsupported)
    assert {error.field: error.message for error in errors} == {
        "spec.sessionAffinity": "is not supported by this mesh yet",
        "spec.clusterIP": "is not supported by this mesh yet: choose None",
    }


def test_one_mistake_repeated_does_not_fill_the_memory() -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n" + "  - {}\n" * 5_000
    assert len(decode_errors(load_text(text)[0], Service)) <= 201


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.5s", 1.5), ("100ms", 0.1), ("1h30m", 5400.0), ("0", 0.0), ("0s", 0.0), ("250us", 0.00025), (".5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "5", 5, 1.5, True, None, "-1s", "1 s", "1x", "soon", "1s garbage", "9" * 400 + "s"]
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration.parse(value)


@pytest.mark.parametrize(
    ("text", "ok"), [("10s", True), ("1m500ms", True), ("0s", True), ("1.5s", False), ("1us", False)]
)
def test_gateway_api_durations(text: str, ok: bool) -> None:
    if ok:
        assert GatewayDuration.parse(text) == Duration.parse(text)
    else:
        with pytest.raises(ValueError, match="duration"):
            GatewayDuration.parse(text)
