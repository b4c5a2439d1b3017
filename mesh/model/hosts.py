"""Host names: what a short one means, which wildcard covers it, what identity and SNI go with it."""

from __future__ import annotations

from collections.abc import Iterable


def qualified(host: str, namespace: str, domain: str) -> str:
    """A name without a dot is a Service of `namespace`. Wildcards, addresses and dotted names stay."""
    if not host or "." in host or ":" in host or host.startswith("*"):
        return host
    return f"{host}.{namespace}.svc.{domain}"


def covers(pattern: str, host: str) -> bool:
    """Whether `pattern` (exact, `*.suffix`, or `*`) covers `host` (which may be a wildcard itself)."""
    if pattern == host or pattern == "*":
        return True
    return pattern.startswith("*") and host.endswith(pattern[1:]) and host != pattern[1:]


def most_specific(patterns: Iterable[str], host: str) -> str | None:
    """The exact name, else the longest wildcard that covers `host`."""
    matching = [pattern for pattern in patterns if covers(pattern, host)]
    return max(matching, key=lambda pattern: (pattern == host, len(pattern), pattern), default=None)


def short_names(hostname: str, namespace: str, domain: str) -> tuple[str, ...]:
    """Every name by which a client in `namespace` may call the Service, the full one first."""
    suffix = f".svc.{domain}"
    if not hostname.endswith(suffix):
        return (hostname,)
    base = hostname.removesuffix(suffix)
    name, dot, service_namespace = base.rpartition(".")
    if not dot:
        return (hostname,)
    names = [hostname, f"{base}.svc", base]
    if service_namespace == namespace:
        names.append(name)
    return tuple(names)


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def cluster_name(direction: str, port: int, subset: str, host: str) -> str:
    """Istio's: `outbound|9080|v1|reviews.bookinfo.svc.cluster.local`, `inbound|9080||`."""
    return f"{direction}|{port}|{subset}|{host}"


def sni(port: int, subset: str, host: str) -> str:
    """Istio's: `outbound_.9080_.v1_.reviews.bookinfo.svc.cluster.local`."""
    return f"outbound_.{port}_.{subset}_.{host}"
