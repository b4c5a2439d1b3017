"""The workloads' manifests: valid Kubernetes, Istio's names, and only what was asked for."""

from __future__ import annotations

import pytest

from harness.workloads import manifests
from harness.workloads.echo import protocol
from harness.workloads.manifests import BOOKINFO_MESH, EchoApp
from manifests import Document
from manifests.decode import decode
from manifests.kube import CORE_KINDS, Deployment, Namespace, Pod, Service


def decoded(documents: list[Document]) -> list[object]:
    return [decode(d, CORE_KINDS[d.api_version, d.kind]) for d in documents]


def named(documents: list[Document], kind: str) -> set[str]:
    return {d.name for d in documents if d.kind == kind}


@pytest.mark.parametrize("injected", [True, False])
def test_bookinfo_is_valid_and_meshed_by_one_label(injected: bool) -> None:
    documents = manifests.bookinfo("shop", injected=injected, python="/opt/py thon")
    objects = decoded(documents)
    namespace = next(o for o in objects if isinstance(o, Namespace))
    assert namespace.metadata.labels == {"istio-injection": "enabled" if injected else "disabled"}
    assert {d.namespace for d in documents if d.kind != "Namespace"} == {"shop"}
    assert named(documents, "Deployment") == {
        "productpage-v1",
        "details-v1",
        "reviews-v1",
        "reviews-v2",
        "reviews-v3",
        "ratings-v1",
        "client",
    }
    for deployment in (o for o in objects if isinstance(o, Deployment)):
        template = deployment.spec.template
        assert deployment.spec.selector.match_labels.items() <= template.metadata.labels.items()
        assert template.spec.service_account_name in named(documents, "ServiceAccount")
        [container] = template.spec.containers
        if deployment.metadata.name != "client":
            assert container.command[:3] == ["/opt/py thon", "-m", "harness.workloads.bookinfo"]
            assert container.command[3] == template.metadata.labels["app"]
            assert [p.container_port for p in container.ports] == [9080]
    services = {o.metadata.name: o for o in objects if isinstance(o, Service)}
    assert set(services) == {"productpage", "details", "reviews", "ratings"}
    assert all([(p.port, p.name) for p in s.spec.ports] == [(9080, "http")] for s in services.values())


def test_the_twins_differ_in_nothing_else() -> None:
    meshed = [d.data for d in manifests.bookinfo("one", injected=True)]
    direct = [d.data for d in manifests.bookinfo("one", injected=False)]
    assert meshed[0] != direct[0]
    assert meshed[1:] == direct[1:]


def test_versions_of_reviews_can_be_left_out() -> None:
    documents = manifests.bookinfo("x", injected=False, reviews=("v2",))
    assert {n for n in named(documents, "Deployment") if n.startswith("reviews")} == {"reviews-v2"}
    assert "reviews" in named(documents, "Service")
    with pytest.raises(ValueError, match="reviews: v4 unknown; there are v1, v2, v3"):
        manifests.bookinfo("x", injected=False, reviews=("v4",))


def test_the_environment_goes_to_every_service_and_not_to_the_client() -> None:
    objects = decoded(manifests.bookinfo("x", injected=False, env={"PROFILE_OFF": "1"}))
    for deployment in (o for o in objects if isinstance(o, Deployment)):
        [container] = deployment.spec.template.spec.containers
        told = {e.name: e.value for e in container.env}
        assert ("PROFILE_OFF" in told) == (deployment.metadata.name != "client")


def test_an_echo_fleet_is_valid_and_names_its_ports() -> None:
    apps = [EchoApp(name="a", versions=("v1", "v2"), replicas=2, labels={"tier": "x"}), EchoApp(name="b")]
    documents = manifests.echo_fleet("fleet", injected=True, apps=apps)
    objects = decoded(documents)
    assert len({(d.kind, d.name) for d in documents}) == len(documents)
    assert named(documents, "Service") == {"a", "a-v1", "a-v2", "b", "b-v1"}
    assert named(documents, "ServiceAccount") == {"a", "b"}
    deployments = [o for o in objects if isinstance(o, Deployment)]
    assert {d.metadata.name: d.spec.replicas for d in deployments} == {"a-v1": 2, "a-v2": 2, "b-v1": 1}
    assert deployments[0].spec.template.metadata.labels == {"app": "a", "version": "v1", "tier": "x"}
    for service in (o for o in objects if isinstance(o, Service)):
        assert {p.name: p.port for p in service.spec.ports} == {
            "http": protocol.HTTP_PORT,
            "http2": protocol.HTTP2_PORT,
            "grpc": protocol.GRPC_PORT,
            "tcp": protocol.TCP_PORT,
            "tcp-server": protocol.TCP_SERVER_PORT,
            "auto": protocol.AUTO_PORT,
        }


def test_the_ports_nobody_should_call_are_in_no_service() -> None:
    objects = decoded(manifests.echo_fleet("fleet", injected=True))
    ports = {p.port for o in objects if isinstance(o, Service) for p in o.spec.ports}
    assert not ports & {protocol.HEALTH_PORT, protocol.CONTROL_PORT}


def test_a_client_pod_is_valid() -> None:
    [pod] = decoded([manifests.client_pod("ns", "caller", service_account="other", labels={"a": "b"})])
    assert isinstance(pod, Pod)
    assert pod.spec.service_account_name == "other"
    assert pod.metadata.labels == {"app": "caller", "version": "v1", "a": "b"}


@pytest.mark.parametrize("path", sorted(BOOKINFO_MESH.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_mesh_examples_move_with_their_namespace_and_name_known_subsets(path: object) -> None:
    name = path.stem  # type: ignore[attr-defined]
    documents = manifests.bookinfo_mesh(name, "elsewhere")
    assert {d.namespace for d in documents} == {"elsewhere"}
    known = {
        (d.data["spec"]["host"], s["name"])
        for d in manifests.bookinfo_mesh("destination-rules")
        for s in d.data["spec"]["subsets"]
    }
    used = [
        (r["destination"]["host"], r["destination"]["subset"])
        for d in documents
        if d.kind == "VirtualService"
        for http in d.data["spec"]["http"]
        for r in http["route"]
    ]
    assert set(used) <= known


def test_an_unknown_mesh_example_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'nope'; there are destination-rules, .*reviews-v3"):
        manifests.bookinfo_mesh("nope")
