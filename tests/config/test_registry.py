"""Services, workloads and endpoints from a folder of cluster objects."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from manifests import load_text
from mesh.config.decode import decode_config
from mesh.config.snapshot import ConfigSnapshot
from mesh.registry import cluster as cluster_module
from mesh.registry.build import port_protocol
from mesh.registry.cluster import ClusterSource
from mesh.registry.service_entries import with_service_entries
from mesh.registry.types import Registry

DEADLINE = 10.0
HOST = "reviews.bookinfo.svc.cluster.local"


def write(folder: Path, obj: dict[str, Any]) -> None:
    """As the substrate does: whole, and in one step."""
    meta = obj["metadata"]
    path = folder / f"{obj['kind']}.{meta.get('namespace', '')}.{meta['name']}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(obj))
    temporary.replace(path)


def service(name: str = "reviews", ports: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "clusterIP": "10.96.0.7", **spec}
    spec["ports"] = ports or [{"port": 9080, "name": "http", "targetPort": "web"}]
    return {"kind": "Service", "metadata": {"name": name, "namespace": "bookinfo"}, "spec": spec}


def pod(name: str, ip: str, *, ready: bool = True, proxy: bool = True, **meta: Any) -> dict[str, Any]:
    containers = [{"name": "app", "ports": [{"containerPort": 8080, "name": "web"}]}]
    if proxy:
        containers.append({"name": "istio-proxy"})
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "bookinfo", "labels": {"app": "reviews", "version": "v1"}, **meta},
        "spec": {"containers": containers, "serviceAccountName": "bookinfo-reviews"},
        "status": {
            "phase": "Running",
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def loaded(folder: Path, *objects: dict[str, Any]) -> Registry:
    for obj in objects:
        write(folder, obj)
    return ClusterSource(folder).load()


def addresses(registry: Registry, port: int = 9080) -> list[str]:
    return [f"{endpoint.address}:{endpoint.port}" for endpoint in registry.endpoints[HOST, port]]


def test_endpoints_are_the_ready_selected_pods(tmp_path: Path) -> None:
    other = pod("other", "10.244.0.9")
    other["metadata"]["labels"] = {"app": "ratings"}
    gone = pod("gone", "10.244.0.8", deletionTimestamp="2026-01-01T00:00:00Z")
    elsewhere = pod("elsewhere", "10.244.0.7")
    elsewhere["metadata"]["namespace"] = "direct"
    registry = loaded(
        tmp_path,
        service(),
        pod("b", "10.244.0.3", proxy=False),
        pod("a", "10.244.0.2"),
        pod("starting", "10.244.0.4", ready=False),
        *(other, gone, elsewhere),
    )
    assert addresses(registry) == ["10.244.0.2:8080", "10.244.0.3:8080"]
    first, second = registry.endpoints[HOST, 9080]
    assert (first.meshed, second.meshed) == (True, False)
    assert (first.service_account, first.workload, first.labels["version"]) == ("bookinfo-reviews", "a", "v1")
    assert not registry.workloads["bookinfo", "starting"].ready
    assert registry.services[HOST].addresses == ("10.96.0.7",)


def test_target_ports(tmp_path: Path) -> None:
    ports = [
        {"port": 80, "name": "a"},
        {"port": 81, "name": "b", "targetPort": 9},
        {"port": 82, "name": "c", "targetPort": "no"},
    ]
    registry = loaded(tmp_path, service(ports=ports), pod("a", "10.244.0.2"))
    assert [addresses(registry, port) for port in (80, 81, 82)] == [["10.244.0.2:80"], ["10.244.0.2:9"], []]


def test_headless_and_not_ready_addresses(tmp_path: Path) -> None:
    headless = service(clusterIP="None", publishNotReadyAddresses=True)
    registry = loaded(tmp_path, headless, pod("a", "10.244.0.2", ready=False))
    assert registry.services[HOST].addresses == ()
    assert addresses(registry) == ["10.244.0.2:8080"]


@pytest.mark.parametrize(
    ("name", "number", "app_protocol", "expected"),
    [
        ("http", 80, None, "http"),
        ("http-web", 80, None, "http"),
        ("HTTP2-x", 80, None, "http2"),
        ("grpc-web-x", 80, None, "http"),
        ("grpc", 80, None, "grpc"),
        ("tcp-x", 80, None, "tcp"),
        ("httpx", 80, None, "auto"),
        ("", 80, None, "auto"),
        ("", 3306, None, "tcp"),
        ("tcp", 80, "kubernetes.io/h2c", "http2"),
        ("http", 80, "example.com/own", "auto"),
    ],
)
def test_protocols(name: str, number: int, app_protocol: str | None, expected: str) -> None:
    assert port_protocol(name, number, app_protocol) == expected


def test_changes_arrive_and_followers_see_the_newest(tmp_path: Path) -> None:
    async def run() -> None:
        write(tmp_path, service())
        source = ClusterSource(tmp_path)
        source.load()
        task = asyncio.create_task(source.run())
        changes = source.changes()

        async def until(expected: list[str]) -> Registry:
            async with asyncio.timeout(DEADLINE):
                async for registry in changes:
                    if (HOST, 9080) in registry.endpoints and addresses(registry) == expected:
                        return registry
            raise AssertionError

        try:
            await until([])
            write(tmp_path, pod("a", "10.244.0.2"))
            await until(["10.244.0.2:8080"])
            write(tmp_path, pod("b", "10.244.0.3"))
            await until(["10.244.0.2:8080", "10.244.0.3:8080"])
            write(tmp_path, pod("a", "10.244.0.2", ready=False))
            await until(["10.244.0.3:8080"])
            (tmp_path / "Pod.bookinfo.b.json").unlink()
            registry = await until([])
            assert set(registry.workloads) == {("bookinfo", "a")}
            (tmp_path / "Pod.bookinfo.a.json").write_text("{not JSON")
            (tmp_path / "Service.bookinfo.reviews.json").unlink()
            async with asyncio.timeout(DEADLINE):
                while source.registry.services:
                    await anext(changes)
            assert ("bookinfo", "a") in source.registry.workloads, "a damaged file removed a pod"
            assert source.registry.endpoints == {}
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


def test_what_concerns_nobody_makes_no_new_registry(tmp_path: Path) -> None:
    write(tmp_path, service())
    write(tmp_path, pod("a", "10.244.0.2"))
    source = ClusterSource(tmp_path)
    before = source.load()
    write(tmp_path, pod("a", "10.244.0.2", annotations={"restarted": "now"}))
    write(tmp_path, {"kind": "ConfigMap", "metadata": {"name": "x", "namespace": "bookinfo"}, "data": {}})
    assert source.load() is before


def test_one_pod_of_many_costs_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write(tmp_path, service(f"s{number}"))
    write(tmp_path, service())
    for number in range(300):
        write(tmp_path, pod(f"p{number}", f"10.244.{number // 250}.{number % 250}"))
    source = ClusterSource(tmp_path)
    source.load()
    reads: list[str] = []
    built: list[str] = []
    read, build = ClusterSource._read, cluster_module.endpoints_of

    def counted(self: ClusterSource, name: str, decoder: Any) -> Any:
        reads.append(name)
        return read(self, name, decoder)

    def building(service: Any, workloads: Any, **kwargs: Any) -> Any:
        built.append(service.name)
        return build(service, workloads, **kwargs)

    monkeypatch.setattr(ClusterSource, "_read", counted)
    monkeypatch.setattr(cluster_module, "endpoints_of", building)
    write(tmp_path, pod("p7", "10.244.0.7", ready=False))
    assert len(source.load().endpoints[HOST, 9080]) == 299
    assert reads == ["Pod.bookinfo.p7.json"]
    assert built == ["reviews"], "endpoints of Services that do not select the pod were built again"


def test_service_entries_join_the_cluster() -> None:
    text = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: pay, namespace: shop}}
spec:
  hosts: [pay.example.com, {HOST}]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 443, name: https, protocol: TLS}}]
  endpoints: [{{address: 10.0.0.2, ports: {{https: 8443}}}}, {{address: 10.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: dns, namespace: shop}}
spec: {{hosts: [dns.example.com], resolution: DNS, ports: [{{number: 80, name: http, protocol: HTTP}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: none, namespace: shop}}
spec: {{hosts: ["*.example.org"], exportTo: ["."], ports: [{{number: 80, name: http, protocol: HTTP}}]}}
"""
    snapshot = ConfigSnapshot(decode_config(document) for document in load_text(text))
    own = Registry(services={}, endpoints={}, workloads={}, namespaces={})
    assert with_service_entries(own, ConfigSnapshot()) is own
    registry = with_service_entries(own, snapshot)
    assert [f"{e.address}:{e.port}" for e in registry.endpoints["pay.example.com", 443]] == [
        "10.0.0.1:443",
        "10.0.0.2:8443",
    ]
    assert registry.services["pay.example.com"].mesh_external
    assert [e.address for e in registry.endpoints["dns.example.com", 80]] == ["dns.example.com"]
    assert registry.services["*.example.org"].resolution == "none"
    assert registry.services["*.example.org"].export_to == (".",)
    assert registry.endpoints["*.example.org", 80] == ()
