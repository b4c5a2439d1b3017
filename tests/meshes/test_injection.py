"""Injection: what is added to a pod, what is left alone, and which connections are intercepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manifests.kube import Pod
from mesh.inject import init
from mesh.inject.bootstrap import BootstrapSettings, bootstrap
from mesh.inject.intercept import InvalidAnnotation, from_annotations, rules
from mesh.inject.webhook import InjectionError, InjectSettings, inject, workload_name

SETTINGS = InjectSettings(
    bootstrap=BootstrapSettings(discovery_host="control-plane.mesh-system.svc", root_certificate="PEM"),
    python="/usr/bin/python3",
    envoy="/opt/envoy",
)


def pod(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reviews-v1-0123456789-bcdfg", "namespace": "bookinfo", **metadata},
        "spec": {
            "serviceAccountName": "reviews",
            "initContainers": [{"name": "mine", "command": ["true"]}],
            "containers": [{"name": "app", "command": ["app"], "ports": [{"containerPort": 9080}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }


def test_a_pod_gets_a_proxy_and_keeps_what_it_had() -> None:
    before = pod()
    after = inject(before, SETTINGS)
    assert before == pod(), "the argument is left as it was"
    assert [c["name"] for c in after["spec"]["containers"]] == ["istio-proxy", "app"]
    assert [c["name"] for c in after["spec"]["initContainers"]] == ["mine", "istio-init"]
    assert after["spec"]["containers"][1] == before["spec"]["containers"][0]
    assert {v["name"] for v in after["spec"]["volumes"]} == {"data", "istio-envoy", "istio-token"}
    proxy = after["spec"]["containers"][0]
    assert proxy["securityContext"]["runAsUser"] == 1337
    assert proxy["readinessProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    decoded = msgspec.convert(after, Pod)
    assert decoded.spec.containers[0].name == "istio-proxy"


def test_injection_twice_is_injection_once() -> None:
    once = inject(pod(), SETTINGS)
    assert inject(once, SETTINGS) == once


@pytest.mark.parametrize(
    ("metadata", "injected"),
    [
        ({}, True),
        ({"annotations": {"sidecar.istio.io/inject": "false"}}, False),
        ({"labels": {"sidecar.istio.io/inject": "false"}}, False),
        (
            {
                "labels": {"sidecar.istio.io/inject": "true"},
                "annotations": {"sidecar.istio.io/inject": "false"},
            },
            True,
        ),
    ],
)
def test_label_wins_over_annotation(metadata: dict[str, Any], injected: bool) -> None:
    names = [c["name"] for c in inject(pod(**metadata), SETTINGS)["spec"]["containers"]]
    assert ("istio-proxy" in names) is injected


def test_host_network_is_never_injected() -> None:
    host = pod(labels={"sidecar.istio.io/inject": "true"})
    host["spec"]["hostNetwork"] = True
    assert inject(host, SETTINGS) == host


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("sidecar.istio.io/inject", "yes"),
        ("sidecar.istio.io/proxyCPU", "2"),
        ("proxy.istio.io/config", "holdApplicationUntilProxyStarts: true"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "80,http"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "70000"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/33"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", "eth9"),
    ],
)
def test_an_annotation_that_cannot_be_honoured_is_refused_by_name(annotation: str, value: str) -> None:
    with pytest.raises(InjectionError, match=annotation.replace(".", r"\.")):
        inject(pod(annotations={annotation: value}), SETTINGS)


def test_a_workload_is_named_after_its_owner() -> None:
    assert workload_name(pod()["metadata"]) == "reviews-v1"
    assert workload_name({"name": "client"}) == "client"
    assert workload_name({"name": "a-b-c"}) == "a-b-c"
    assert workload_name({"name": "x", "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5f4b9c"}]}) == "web"


def test_files_come_with_the_address_and_belong_to_the_proxy_only(tmp_path: Path) -> None:
    import os
    import stat

    path = tmp_path / "proxy" / "envoy.json"
    init.write(path, "one", os.getuid())
    init.write(path, "two", os.getuid())
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_bootstrap_knows_who_where_and_by_what_it_is_proved() -> None:
    made = bootstrap(SETTINGS.bootstrap, namespace="bookinfo", pod="reviews-1", workload="reviews")
    assert made["node"]["id"] == "sidecar~${INSTANCE_IP}~reviews-1.bookinfo~bookinfo.svc.cluster.local"
    assert made["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    text = json.dumps(made)
    assert "control-plane.mesh-system.svc" in text
    assert '"trusted_ca": {"inline_string": "PEM"}' in text
    admin = made["admin"]["address"]["socket_address"]
    assert (admin["address"], admin["port_value"]) == ("127.0.0.1", 15000)


# --- interception


def lines(**annotations: str) -> list[str]:
    named = {f"traffic.sidecar.istio.io/{name}": value for name, value in annotations.items()}
    return rules(from_annotations(named)).splitlines()


def test_everything_is_captured_but_the_proxy_and_loopback() -> None:
    text = lines()
    assert text[0] == "*nat"
    assert text[-1] == "COMMIT"
    assert "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT" in text
    assert text.index("-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN") < text.index(
        "-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT"
    )
    for port in (15020, 15021, 15090):
        assert f"-A ISTIO_INBOUND -p tcp --dport {port} -j RETURN" in text


def test_a_self_call_comes_back_in_through_the_proxy_before_the_proxys_exemption() -> None:
    text = lines()
    again = "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
    assert text.index("-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN") < text.index(again)
    assert text.index(again) < text.index("-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN")


def test_ports_and_ranges_are_taken_out() -> None:
    text = lines(excludeInboundPorts="22, 8080", excludeOutboundPorts="3306", excludeOutboundIPRanges="10.9.0.0/16")
    last_in, last_out = text.index("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"), len(text)
    assert text.index("-A ISTIO_INBOUND -p tcp --dport 8080 -j RETURN") < last_in
    assert text.index("-A ISTIO_OUTPUT -p tcp --dport 3306 -j RETURN") < last_out
    assert "-A ISTIO_OUTPUT -d 10.9.0.0/16 -j RETURN" in text


def test_only_what_is_included_is_captured() -> None:
    text = lines(includeInboundPorts="80", includeOutboundIPRanges="10.96.0.0/12", includeOutboundPorts="9000")
    assert "-A ISTIO_INBOUND -p tcp --dport 80 -j ISTIO_IN_REDIRECT" in text
    assert "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT" not in text
    assert "-A ISTIO_OUTPUT -p tcp -d 10.96.0.0/12 -j ISTIO_REDIRECT" in text
    assert "-A ISTIO_OUTPUT -p tcp --dport 9000 -j ISTIO_REDIRECT" in text
    assert "-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT" not in text


def test_nothing_included_captures_nothing() -> None:
    text = lines(includeInboundPorts="", includeOutboundIPRanges="")
    assert not [line for line in text if line.startswith("-A ISTIO_INBOUND") and "REDIRECT" in line]
    assert "-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT" not in text


def test_an_unknown_annotation_of_the_family_is_refused() -> None:
    with pytest.raises(InvalidAnnotation, match="excludeInterfaces"):
        lines(excludeInterfaces="eth1")
