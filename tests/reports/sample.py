"""A run as it could have been, made up for testing the reports: every part present, plausible numbers, seeded.

It is never written into a results folder by anything but a test.
"""

from __future__ import annotations

import math
import random

from reports.model import (
    ArmSummary,
    CheckResult,
    ConformanceResult,
    Cost,
    Edge,
    Evidence,
    ExperimentResult,
    Flow,
    Gate,
    Interval,
    OverheadResult,
    Phase,
    PortProbe,
    RatioEstimate,
    RunResult,
    TimelinePoint,
    Verdict,
    WireResult,
)
from reports.sentence import overall, sentence

_CHECKS = {
    "routing": [
        ("R1", "a meshed client reaches a service with no configuration", "Mesh"),
        ("R2", "a path matches exactly", "HTTPRouteMatching"),
        ("R3", "a path prefix is segment-wise: /v2 matches /v2/x, not /v2example", "HTTPRouteMatching"),
        ("R12", "precedence: the first match of a VirtualService wins", "VirtualServiceRouting"),
        ("R13", "no rule matches: 404, never the parent service", "VirtualServiceRouting"),
        ("R15", "weights hold within exact binomial bounds", "TrafficSplit"),
        ("R16", "weight 0 gets no request", "TrafficSplit"),
        ("R17", "a subset routes to label-matched endpoints only", "Subsets"),
    ],
    "filters": [
        ("F1", "request headers are set, added, removed", "HeaderModification"),
        ("F5", "the backend saw the exact rewritten path", "PathRewrite"),
        ("F7", "the redirect's Location is exact: scheme, host, port elision, path", "Redirects"),
        ("F8", "every request is mirrored once, and the primary answers", "Mirroring"),
    ],
    "resilience": [
        ("E1", "a route timeout answers 504 within its bounds and cancels upstream", "Timeouts"),
        ("E3", "the backend sees exactly attempts + 1 requests", "Retries"),
        ("E8", "a host is ejected after consecutive 5xx", "OutlierDetection"),
        ("E13", "round-robin is even (chi-square)", "LoadBalancing"),
    ],
    "mtls": [
        ("M1", "STRICT accepts a mesh client", "MutualTLS"),
        ("M2", "STRICT resets plaintext without an HTTP answer", "MutualTLS"),
        ("M9", "the peer's SAN is its SPIFFE id", "MutualTLS"),
        ("M17", "all bytes between workloads are TLS on the wire", "MutualTLS"),
    ],
    "authz": [
        ("A1", "an empty ALLOW denies everything", "Authorization"),
        ("A2", "DENY beats ALLOW", "Authorization"),
        ("J2", "an expired token or a bad signature is answered 401", "JWT"),
    ],
    "telemetry": [("T1", "requests_total equals what the client sent, at both reporters", "Metrics")],
    "control-plane": [
        ("C11", "a change reaches every proxy within its budget", "Convergence"),
        ("C12", "100 route flips under load: no failed request", "Convergence"),
        ("C13", "with the control plane down, traffic goes on", "Convergence"),
    ],
}


