"""What a capture hands over: every flow so far, and what it has to say about its own completeness."""

from __future__ import annotations

import msgspec

from harness.wire.classify import FlowRecord


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen so far."""

    started: float
    """Seconds since the epoch."""
    taken: float
    packets: int
    dropped: int
    """Packets lost: by the kernel for want of ring, or here for want of room for another connection."""
    omitted: int
    """Packets seen and classified but left out of the evidence file, which is bounded."""
    cpu_seconds: float
    addresses: list[str]
    """The node's own."""
    flows: list[FlowRecord]
