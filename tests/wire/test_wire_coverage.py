"""From flows to coverage and to the gates, without a network."""

from __future__ import annotations

import pytest

from harness.substrate.api import PodInfo, ServiceInfo
from harness.wire.classify import FlowRecord
from harness.wire.coverage import LISTED, Place, coverage, gates, places
from reports.model import PortProbe, Verdict, WireResult

ALPN = frozenset({"istio", "istio-http/1.1"})
NODE = {"10.244.0.1", "127.0.0.1"}
WHERE = {
    "10.244.0.2": Place("shop", "web-1", "web"),
    "10.244.0.3": Place("shop", "api-1", "api"),
    "10.244.0.4": Place("shop", "api-2", "api"),
    "10.244.0.5": Place("outside", "caller", "caller"),
    "10.244.0.6": Place("mesh-system", "control", "meshproof-control"),
}


def flow(client: str = "10.244.0.2", server: str = "10.244.0.3", nature: str = "tls", **more: object) -> FlowRecord:
    facts: dict[str, object] = {"client_port": 40000, "server_port": 9080, "start": 10.0, "end": 11.0, "up": 100}
    if nature == "tls":
        facts |= {"alpn": ("istio",), "client_certificate": True, "down": 900}
    return FlowRecord(protocol="tcp", client=client, server=server, nature=nature, **(facts | more))  # type: ignore[arg-type]


def judge(*records: FlowRecord, **more: object) -> WireResult:
    return coverage(
        records,
        WHERE,
        NODE,
        namespaces=frozenset({"shop"}),
        alpn=ALPN,
        control_namespace="mesh-system",
        **more,  # type: ignore[arg-type]
    )


def test_all_mesh_tls_is_full_coverage_with_edges_by_workload() -> None:
    result = judge(flow(), flow(server="10.244.0.4"))
    assert (result.coverage, result.byte_coverage, result.flows, result.unknown) == (1.0, 1.0, 2, 0)
    assert [(e.source, e.destination, e.port, e.flows, e.covered) for e in result.edges] == [
        ("shop/web", "shop/api", 9080, 2, 2)
    ]
    assert gates(result)[0].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (flow(nature="http"), "http"),
        (flow(nature="text"), "plaintext"),
        (flow(nature="binary"), "unknown"),
        (flow(nature="midstream"), "unknown"),
        (flow(nature="gap"), "unknown"),
        (flow(nature="broken-tls"), "unknown"),
        (flow(alpn=("h2", "http/1.1")), "other-tls"),
        (flow(alpn=()), "other-tls"),
        (flow(client_certificate=False), "other-tls"),
        (flow(client="10.244.0.5", nature="http"), "http"),
        (flow(client="10.244.0.99", nature="http"), "http"),
    ],
)
def test_everything_else_counts_against_and_fails_the_gate(record: FlowRecord, kind: str) -> None:
    result = judge(*[flow() for _ in range(9)], record)
    assert result.coverage == pytest.approx(0.9)
    assert [found.kind for found in result.uncovered] == [kind]
    assert result.unknown == (kind == "unknown")
    gate = gates(result)[0]
    assert gate.verdict is Verdict.FAIL
    assert "1 of 10" in gate.reason


def test_one_in_a_hundred_thousand_is_not_rounded_to_all() -> None:
    result = judge(*[flow()] * 99_999, flow(nature="http"))
    assert gates(result)[0].value.startswith("under 100 %") or gates(result)[0].value.startswith("99.99")
    assert gates(result)[0].verdict is Verdict.FAIL


def test_what_is_not_workload_traffic_is_kept_apart() -> None:
    result = judge(
        flow(),
        flow(server="10.244.0.6", server_port=15012, alpn=("h2",), client_certificate=False),
        flow(client="10.244.0.1", nature="http"),
        flow(nature="silent"),
        flow(nature="handshake"),
        flow(client="10.244.0.5", server="10.244.0.5", nature="http"),
    )
    assert (result.flows, result.control_flows, result.silent) == (1, 1, 2)
    assert [(edge.source, edge.destination) for edge in result.node_edges] == [("node", "shop/api")]


def test_plaintext_to_the_control_plane_counts_against() -> None:
    assert judge(flow(), flow(server="10.244.0.6", nature="http")).coverage == 0.5


def test_only_what_began_in_the_time_asked_about_counts() -> None:
    records = [flow(start=5.0, nature="http"), flow(start=10.0), flow(start=20.0, nature="http")]
    assert judge(*records, since=8.0, until=15.0).coverage == 1.0


def test_what_was_open_before_the_capture_counts_whenever_it_was_first_seen() -> None:
    assert judge(flow(), flow(start=1.0, nature="midstream"), since=8.0).unknown == 1


def test_lost_packets_make_a_clean_capture_inconclusive_but_excuse_no_plaintext() -> None:
    assert gates(judge(flow(), dropped=3))[0].verdict is Verdict.INCONCLUSIVE
    assert gates(judge(flow(), flow(nature="gap"), dropped=3))[0].verdict is Verdict.INCONCLUSIVE
    assert gates(judge(flow(), flow(nature="http"), dropped=3))[0].verdict is Verdict.FAIL


def test_nothing_seen_is_not_a_pass() -> None:
    assert gates(judge())[0].verdict is Verdict.INCONCLUSIVE


def test_long_lists_are_cut_but_counted() -> None:
    result = judge(*[flow(nature="http")] * (LISTED + 50))
    assert len(result.uncovered) == LISTED
    assert result.flows - result.covered == LISTED + 50


def test_addresses_are_pods_first() -> None:
    pod = PodInfo(
        namespace="shop", name="web-1", ip="10.244.0.2", labels={}, service_account="", phase="Running", ready=True,
        containers=(), owner="web",
    )  # fmt: skip
    service = ServiceInfo(namespace="shop", name="web", cluster_ip="10.96.0.1", ports={80: 80})
    found = places([pod], [service])
    assert found["10.244.0.2"].workload == "shop/web"
    assert not found["10.96.0.1"].pod


def probes(**outcomes: bool) -> WireResult:
    result = judge(flow())
    result.probes = [
        PortProbe(destination="shop/web-1", port=80, probe=name.replace("_", "-"), refused=refused)
        for name, refused in outcomes.items()
    ]
    return result


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (probes(plaintext=True, no_client_certificate=True, foreign_ca=True, mesh_certificate=False), Verdict.PASS),
        (probes(plaintext=False, no_client_certificate=True, foreign_ca=True, mesh_certificate=False), Verdict.FAIL),
        (probes(plaintext=True, no_client_certificate=False, foreign_ca=True, mesh_certificate=False), Verdict.FAIL),
        (probes(plaintext=True, no_client_certificate=True, foreign_ca=False, mesh_certificate=False), Verdict.FAIL),
        (
            probes(plaintext=True, no_client_certificate=True, foreign_ca=True, mesh_certificate=True),
            Verdict.INCONCLUSIVE,
        ),
        (probes(plaintext=True), Verdict.INCONCLUSIVE),
        (probes(), Verdict.INCONCLUSIVE),
    ],
)
def test_refusals_prove_something_only_with_the_positive_control(result: WireResult, verdict: Verdict) -> None:
    assert gates(result)[1].verdict is verdict
