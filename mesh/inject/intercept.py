"""Which connections of a pod go through its proxy: Istio's netfilter chains, from Istio's annotations. Pure.

Everything the app sends goes to 15001 and everything sent to the pod to 15006, except: what the proxy itself sends (by
uid and gid), what stays on loopback, the proxy's own ports, and what the annotations take out. A call of the pod to
itself through a cluster IP comes back in through 15006, as it would from another pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

PROXY_ID = 1337
"""uid and gid of the proxy, as Istio's."""
OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
PASS_INBOUND = (15008, 15020, 15021, 15090)
"""Inbound ports that are the proxy's own: tunnel, merged metrics, readiness, Prometheus."""
INBOUND_SOURCE = "127.0.0.6/32"
"""Where the proxy calls its own app from."""

PREFIX = "traffic.sidecar.istio.io/"
ALL = "*"


class InvalidAnnotation(ValueError):
    """An annotation that cannot be read; the message names it, its value and what was expected."""


class Intercept(msgspec.Struct, frozen=True, kw_only=True):
    include_inbound: tuple[int, ...] | None = None
    """None: every port."""
    exclude_inbound: tuple[int, ...] = ()
    include_outbound: tuple[int, ...] = ()
    """Captured whatever their address is."""
    exclude_outbound: tuple[int, ...] = ()
    include_ranges: tuple[str, ...] | None = None
    """None: every address."""
    exclude_ranges: tuple[str, ...] = ()


def from_annotations(annotations: Mapping[str, str]) -> Intercept:
    """Raises `InvalidAnnotation`."""
    known = {
        "includeInboundPorts",
        "excludeInboundPorts",
        "includeOutboundPorts",
        "excludeOutboundPorts",
        "includeOutboundIPRanges",
        "excludeOutboundIPRanges",
    }
    for key in annotations:
        if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in known:
            raise InvalidAnnotation(f"annotation {key} is not supported; expected one of {', '.join(sorted(known))}")
    include_inbound = annotations.get(PREFIX + "includeInboundPorts", ALL)
    include_ranges = annotations.get(PREFIX + "includeOutboundIPRanges", ALL)
    return Intercept(
        include_inbound=None if include_inbound.strip() == ALL else _ports(annotations, "includeInboundPorts"),
        exclude_inbound=_ports(annotations, "excludeInboundPorts"),
        include_outbound=_ports(annotations, "includeOutboundPorts"),
        exclude_outbound=_ports(annotations, "excludeOutboundPorts"),
        include_ranges=None if include_ranges.strip() == ALL else _ranges(annotations, "includeOutboundIPRanges"),
        exclude_ranges=_ranges(annotations, "excludeOutboundIPRanges"),
    )


def _items(annotations: Mapping[str, str], name: str) -> list[str]:
    return [item.strip() for item in annotations.get(PREFIX + name, "").split(",") if item.strip()]


def _ports(annotations: Mapping[str, str], name: str) -> tuple[int, ...]:
    ports = []
    for item in _items(annotations, name):
        if not item.isdecimal() or not 1 <= int(item) <= 65535:
            raise InvalidAnnotation(
                f"annotation {PREFIX}{name}: {item!r} is not a port; expected 1 to 65535, by commas"
            )
        ports.append(int(item))
    return tuple(sorted(set(ports)))


def _ranges(annotations: Mapping[str, str], name: str) -> tuple[str, ...]:
    ranges = []
    for item in _items(annotations, name):
        try:
            ranges.append(str(ipaddress.IPv4Network(item, strict=False)))
        except ValueError as exc:
            raise InvalidAnnotation(
                f"annotation {PREFIX}{name}: {item!r} is not an IPv4 range ({exc}); expected CIDRs, by commas"
            ) from None
    return tuple(sorted(set(ranges)))


def rules(intercept: Intercept) -> str:
    """Input of `iptables-restore --noflush`."""
    lines = [
        "*nat",
        ":ISTIO_INBOUND - [0:0]",
        ":ISTIO_IN_REDIRECT - [0:0]",
        ":ISTIO_OUTPUT - [0:0]",
        ":ISTIO_REDIRECT - [0:0]",
        f"-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}",
        f"-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {INBOUND_PORT}",
        "-A PREROUTING -p tcp -j ISTIO_INBOUND",
        "-A OUTPUT -p tcp -j ISTIO_OUTPUT",
        *_inbound(intercept),
        *_outbound(intercept),
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def _inbound(intercept: Intercept) -> list[str]:
    lines = [f"-A ISTIO_INBOUND -p tcp --dport {port} -j RETURN" for port in PASS_INBOUND]
    lines += [f"-A ISTIO_INBOUND -p tcp --dport {port} -j RETURN" for port in intercept.exclude_inbound]
    if intercept.include_inbound is None:
        lines.append("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT")
    else:
        lines += [f"-A ISTIO_INBOUND -p tcp --dport {p} -j ISTIO_IN_REDIRECT" for p in intercept.include_inbound]
    return lines


def _outbound(intercept: Intercept) -> list[str]:
    lines = [
        # The proxy's call to its own app: delivered, or it would come back to the proxy for ever.
        f"-A ISTIO_OUTPUT -s {INBOUND_SOURCE} -o lo -j RETURN",
    ]
    for kind in ("uid", "gid"):
        lines += [
            # app -> proxy -> own pod by its cluster IP: back in through the inbound port, as from another pod.
            f"-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --{kind}-owner {PROXY_ID} -j ISTIO_IN_REDIRECT",
            f"-A ISTIO_OUTPUT -o lo -p tcp -m owner ! --{kind}-owner {PROXY_ID} -j RETURN",
            f"-A ISTIO_OUTPUT -m owner --{kind}-owner {PROXY_ID} -j RETURN",
        ]
    lines.append("-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN")
    lines += [f"-A ISTIO_OUTPUT -p tcp --dport {port} -j RETURN" for port in intercept.exclude_outbound]
    lines += [f"-A ISTIO_OUTPUT -d {cidr} -j RETURN" for cidr in intercept.exclude_ranges]
    lines += [f"-A ISTIO_OUTPUT -p tcp --dport {port} -j ISTIO_REDIRECT" for port in intercept.include_outbound]
    if intercept.include_ranges is None:
        lines.append("-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT")
    else:
        lines += [f"-A ISTIO_OUTPUT -p tcp -d {cidr} -j ISTIO_REDIRECT" for cidr in intercept.include_ranges]
    return lines