def sample(*, failing: bool = False, seed: int = 7) -> RunResult:
    """A passing run, or one where most things went wrong in a different way each."""
    rng = random.Random(seed)
    conformance, wire, overhead = _conformance(failing, rng), _wire(failing, rng), _overhead(failing, rng)
    chaos = [_experiment(failing, rng)]
    passed = sum(check.outcome == "passed" for check in conformance.checks)
    mesh = {
        "name": "meshproof reference mesh",
        "version": "0.1.0",
        "organisation": "The meshproof authors",
        "url": "https://meshproof.example",
        "data_plane": "Envoy 1.40.0",
        "control_plane": "meshproof 0.1.0",
    }
    p99 = overhead.ratios[2]
    gates = [
        Gate(
            name="Conformance",
            verdict=Verdict.FAIL if failing else Verdict.PASS,
            value=f"{passed} of {len(conformance.checks)} checks",
            limit="all of profile core",
            reason="E3 and F5 failed: the backend saw 2 requests where 3 were due; and the rewrite was not seen"
            if failing
            else "",
        ),
        Gate(
            name="Mutual TLS on the wire",
            verdict=Verdict.FAIL if failing else Verdict.PASS,
            value=f"{100 * wire.coverage:.4g} % of {wire.flows} connections",
            limit="100 %, 0 unknown",
            reason="4 of 412 connections were not the mesh's mutual TLS, such as direct/client to bookinfo/reviews-v3"
            if failing
            else "",
        ),
        Gate(
            name="Unauthenticated callers refused",
            verdict=Verdict.FAIL if failing else Verdict.PASS,
            value="20 of 21 probes" if failing else "21 of 21 probes",
            limit="all refused",
            reason="bookinfo/ratings-v1-5f:9080 answered plaintext" if failing else "",
        ),
        Gate(
            name="P99 increase",
            verdict=overhead.verdict,
            value=f"{100 * (p99.ratio - 1):+.1f} %",
            interval=f"{100 * (p99.interval.low - 1):+.1f} % to {100 * (p99.interval.high - 1):+.1f} %",
            limit="< 5 %",
            reason=overhead.reason if overhead.verdict is not Verdict.PASS else "",
        ),
        Gate(
            name="Slow ratings survived",
            verdict=chaos[0].verdict,
            value=chaos[0].outcome,
            limit="steady state holds, back within 10 s",
            reason=chaos[0].reason if chaos[0].verdict is not Verdict.PASS else "",
        ),
    ]
    return RunResult(
        run_id="20261121-130502-envoy",
        command="meshproof gate --mesh envoy --budget 5m --profile core --seed 7",
        started="2026-11-21T13:05:02+00:00",
        finished="2026-11-21T13:09:41+00:00",
        verdict=overall(gates),
        sentence=sentence(mesh, gates),
        mesh=mesh,
        environment={
            "kernel": "Linux 6.18.44 x86_64",
            "cpu": "2 cores, AMD EPYC",
            "memory": "7.8 GiB",
            "python": "3.11.7",
            "substrate": "local: network namespaces",
            "meshproof": "0.1.0",
        },
        timings_s={"world": 1.4, "mesh": 2.1, "workloads": 6.2, "wire": 14.0, "conformance": 78.5, "overhead": 139.0,
                   "chaos": 33.8, "report": 0.4},
        gates=gates,
        conformance=conformance,
        wire=wire,
        overhead=overhead,
        chaos=chaos,
        notes=["The machine had other work to do: 11 % of its CPU time went elsewhere."] if failing else [],
    )  # fmt: skip


def _conformance(failing: bool, rng: random.Random) -> ConformanceResult:
    checks = []
    for area, entries in _CHECKS.items():
        for identity, title, feature in entries:
            outcome, message = "passed", ""
            evidence = [
                Evidence(title="configuration", text=f"kind: VirtualService\nmetadata: {{name: {identity.lower()}}}\n"),
                Evidence(title="what the backends received", text=f"{rng.randint(20, 400)} requests, 0 elsewhere"),
            ]
            if failing and identity == "E3":
                outcome = "failed"
                message = "the backend saw 2 requests, expected exactly 3 (attempts 2 + 1)"
                evidence.append(Evidence(title="echo b-1 received", text="GET /retry/503x2  x-request-id 7c1f\n" * 2))
            if failing and identity == "F5":
                outcome, message = "error", "MeshError: b-2.fleet did not ACK RDS within 10 s: invalid regex"
            if failing and identity == "C13":
                outcome, message, evidence = "skipped", "feature Convergence is not claimed", []
            checks.append(
                CheckResult(
                    id=identity, title=title, area=area, feature=feature, outcome=outcome, message=message,
                    profile="core" if identity[0] in "RFEM" else "extended", duration_s=rng.uniform(0.02, 3.5),
                    evidence=evidence,
                )
            )  # fmt: skip
    return ConformanceResult(
        profile="core",
        checks=checks,
        supported_features=sorted({entry[2] for entries in _CHECKS.values() for entry in entries}),
        unsupported_features=["LocalityLoadBalancing", "RateLimiting"],
        convergence_ms=[rng.lognormvariate(3.4, 0.4) for _ in range(180)],
    )


