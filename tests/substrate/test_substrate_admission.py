"""Webhooks, tokens, what control planes see in `cluster/`, and that bad manifests change nothing."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from manifest import Manifest, config_map, deployment, documents, namespace, pod, server, service, shell
from talk import eventually

from harness.substrate.api import SubstrateError, Webhook
from harness.substrate.local import LocalWorld
from harness.substrate.local.tokens import ISSUER, Issuer, Subject
from harness.substrate.local.volumes import Volumes
from manifests import InvalidManifests
from manifests.kube import ConfigMap, ObjectMeta, Pod

privileged = pytest.mark.privileged
Mutate = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Mutate], Webhook]]:
    """Serve a mutation on a Unix socket."""
    servers: list[_Server] = []

    def start(mutate: Mutate) -> Webhook:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, answer = mutate(body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        path = tmp_path / "hook.sock"
        one = _Server(str(path), Handler)
        servers.append(one)
        threading.Thread(target=one.serve_forever, daemon=True).start()
        return Webhook(name="hook", socket=str(path), namespace_selector={"hooked": "yes"})

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


@privileged
def test_webhook_changes_what_runs_in_its_namespaces_only(
    world: LocalWorld, space: str, serve: Callable[[Mutate], Webhook]
) -> None:
    def inject(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        body["spec"]["containers"].append({"name": "istio-proxy", "command": ["sleep", "1000"]})
        body["metadata"]["annotations"] = {"injected": "true"}
        return 200, body

    world.add_webhook(serve(inject))
    world.apply(documents(namespace("hooked", hooked="yes")))
    for place in ("hooked", space):
        world.apply(documents(deployment("web", place, shell("sleep 1000"))))
    world.wait_ready(30)
    (meshed,), (plain,) = world.pods("hooked"), world.pods(space)
    assert (meshed.meshed, plain.meshed) == (True, False)
    seen = json.loads((world.state_dir / "cluster" / f"Pod.hooked.{meshed.name}.json").read_text())
    assert seen["metadata"]["annotations"] == {"injected": "true"}
    assert [one["name"] for one in seen["spec"]["containers"]] == ["app", "istio-proxy"]
    world.delete("Namespace", "", "hooked")


@privileged
def test_webhook_that_refuses_keeps_pods_from_being_made(world: LocalWorld, serve: Callable[[Mutate], Webhook]) -> None:
    answers: list[tuple[int, dict[str, Any]]] = []

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return answers[0] if answers else (200, body)

    answers.append((403, {"reason": "not today"}))
    world.add_webhook(serve(answer))
    world.apply(documents(namespace("guarded", hooked="yes"), deployment("web", "guarded", shell("sleep 1000"))))
    with pytest.raises(SubstrateError, match=r"guarded/web: 0 of 1 ready; webhook hook refused.*not today"):
        world.wait_ready(1.0, "guarded")
    assert world.pods("guarded") == []
    answers.clear()
    world.wait_ready(30, "guarded")
    world.delete("Namespace", "", "guarded")


@privileged
def test_token_verifies_with_the_published_keys(world: LocalWorld, space: str) -> None:
    token = {"serviceAccountToken": {"path": "token", "audience": "istio-ca", "expirationSeconds": 600}}
    volume = {"name": "token", "projected": {"sources": [token]}}
    mount = {"volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/tokens", "readOnly": True}]}
    app = shell("cat /var/run/secrets/tokens/token", **mount)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "clerk", "namespace": space}}
    spec = {"serviceAccountName": "clerk", "restartPolicy": "Never", "volumes": [volume]}
    world.apply(documents(account, pod("one", space, app, **spec)))
    eventually(lambda: world.pod(space, "one").phase == "Succeeded", what="the pod's end")
    raw = world.logs(space, "one", "app")
    keys = jwt.PyJWKSet.from_json((world.state_dir / "issuer" / "jwks.json").read_text())
    key = keys[jwt.get_unverified_header(raw)["kid"]]
    claims = jwt.decode(raw, key, algorithms=["ES256"], audience="istio-ca", issuer=ISSUER)
    assert claims["sub"] == f"system:serviceaccount:{space}:clerk"
    assert claims["kubernetes.io"]["pod"]["name"] == "one"
    assert claims["kubernetes.io"]["serviceaccount"] == {"name": "clerk"}
    assert claims["exp"] - claims["iat"] == 600


def test_token_is_replaced_before_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = documents(
        pod(
            "one",
            "default",
            shell("true"),
            volumes=[
                {
                    "name": "t",
                    "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 600}}]},
                }
            ],
        )
    )
    import msgspec

    object_ = msgspec.convert(made.data, Pod)
    volumes = Volumes(tmp_path, object_, Issuer())
    volumes.make({})
    file = tmp_path / "volumes" / "t" / "t"
    first = file.read_text()
    volumes.refresh_tokens()
    assert file.read_text() == first
    later = time.monotonic() + 600 * 0.81
    monkeypatch.setattr(time, "monotonic", lambda: later)
    volumes.refresh_tokens()
    assert file.read_text() != first


def test_issuer_of_another_world_is_refused() -> None:
    subject = Subject(namespace="a", service_account="b", pod="c", pod_uid="d")
    token = Issuer().token(subject, "istio-ca", 600)
    (key,) = jwt.PyJWKSet.from_dict(Issuer().jwks()).keys
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, key, algorithms=["ES256"], audience="istio-ca")


def test_config_map_volume_drops_keys_that_are_gone(tmp_path: Path) -> None:
    volume = {"name": "conf", "configMap": {"name": "settings"}}
    (made,) = documents(pod("one", "default", shell("true"), volumes=[volume]))
    import msgspec

    volumes = Volumes(tmp_path, msgspec.convert(made.data, Pod), Issuer())
    metadata = ObjectMeta(name="settings")
    volumes.make({"settings": ConfigMap(metadata=metadata, data={"a": "1", "b": "2"})})
    volumes.write_config({"settings": ConfigMap(metadata=metadata, data={"b": "3"})})
    assert {file.name: file.read_text() for file in (tmp_path / "volumes" / "conf").iterdir()} == {"b": "3"}


@privileged
def test_cluster_folder_follows_the_world(world: LocalWorld, space: str) -> None:
    cluster = world.state_dir / "cluster"
    world.apply(documents(service("web", space), deployment("web", space, server())))
    world.wait_ready(30, space)
    (one,) = world.pods(space)
    file = cluster / f"Pod.{space}.{one.name}.json"
    seen = json.loads(file.read_text())
    assert seen["status"]["podIP"] == one.ip
    assert {"type": "Ready", "status": "True"} in seen["status"]["conditions"]
    assert seen["metadata"]["labels"] == {"app": "web"}
    (address,) = [found.cluster_ip for found in world.services(space)]
    assert json.loads((cluster / f"Service.{space}.web.json").read_text())["spec"]["clusterIP"] == address
    assert (cluster / f"Namespace..{space}.json").exists()
    world.apply(documents(service("web", space, port=81)))
    assert [found.cluster_ip for found in world.services(space)] == [address]
    world.delete("Service", space, "web")
    world.delete("Deployment", space, "web")
    assert sorted(path.name for path in cluster.glob(f"*.{space}.*")) == [f"Namespace..{space}.json"]
    assert not file.exists()


def _without(container: Manifest, field: str) -> Manifest:
    return {key: value for key, value in container.items() if key != field}


_APP = shell("true")
_PORTS = {"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}}
BAD: dict[str, tuple[list[Manifest], str]] = {
    "unknown kind": ([{"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "x"}}], "kind"),
    "unknown field": ([{**namespace("x"), "speck": {}}], "speck"),
    "wrong type": ([deployment("x", "default", _APP, replicas="two")], "replicas"),  # type: ignore[arg-type]
    "missing namespace": ([service("x", "nowhere")], "metadata.namespace"),
    "bad name": ([namespace("Not_A_Name")], "metadata.name"),
    "no name": ([{"apiVersion": "v1", "kind": "Namespace", "metadata": {}}], "metadata.name"),
    "declared twice": ([namespace("x"), namespace("x")], "metadata.name"),
    "no containers": ([pod("x", "default")], "spec.containers"),
    "no command": ([pod("x", "default", _without(_APP, "command"))], "spec.containers[0].command"),
    "container twice": ([pod("x", "default", _APP, _APP)], "spec.containers[1].name"),
    "dangling account": ([pod("x", "default", _APP, serviceAccountName="ghost")], "spec.serviceAccountName"),
    "dangling volume": (
        [pod("x", "default", shell("true", volumeMounts=[{"name": "v", "mountPath": "/v"}]))],
        "spec.containers[0].volumeMounts[0].name",
    ),
    "dangling config map": (
        [deployment("x", "default", shell("true", envFrom=[{"configMapRef": {"name": "ghost"}}]))],
        "spec.template.spec.containers[0].envFrom[0].configMapRef.name",
    ),
    "dangling key": (
        [
            config_map("c", "default", a="1"),
            pod(
                "x",
                "default",
                shell("true", env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "b"}}}]),
            ),
        ],
        "spec.containers[0].env[0].valueFrom.configMapKeyRef",
    ),
    "volume that escapes": (
        [
            config_map("c", "default", a="1"),
            pod(
                "x",
                "default",
                _APP,
                volumes=[{"name": "v", "configMap": {"name": "c", "items": [{"key": "a", "path": "../../a"}]}}],
            ),
        ],
        "spec.volumes[0].configMap.items[0].path",
    ),
    "volume without source": ([pod("x", "default", _APP, volumes=[{"name": "v"}])], "spec.volumes[0]"),
    "unknown field path": (
        [pod("x", "default", shell("true", env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]))],
        "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
    ),
    "duplicate port": ([{**service("x", "default"), **_PORTS}], "spec.ports[1]"),
    "foreign cluster address": ([service("x", "default", clusterIP="10.1.2.3")], "spec.clusterIP"),
    "selector that misses": (
        [{**(d := deployment("x", "default", _APP)), "spec": {**d["spec"], "selector": {"matchLabels": {"app": "y"}}}}],
        "spec.selector.matchLabels",
    ),
    "probe without handler": (
        [pod("x", "default", shell("true", readinessProbe={"periodSeconds": 1}))],
        "spec.containers[0].readinessProbe",
    ),
    "probe of an unknown port": (
        [pod("x", "default", shell("true", livenessProbe={"tcpSocket": {"port": "web"}}))],
        "spec.containers[0].livenessProbe.tcpSocket.port",
    ),
    "no quantity": (
        [pod("x", "default", shell("true", resources={"limits": {"memory": "lots"}}))],
        "spec.containers[0].resources.limits.memory",
    ),
}


@privileged
@pytest.mark.parametrize("case", BAD)
def test_bad_manifest_is_explained_and_changes_nothing(world: LocalWorld, case: str) -> None:
    objects, field = BAD[case]
    before = snapshot(world)
    with pytest.raises(InvalidManifests) as caught:
        world.apply(documents(namespace("innocent"), *objects))
    assert snapshot(world) == before
    (error,) = caught.value.errors
    assert error.file == "test.yaml"
    assert error.line > 1
    assert field in (error.field or error.message), str(error)


@privileged
def test_every_mistake_is_reported_at_once(world: LocalWorld) -> None:
    with pytest.raises(InvalidManifests) as caught:
        world.apply(documents(service("a", "nowhere"), namespace("B"), pod("c", "default")))
    assert [error.field for error in caught.value.errors] == ["metadata.namespace", "metadata.name", "spec.containers"]


@privileged
def test_running_pod_cannot_be_changed(world: LocalWorld, space: str) -> None:
    world.apply(documents(pod("one", space, shell("sleep 1000"))))
    world.wait_ready(30, space)
    with pytest.raises(InvalidManifests, match="of a running Pod cannot be changed"):
        world.apply(documents(pod("one", space, shell("sleep 1001"))))
    world.apply(documents(pod("one", space, shell("sleep 1000"))))
    assert world.pod(space, "one").containers[0].restarts == 0


def snapshot(world: LocalWorld) -> dict[str, bytes]:
    folder = world.state_dir / "cluster"
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}  # noqa: PTH208
