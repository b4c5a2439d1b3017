"""One captured IP packet, taken apart as far as classification needs it.

Own parser, because it runs once for every packet the ring delivers: fixed offsets, one allocation for the payload,
no exceptions on malformed input (`None` instead). Lengths come from the IP header, never from the captured size, so
Ethernet padding is not mistaken for payload and a truncated capture is noticed.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
TCP = 6
UDP = 17
_ICMP = 1
_ICMPV6 = 58
_HOP_BY_HOP = 0  # multicast listener reports of the kernel itself

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10


class Packet(NamedTuple):
    """Addresses are raw bytes (4 or 16), ports are 0 where the protocol has none."""

    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    flags: int
    sequence: int
    acknowledgement: int
    payload: bytes
    length: int
    """Payload bytes on the wire; more than `len(payload)` when the capture was truncated."""


def address(raw: bytes) -> str:
    return str(ip_address(raw))


def parse(ethertype: int, data: bytes) -> Packet | None:
    """`data` begins at the IP header. `None` for what carries no workload bytes (ICMP, malformed)."""
    if ethertype == ETHERTYPE_IPV4:
        if len(data) < 20 or data[0] >> 4 != 4:
            return None
        header = (data[0] & 0x0F) * 4
        end = int.from_bytes(data[2:4], "big")
        if header < 20 or end < header:
            return None
        fragment = int.from_bytes(data[6:8], "big") & 0x3FFF
        return _transport(data[9], data[12:16], data[16:20], data, header, end, bool(fragment))
    if ethertype == ETHERTYPE_IPV6:
        if len(data) < 40 or data[0] >> 4 != 6:
            return None
        end = 40 + int.from_bytes(data[4:6], "big")
        return _transport(data[6], data[8:24], data[24:40], data, 40, end, False)
    return None


def _transport(
    protocol: int, source: bytes, destination: bytes, data: bytes, start: int, end: int, fragment: bool
) -> Packet | None:
    if protocol in (_ICMP, _ICMPV6, _HOP_BY_HOP):
        return None
    if protocol == TCP and not fragment:
        if len(data) < start + 20:
            return None
        payload = start + (data[start + 12] >> 4) * 4
        if payload < start + 20 or payload > end:
            return None
        return Packet(
            TCP,
            source,
            destination,
            int.from_bytes(data[start : start + 2], "big"),
            int.from_bytes(data[start + 2 : start + 4], "big"),
            data[start + 13],
            int.from_bytes(data[start + 4 : start + 8], "big"),
            int.from_bytes(data[start + 8 : start + 12], "big"),
            data[payload:end],
            end - payload,
        )
    if protocol == UDP and not fragment:
        if len(data) < start + 8:
            return None
        ports = int.from_bytes(data[start : start + 2], "big"), int.from_bytes(data[start + 2 : start + 4], "big")
        return Packet(UDP, source, destination, *ports, 0, 0, 0, data[start + 8 : end], end - start - 8)
    # A fragment or a protocol of its own: nothing we can read, so it must show up as a flow nobody vouches for.
    return Packet(protocol, source, destination, 0, 0, 0, 0, 0, data[start:end], end - start)