def _wire(failing: bool, rng: random.Random) -> WireResult:
    edges = [
        Edge(source=f"bookinfo/{a}", destination=f"bookinfo/{b}", port=9080, flows=n, covered=n, bytes=n * 9000,
             covered_bytes=n * 9000)
        for a, b, n in (
            ("client", "productpage", 64), ("productpage", "details", 96), ("productpage", "reviews", 148),
            ("reviews", "ratings", 100),
        )
    ]  # fmt: skip
    pods = ["productpage-v1-7d", "details-v1-66", "reviews-v1-5b", "reviews-v2-8c", "reviews-v3-6c", "ratings-v1-5f"]
    uncovered = []
    probes = []
    for pod in [*pods, "client"]:
        port = 9080 if pod != "client" else 8080
        for probe, said in (
            ("plaintext", "closed without a byte"),
            ("no-client-certificate", "TLS: tlsv13 alert certificate required"),
            ("foreign-ca", "TLS: tlsv1 alert unknown ca"),
            ("mesh-certificate", "answered 'HTTP/1.1 404 Not Found'"),
        ):
            refused = probe != "mesh-certificate"
            if failing and pod.startswith("ratings") and probe == "plaintext":
                refused, said = False, "answered 'HTTP/1.1 200 OK'"
            probes.append(
                PortProbe(destination=f"bookinfo/{pod}", port=port, probe=probe, refused=refused, detail=said)
            )
    if failing:
        edges.append(
            Edge(source="direct/client", destination="bookinfo/reviews", port=9080, flows=4, covered=0, bytes=8000)
        )
        for index, (kind, why, first) in enumerate(
            [
                ("http", "HTTP in the clear", b"GET /reviews/0 HTTP/1.1\r\nhost: r"),
                ("plaintext", "readable text", b"hello there, this is not TLS"),
                ("unknown", "open before the capture began: its handshake was not seen", b"\x17\x03\x03\x00\x30"),
                ("other-tls", "TLS, but its ALPN (h2, http/1.1) is not the mesh's", b""),
            ]
        ):
            uncovered.append(
                Flow(
                    source="direct/client", destination="bookinfo/reviews-v3-6c", destination_port=9080, kind=kind,
                    reason=why, first_bytes=first.hex(), bytes=2000, start_s=3.2 + index,
                    sni="reviews" if kind == "other-tls" else "", alpn=["h2"] if kind == "other-tls" else [],
                    tls_version="TLS 1.3" if kind == "other-tls" else "",
                )
            )  # fmt: skip
    flows, covered = sum(edge.flows for edge in edges), sum(edge.covered for edge in edges)
    return WireResult(
        coverage=covered / flows, flows=flows, covered=covered, unknown=int(failing), byte_coverage=covered / flows,
        edges=edges, uncovered=uncovered, control_flows=9, silent=rng.randint(0, 3), probes=probes,
        node_edges=[Edge(source="node", destination="bookinfo/productpage", port=9080, flows=4, covered=2, bytes=900)],
        capture_file="wire/capture.pcap", capture_dropped=3 if failing else 0,
    )  # fmt: skip


