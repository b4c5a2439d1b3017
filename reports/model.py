"""The run bundle's content: what a run found, as plain data. Reports are rendered from this and nothing else.

Times are ISO 8601 in UTC where they are strings, seconds since the run began where they are `*_s` floats, milliseconds
where they are `*_ms`. Ratios are plain numbers (1.05 is +5 %).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class _Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base: keyword-only, strict when read back."""


class Interval(_Model, kw_only=True):
    low: float
    high: float
    confidence: float = 0.95


class Gate(_Model, kw_only=True):
    """One line of the verdict: something measured against its limit."""

    name: str
    verdict: Verdict
    value: str
    """As shown to people, with its unit, such as `+3.1 %` or `57 of 57`."""
    limit: str
    interval: str = ""
    reason: str = ""
    """Why, in one sentence; always there unless the verdict is pass."""


class Evidence(_Model, kw_only=True):
    """Something seen, kept so that a doubter can look: text, or a file of the bundle."""

    title: str
    text: str = ""
    file: str = ""
    """Path within the bundle, when the evidence is a file."""


class CheckResult(_Model, kw_only=True):
    id: str
    """The check's id, such as `R12`."""
    title: str
    area: str
    feature: str
    profile: str
    outcome: str
    """passed | failed | skipped | error"""
    duration_s: float = 0.0
    message: str = ""
    evidence: list[Evidence] = []


class ConformanceResult(_Model, kw_only=True):
    profile: str
    checks: list[CheckResult] = []
    supported_features: list[str] = []
    unsupported_features: list[str] = []
    convergence_ms: list[float] = []
    """Apply-to-last-ACK of every change the suite made."""


class Flow(_Model, kw_only=True):
    """One captured TCP connection between pods, by its client's first bytes."""

    source: str
    """`<namespace>/<pod>`, or `node`."""
    destination: str
    destination_port: int
    kind: str
    """mesh-tls | control-tls | other-tls | http | plaintext | unknown | silent (no payload, or a TLS handshake that was
    not finished: no application data)"""
    reason: str = ""
    """Why it is of this kind; always there for a flow that is not covered."""
    sni: str = ""
    alpn: list[str] = []
    tls_version: str = ""
    first_bytes: str = ""
    """First payload bytes as hex, at most 32; empty for TLS."""
    start_s: float = 0.0
    bytes: int = 0


class Edge(_Model, kw_only=True):
    source: str
    """Workload, `<namespace>/<app>`."""
    destination: str
    port: int
    flows: int
    covered: int
    bytes: int = 0
    covered_bytes: int = 0


class PortProbe(_Model, kw_only=True):
    """The active side: what a workload port did to a caller that it must refuse."""

    destination: str
    port: int
    probe: str
    """plaintext | no-client-certificate | foreign-ca, all of which must be refused; or mesh-certificate, the positive
    control, which must not be: where everything is refused, a refusal proves nothing"""
    refused: bool
    detail: str = ""


class WireResult(_Model, kw_only=True):
    coverage: float
    """Covered share of all workload flows, 0..1. Unknown and plaintext flows count against it."""
    flows: int
    covered: int
    unknown: int
    byte_coverage: float = 0.0
    edges: list[Edge] = []
    uncovered: list[Flow] = []
    """The longest-lasting first where there are too many to list; the edges count all of them."""
    control_flows: int = 0
    """To and from the control plane, over TLS of its own; not workload traffic."""
    silent: int = 0
    """Connections that carried no application data; not counted among `flows`."""
    node_edges: list[Edge] = []
    """Between the node (probes, harness) and pods: listed apart, not counted."""
    probes: list[PortProbe] = []
    capture_dropped: int = 0
    """Packets the kernel dropped from the capture; anything above 0 makes the result inconclusive."""
    capture_file: str = ""


class ArmSummary(_Model, kw_only=True):
    name: str
    requests: int
    errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    curve: list[tuple[float, float]] = []
    """(quantile 0..1, latency ms), increasing, for the percentile curve."""
    status_mix: dict[str, int] = {}


class RatioEstimate(_Model, kw_only=True):
    quantile: float
    ratio: float
    interval: Interval
    delta_ms: float
    delta_interval: Interval
    windows: list[float] = []
    """The per-window ratios the estimate was made from."""


class Cost(_Model, kw_only=True):
    """What the sidecars consumed."""

    cpu_seconds_per_1000_requests: float
    baseline_cpu_seconds_per_1000_requests: float = 0.0
    """What the apps themselves consumed, for scale."""
    rss_bytes: dict[str, int] = {}
    """`<namespace>/<pod>` to the sidecar's resident bytes."""


class OverheadResult(_Model, kw_only=True):
    workload: str
    """The declared profile in one sentence: hops, service times, rate, keep-alive, mTLS."""
    verdict: Verdict
    reason: str
    limit_ratio: float
    ratios: list[RatioEstimate] = []
    """P50, P90, P99, P99.9."""
    control: RatioEstimate | None = None
    """A/A: P99 ratio of the direct arm to itself; must cover 1."""
    arms: list[ArmSummary] = []
    break_even_ms: float = 0.0
    """Service time at which the P99 increase equals the limit."""
    windows: int = 0
    windows_dropped: int = 0
    cost: Cost | None = None
    validity: dict[str, str] = {}
    """Each validity gate to `ok`, or to what was wrong."""
    seed: int = 0


class Phase(_Model, kw_only=True):
    name: str
    """baseline | inject | observe | heal | recover"""
    start_s: float
    end_s: float
    detail: str = ""


class TimelinePoint(_Model, kw_only=True):
    t_s: float
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float


class ExperimentResult(_Model, kw_only=True):
    title: str
    file: str
    outcome: str
    """held | deviated | aborted | not-injected | inconclusive"""
    verdict: Verdict
    reason: str
    phases: list[Phase] = []
    timeline: list[TimelinePoint] = []
    scorecard: dict[str, str] = {}
    """time to detect, worst p99, error ratio, errors spent, time to recover, edges hit, rollback verified ..."""
    steady_state: list[Evidence] = []


class RunResult(_Model, kw_only=True):
    run_id: str
    command: str
    """Reproduces the run."""
    started: str
    finished: str = ""
    verdict: Verdict = Verdict.INCONCLUSIVE
    sentence: str = ""
    """The verdict in one sentence a stranger understands."""
    mesh: dict[str, str] = {}
    environment: dict[str, str] = {}
    timings_s: dict[str, float] = {}
    gates: list[Gate] = []
    conformance: ConformanceResult | None = None
    wire: WireResult | None = None
    overhead: OverheadResult | None = None
    chaos: list[ExperimentResult] = []
    notes: list[str] = []
