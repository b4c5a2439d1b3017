"""What the proxies report is what happened: every request once, with who it was and how it ended."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from compile_envoy import Authority
from conftest import Mesh, entry

pytestmark = pytest.mark.privileged

CLIENT_ID = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-client"
SERVER_ID = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-echo"


def requests_total(mesh: Mesh, side: str, **labels: str) -> int:
    total = 0
    for line in mesh.envoys[side].admin("/stats/prometheus?filter=requests_total").splitlines():
        found = re.fullmatch(r"envoy_istio_requests_total\{(.*)\} (\d+)", line)
        if found:
            said = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
            if all(said.get(name) == value for name, value in labels.items()):
                total += int(found[2])
    return total


def test_both_reporters_count_what_was_sent(mesh: Mesh) -> None:
    both = {
        "response_code": "404",
        "response_flags": "-",
        "request_protocol": "http",
        "source_principal": CLIENT_ID,
        "destination_principal": SERVER_ID,
        "destination_service": "echo.bookinfo.svc.cluster.local",
        "destination_service_name": "echo",
        "destination_service_namespace": "bookinfo",
        "destination_app": "echo",
        "destination_workload_namespace": "bookinfo",
    }
    both |= {"source_workload": "workload-of-test", "source_workload_namespace": "bookinfo"}
    both |= {"source_app": "client", "source_version": "v1", "source_canonical_service": "client"}
    client = {**both, "reporter": "source"}
    server = {**both, "reporter": "destination", "connection_security_policy": "mutual_tls"}
    before = requests_total(mesh, "client", **client), requests_total(mesh, "server", **server)
    for _ in range(7):
        assert mesh.get("/status/404").status == 404
    end = time.monotonic() + 5
    while requests_total(mesh, "server", **server) - before[1] < 7 and time.monotonic() < end:
        time.sleep(0.05)
    assert requests_total(mesh, "client", **client) - before[0] == 7
    assert requests_total(mesh, "server", **server) - before[1] == 7
    assert requests_total(mesh, "client", **client, destination_workload="echo-v1", destination_version="v1") > 0
    assert requests_total(mesh, "server", **server, destination_workload="workload-of-test") > 0


def test_a_failure_has_its_flag(mesh: Mesh) -> None:
    mesh.apply("""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: bookinfo}
spec:
  hosts: [echo]
  http:
  - match: [{uri: {prefix: /fault}}]
    fault: {abort: {httpStatus: 418}}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /slow}}]
    timeout: 200ms
    route: [{destination: {host: echo}}]
""")
    for path, status, flag in (("/fault", 418, "FI"), ("/slow/1", 504, "UT"), ("/none", 404, "NR")):
        before = requests_total(mesh, "client", response_flags=flag, response_code=str(status))
        assert mesh.get(path).status == status
        assert requests_total(mesh, "client", response_flags=flag, response_code=str(status)) == before + 1


def test_one_log_entry_for_each_request_on_each_side(mesh: Mesh) -> None:
    identifier = "0b6d1c1e-5a0c-4a6e-9d6d-0d6a3a6f0f11"
    assert mesh.get("/logged?a=b", {"x-request-id": identifier, "user-agent": "test"}).status == 200
    for side, direction, peer in (("client", "outbound", SERVER_ID), ("server", "inbound", CLIENT_ID)):
        found = entry(mesh, side, lambda said: said.get("request_id") == identifier)
        assert mesh.logs[side].read_text().count(identifier) == 1
        expected = {
            "direction": direction,
            "method": "GET",
            "path": "/logged?a=b",
            "authority": "echo",
            "protocol": "HTTP/1.1",
            "response_code": 200,
            "response_flags": "-",
            "route_name": "default",
            "peer_principal": peer,
            "user_agent": "test",
        }
        assert {name: found[name] for name in expected} == expected
        assert found["bytes_sent"] > 0
        assert found["upstream_host"].startswith("10.244.0.")
    assert entry(mesh, "client", lambda said: said.get("request_id") == identifier)["upstream_cluster"] == (
        "outbound|80||echo.bookinfo.svc.cluster.local"
    )


def test_a_refused_connection_is_logged(mesh: Mesh) -> None:
    from test_compile_live_security import REQUEST, uncaptured

    with pytest.raises(ConnectionResetError):
        uncaptured(mesh, 8080, REQUEST)
    found = entry(mesh, "server", lambda said: said["response_flags"] == "NR")
    assert found["direction"] == "inbound"
    assert found["downstream_local_address"] == "10.244.0.3:8080"


def test_what_a_peer_says_of_itself_is_a_short_name_or_nothing(
    mesh: Mesh, authority: Authority, tmp_path: Path
) -> None:
    """Only a proxy is believed; a client with a certificate of the mesh can still not make labels of any length."""
    from test_compile_live_security import client_context, uncaptured

    for said, label in (
        ("short-name;ns;app;v1", "short-name"),
        ("x" * 500 + ";;;", "x" * 63),
        ("no-separators", "no-separators"),
    ):
        text = f"GET /status/405 HTTP/1.1\r\nhost: echo\r\nx-mesh-peer: {said}\r\nconnection: close\r\n\r\n"
        answer = uncaptured(mesh, 8080, text.encode(), tls=client_context(authority, tmp_path))
        assert b"405" in answer
        assert b"x-mesh-peer" not in answer, "the app does not see it"
        assert requests_total(mesh, "server", response_code="405", source_workload=label) == 1
