"""Which headers of a request a service hands on to those it calls, so that the proxies' spans join into one trace.

The list is that of Istio's sample, and the seed of the service-time profile.
"""

from __future__ import annotations

from harness.workloads.bookinfo.profile import SEED_HEADER
from harness.workloads.http1 import Pairs

TRACE_HEADERS = frozenset(
    {
        "x-request-id",
        "x-ot-span-context",
        "x-datadog-trace-id",
        "x-datadog-parent-id",
        "x-datadog-sampling-priority",
        "traceparent",
        "tracestate",
        "x-cloud-trace-context",
        "grpc-trace-bin",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
        "sw8",
    }
)
"""Trace context: W3C, B3 in its single and multiple form, SkyWalking, Datadog, Lightstep, Google Cloud."""

APPLICATION_HEADERS = frozenset({"end-user", "user-agent", "cookie", "authorization", "jwt", SEED_HEADER})

FORWARDED = TRACE_HEADERS | APPLICATION_HEADERS

USER_COOKIE = "user"


def forwarded(headers: Pairs) -> Pairs:
    """The headers to hand on, in the order and case they came in."""
    return [pair for pair in headers if pair[0].lower() in FORWARDED]


def user_of(headers: Pairs) -> str:
    """Who is logged in: the `user` cookie of the login form, or else the `end-user` header; empty for nobody."""
    named = ""
    for name, value in headers:
        lower = name.lower()
        if lower == "cookie":
            for part in value.split(";"):
                key, _, content = part.strip().partition("=")
                if key == USER_COOKIE and content:
                    return content
        elif lower == "end-user" and not named:
            named = value
    return named


def forwarded_for(headers: Pairs, user: str) -> Pairs:
    """As `forwarded`, and `end-user` names `user`: productpage is where a login becomes a header."""
    pairs = [pair for pair in forwarded(headers) if pair[0].lower() != "end-user"]
    if user:
        pairs.append(("end-user", user))
    return pairs
