"""Request metrics and access logs."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from harness.conformance.checks import check
from harness.conformance.fleet import token
from harness.conformance.lab import Lab
from harness.conformance.routing.manifests import to, virtual_service

Labels = dict[str, str]


def requests_total(lab: Lab, namespace: str, pod: str) -> list[tuple[Labels, float]]:
    """Every sample of `istio_requests_total` of one proxy."""
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(lab.mesh.metrics(namespace, pod))
        for sample in family.samples
        if sample.name == "istio_requests_total"
    ]


def _count(lab: Lab, reporter: str, pods: list[str], **labels: str) -> int:
    """Requests to `server` that the proxies of `pods` have counted as `reporter`."""
    total = 0.0
    for pod in pods:
        for found, value in requests_total(lab, lab.fleet.namespace, pod):
            ours = found.get("destination_service", "").startswith("server.")
            if found.get("reporter") == reporter and ours and all(found.get(k) == v for k, v in labels.items()):
                total += value
    return round(total)


@check("T1", "requests_total is what the client sent, on both sides", feature="Telemetry", mutants=("drop-metrics",))
def test_exact_counts(lab: Lab) -> None:
    client = [lab.fleet.pod("client").name]
    servers = [pod.name for pod in lab.fleet.servers().values()]

    def counts() -> dict[tuple[str, str], int]:
        return {
            (reporter, code): _count(lab, reporter, pods, response_code=code)
            for reporter, pods in (("source", client), ("destination", servers))
            for code in ("200", "503")
        }

    before = counts()
    sent = {"200": 137, "503": 23}
    lab.call(count=sent["200"], concurrency=4)
    lab.call(count=sent["503"], concurrency=4, instruct={"status": 503})
    expected = {key: before[key] + sent[key[1]] for key in before}
    lab.until(lambda: counts() == expected, f"metrics have caught up with {sent}")
    lab.note("counted", f"before {before}\nafter {counts()}")
    assert counts() == expected


@check(
    "T2",
    "labels: workloads, principals, service, protocol, code, flags, security policy",
    feature="Telemetry",
    mutants=("drop-metrics", "plaintext-outbound"),
)
def test_labels(lab: Lab) -> None:
    ns, domain = lab.fleet.namespace, lab.mesh.ca.trust_domain
    lab.apply(virtual_service(f"- route: {to('v1')}\n"))
    lab.until(lambda: lab.version() == "v1", "everything goes to v1")
    assert lab.status(instruct={"status": 404}) == 404
    server = lab.fleet.pod("server", "v1").name
    both = {
        "source_workload": "client-v1",
        "source_principal": f"spiffe://{domain}/ns/{ns}/sa/client",
        "destination_principal": f"spiffe://{domain}/ns/{ns}/sa/server",
        "destination_service": f"server.{ns}.svc.cluster.local",
        "request_protocol": "http",
        "response_code": "404",
        "response_flags": "-",
    }
    destination = both | {
        "reporter": "destination",
        "connection_security_policy": "mutual_tls",
        "destination_workload": "server-v1",
    }
    source = both | {"reporter": "source"}

    def has(pod: str, wanted: Labels) -> bool:
        return any(wanted.items() <= labels.items() for labels, _ in requests_total(lab, ns, pod))

    lab.until(lambda: has(server, destination), f"the server's proxy counts with {destination}")
    lab.until(lambda: has(lab.fleet.pod("client").name, source), f"the client's proxy counts with {source}")


@check(
    "T7",
    "the access log has one entry per request, on both sides",
    feature="Telemetry",
    mutants=("drop-access-log", "log-twice"),
)
def test_access_log(lab: Lab) -> None:
    lab.apply(virtual_service(f"- route: {to('v1')}\n"))
    lab.until(lambda: lab.version() == "v1", "everything goes to v1")
    path, n = f"/{token()}", 25
    lab.call("server", path, count=n, method="POST")
    pods = {"client": lab.fleet.pod("client").name, "server": lab.fleet.pod("server", "v1").name}

    def entries(side: str) -> list[dict[str, object]]:
        return [e for e in lab.mesh.access_log(lab.fleet.namespace, pods[side]) if e.get("path") == path]

    for side in pods:
        lab.until(lambda side=side: len(entries(side)) >= n, f"the {side}'s log has {n} entries")  # type: ignore[misc]
        found = entries(side)
        assert len(found) == n
        assert {(e.get("method"), str(e.get("response_code"))) for e in found} == {("POST", "200")}
