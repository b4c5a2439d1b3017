"""Mutual-TLS coverage: which share of the connections between workloads was the mesh's TLS on the wire. Pure.

A connection counts when at least one of its ends is a pod of the namespaces asked about and the other a pod too. It
is covered when it was established TLS from its first byte to its last (`harness.wire.tls`) and its ClientHello
offered one of the mesh's own ALPN values. Everything else that carried data counts against: plain HTTP, other
plaintext, TLS that is not the mesh's, and whatever could not be told.

Not counted, but reported: connections without application data (there was nothing to protect), TLS with the control
namespace (server TLS with a token, not mutual), and connections between the node and a pod (probes, the harness).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from harness.substrate.api import NODE, PodInfo, ServiceInfo
from harness.wire.classify import FlowRecord
from reports.model import Edge, Flow, Gate, Verdict, WireResult

LISTED = 200
"""Uncovered flows listed one by one; the edges count all of them."""
_MUST_REFUSE = ("plaintext", "no-client-certificate", "foreign-ca")
CONTROL_PROBE = "mesh-certificate"


class Place(msgspec.Struct, frozen=True):
    """Who has an address: a pod, or a Service that nobody answered for."""

    namespace: str
    name: str
    app: str
    pod: bool = True

    @property
    def workload(self) -> str:
        return f"{self.namespace}/{self.app}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def places(pods: Iterable[PodInfo], services: Iterable[ServiceInfo]) -> dict[str, Place]:
    """Address to its owner. Later pods win: an address may have had several."""
    found = {s.cluster_ip: Place(s.namespace, s.name, s.name, pod=False) for s in services if s.cluster_ip}
    for pod in pods:
        if pod.ip:
            found[pod.ip] = Place(pod.namespace, pod.name, pod.labels.get("app") or pod.owner or pod.name)
    return found


def kind_of(record: FlowRecord, alpn: frozenset[str], control: bool) -> tuple[str, str]:
    """(kind as in `reports.model.Flow`, why)."""
    match record.nature:
        case "tls" if control:
            return "control-tls", ""
        case "tls" if not alpn.intersection(record.alpn):
            offered = ", ".join(record.alpn) or "none"
            return "other-tls", f"TLS, but its ALPN ({offered}) is not the mesh's"
        case "tls" if not record.client_certificate:
            return "other-tls", "TLS, but the client showed no certificate"
        case "tls":
            return "mesh-tls", ""
        case "silent" | "handshake":
            return "silent", record.reason
        case "http":
            return "http", record.reason
        case "text":
            return "plaintext", record.reason
        case _:
            return "unknown", record.reason


def coverage(
    records: Iterable[FlowRecord],
    where: Mapping[str, Place],
    node: Collection[str],
    *,
    namespaces: frozenset[str],
    alpn: frozenset[str],
    control_namespace: str,
    origin: float = 0.0,
    since: float = 0.0,
    until: float = float("inf"),
    dropped: int = 0,
) -> WireResult:
    """What `records` say about `namespaces`.

    `where` tells whose an address is, `node` holds the node's own; an address that is neither was a pod nobody
    remembers, and its traffic counts. `origin` is the time (epoch) that `start_s` counts from. Connections that began
    before `since` or after `until` are left out, except those already open when the capture began and still in use
    after `since`: they cannot be vouched for."""
    edges: dict[tuple[str, str, int], Edge] = {}
    apart: dict[tuple[str, str, int], Edge] = {}
    uncovered: list[Flow] = []
    unknown = silent = control_flows = 0
    for record in records:
        began_before = record.end < since if record.nature == "midstream" else record.start < since
        if record.start > until or began_before:
            continue
        addresses = (record.client, record.server)
        ends = [where.get(end) or Place("?", end, end) for end in addresses]
        if not any(end.namespace in namespaces for end in ends):
            continue
        client, server = ends
        control = any(end.namespace == control_namespace for end in ends)
        kind, reason = kind_of(record, alpn, control)
        if kind == "control-tls":
            control_flows += 1
            continue
        if kind == "silent":
            silent += 1
            continue
        covered = kind == "mesh-tls"
        if record.client in node or record.server in node:
            source, destination = (NODE if a in node else e.workload for a, e in zip(addresses, ends, strict=True))
            _count(apart, source, destination, record, covered)
            continue
        _count(edges, client.workload, server.workload, record, covered)
        unknown += kind == "unknown"
        if not covered:
            if not record.down:
                reason += ", never answered"
            uncovered.append(_flow(record, str(client), str(server), kind, reason, origin))
    flows = sum(edge.flows for edge in edges.values())
    total = sum(edge.bytes for edge in edges.values())
    good = sum(edge.covered for edge in edges.values())
    return WireResult(
        coverage=good / flows if flows else 0.0,
        flows=flows,
        covered=good,
        unknown=unknown,
        byte_coverage=sum(edge.covered_bytes for edge in edges.values()) / total if total else 0.0,
        edges=[edges[key] for key in sorted(edges)],
        uncovered=sorted(uncovered, key=lambda flow: (-flow.bytes, flow.start_s))[:LISTED],
        control_flows=control_flows,
        silent=silent,
        node_edges=[apart[key] for key in sorted(apart)],
        capture_dropped=dropped,
    )


def _count(
    edges: dict[tuple[str, str, int], Edge], source: str, destination: str, record: FlowRecord, covered: bool
) -> None:
    key = (source, destination, record.server_port)
    edge = edges.get(key)
    if edge is None:
        edge = edges[key] = Edge(source=source, destination=destination, port=record.server_port, flows=0, covered=0)
    size = record.up + record.down
    edge.flows += 1
    edge.bytes += size
    if covered:
        edge.covered += 1
        edge.covered_bytes += size


def _flow(record: FlowRecord, source: str, destination: str, kind: str, reason: str, origin: float) -> Flow:
    return Flow(
        source=source,
        destination=destination,
        destination_port=record.server_port,
        kind=kind,
        reason=reason,
        sni=record.sni,
        alpn=list(record.alpn),
        tls_version=record.tls_version,
        first_bytes=record.first_bytes,
        start_s=round(record.start - origin, 3),
        bytes=record.up + record.down,
    )


def gates(result: WireResult) -> list[Gate]:
    """The two lines of the verdict that the wire answers for."""
    return [_coverage_gate(result), _probe_gate(result)]


def _coverage_gate(result: WireResult) -> Gate:
    missing = result.flows - result.covered
    plain = [flow for flow in result.uncovered if flow.kind != "unknown"]
    verdict, reason = Verdict.PASS, ""
    if missing and (plain or not result.capture_dropped):
        first = (plain or result.uncovered)[0]
        verdict = Verdict.FAIL
        reason = (
            f"{missing} of {result.flows} connections were not the mesh's mutual TLS, such as {first.source} to "
            f"{first.destination}:{first.destination_port} ({first.reason or first.kind})"
        )
    elif result.capture_dropped:
        verdict, reason = Verdict.INCONCLUSIVE, f"the capture lost {result.capture_dropped} packets"
    elif not result.flows:
        verdict, reason = Verdict.INCONCLUSIVE, "no connection between workloads was seen"
    share = f"{100 * result.coverage:.4g} %" if result.flows else "nothing seen"
    if missing and share == "100 %":
        share = "under 100 %"  # one among very many must not be rounded away
    return Gate(
        name="Mutual TLS on the wire",
        verdict=verdict,
        value=f"{share} of {result.flows} connections" if result.flows else share,
        limit="100 %, 0 unknown",
        reason=reason,
    )


def _probe_gate(result: WireResult) -> Gate:
    asked = [probe for probe in result.probes if probe.probe in _MUST_REFUSE]
    accepted = [probe for probe in asked if not probe.refused]
    controls = {(p.destination, p.port) for p in result.probes if p.probe == CONTROL_PROBE and not p.refused}
    unproved = sorted({(p.destination, p.port) for p in asked} - controls)
    verdict, reason = Verdict.PASS, ""
    if accepted:
        first = accepted[0]
        verdict = Verdict.FAIL
        reason = f"{first.destination}:{first.port} did not refuse a caller with {_CALLER[first.probe]}: {first.detail}"
    elif not asked:
        verdict, reason = Verdict.INCONCLUSIVE, "no workload port was probed"
    elif unproved:
        destination, port = unproved[0]
        verdict = Verdict.INCONCLUSIVE
        reason = (
            f"{destination}:{port} refused a caller with a valid mesh certificate too, so its refusals prove nothing"
        )
    return Gate(
        name="Unauthenticated callers refused",
        verdict=verdict,
        value=f"{len(asked) - len(accepted)} of {len(asked)} probes" if asked else "not probed",
        limit="all refused",
        reason=reason,
    )


_CALLER = {
    "plaintext": "no TLS at all",
    "no-client-certificate": "no client certificate",
    "foreign-ca": "a certificate of a foreign CA",
}