def _overhead(failing: bool, rng: random.Random) -> OverheadResult:
    factor = 1.072 if failing else 1.031
    arms = []
    for name, scale in (("direct", 1.0), ("meshed", factor)):
        curve = []
        for step in range(121):
            nines = 4.0 * step / 120
            quantile = 1 - 10**-nines
            latency = 21.0 * scale * math.exp(0.42 * math.sqrt(2) * _inverse_erf(2 * quantile - 1)) + 0.6 * (scale > 1)
            curve.append((quantile, latency if step else 9.0))
        at = {q: next(v for k, v in curve if k >= q - 1e-9) for q in (0.5, 0.9, 0.99, 0.999)}
        arms.append(
            ArmSummary(
                name=name, requests=18240, errors=2 if failing and scale > 1 else 0, p50_ms=at[0.5], p90_ms=at[0.9],
                p99_ms=at[0.99], p999_ms=at[0.999], curve=curve,
                status_mix={"200": 18238, "503": 2} if failing and scale > 1 else {"200": 18240},
            )
        )  # fmt: skip

    def estimate(quantile: float, ratio: float, half: float, base: float) -> RatioEstimate:
        return RatioEstimate(
            quantile=quantile, ratio=ratio, interval=Interval(low=ratio - half, high=ratio + half),
            delta_ms=(ratio - 1) * base,
            delta_interval=Interval(low=(ratio - half - 1) * base, high=(ratio + half - 1) * base),
            windows=[rng.gauss(ratio, half * 2) for _ in range(24)],
        )  # fmt: skip

    direct = arms[0]
    return OverheadResult(
        workload="bookinfo productpage, 6 services, 5 hops, log-normal service times (median 4 ms per hop), "
        "60 requests/s per arm, keep-alive, mutual TLS and telemetry on",
        verdict=Verdict.FAIL if failing else Verdict.PASS,
        reason="P99 rises by 7.2 % (95 % interval +5.4 % to +9.0 %), all of which is above the limit of 5 %."
        if failing
        else "P99 rises by 3.1 % (95 % interval +1.6 % to +4.6 %), all of which is below the limit of 5 %.",
        limit_ratio=1.05,
        ratios=[
            estimate(0.5, factor - 0.006, 0.004, direct.p50_ms),
            estimate(0.9, factor - 0.003, 0.008, direct.p90_ms),
            estimate(0.99, factor, 0.018 if failing else 0.015, direct.p99_ms),
            estimate(0.999, factor + 0.01, 0.06, direct.p999_ms),
        ],
        control=estimate(0.99, 1.002, 0.012, direct.p99_ms),
        arms=arms,
        break_even_ms=34.4,
        windows=24,
        windows_dropped=1,
        cost=Cost(
            cpu_seconds_per_1000_requests=1.94,
            baseline_cpu_seconds_per_1000_requests=6.2,
            rss_bytes={
                f"bookinfo/{pod}": rng.randint(38, 47) << 20 for pod in ("productpage", "details", "reviews", "ratings")
            },
        ),
        validity={
            "status mix equal in both arms": "2 answers of 503 in the meshed arm, none in the direct one"
            if failing
            else "ok",
            "generator lateness": "ok",
            "achieved rate": "ok",
            "machine CPU": "ok",
            "A/A covers 1": "ok",
        },
        seed=7,
    )


def _experiment(failing: bool, rng: random.Random) -> ExperimentResult:
    timeline = []
    for second in range(60):
        slow = 15 <= second < 37
        factor = 6.0 if slow else 1.0
        errors = rng.randint(2, 9) if failing and 15 <= second < 48 else 0
        timeline.append(
            TimelinePoint(
                t_s=float(second), requests=60 + rng.randint(-7, 7), errors=errors,
                p50_ms=rng.gauss(22, 1) * (factor if slow else 1), p99_ms=rng.gauss(60, 5) * factor,
            )
        )  # fmt: skip
    return ExperimentResult(
        title="reviews survives slow ratings",
        file="chaos/experiments/slow-ratings.yaml",
        outcome="deviated" if failing else "held",
        verdict=Verdict.FAIL if failing else Verdict.PASS,
        reason="The success ratio fell to 0.87, below 0.99, and took 11.2 s to come back."
        if failing
        else "The steady state held throughout, and latency was back 1.1 s after the fault was healed.",
        phases=[
            Phase(name="baseline", start_s=0, end_s=14),
            Phase(name="inject", start_s=14, end_s=15.2, detail="latency 300 ms on reviews->ratings, bites: +301 ms"),
            Phase(name="observe", start_s=15.2, end_s=36),
            Phase(name="heal", start_s=36, end_s=37),
            Phase(name="recover", start_s=37, end_s=60, detail="back within 1.1 s; config digest equal"),
        ],
        timeline=timeline,
        scorecard={
            "time to detect": "1.0 s", "worst P99": "371 ms", "error ratio": "4.1 %" if failing else "0 %",
            "errors spent": "141 of 36" if failing else "0 of 36", "time to recover": "11.2 s" if failing else "1.1 s",
            "edges hit": "reviews->ratings, as declared", "rollback verified": "yes",
        },
        steady_state=[Evidence(title="before: success-ratio", text="1.0 within [0.99, 1.0]")],
    )  # fmt: skip


def _inverse_erf(x: float) -> float:
    """Winitzki's approximation; good to three digits, which a made-up curve does not need."""
    x = min(max(x, -0.9999999), 0.9999999)
    log = math.log(1 - x * x)
    a = 2 / (math.pi * 0.147) + log / 2
    return math.copysign(math.sqrt(math.sqrt(a * a - log / 0.147) - a), x)
