"""Packets to connections, each seen once and judged by all of its bytes. Pure: no sockets, no clock.

What a flow is. A TCP connection is identified by its client's address, port and initial sequence number, none of
which the node changes, so a connection that crosses two veths, and has its destination rewritten between them
(Service IP to pod IP), is still recognised as one. Of its two views the server's side is kept, because it names the
pod that really answered; the client's side is kept only when no server side exists (the node answered itself, as a
redirect into a fault proxy makes it do, or refused).

Direction. The SYN goes to the server. A connection that was already open when the capture began has shown no SYN:
its handshake cannot be vouched for, so its nature is `midstream`, whatever its bytes look like.

Order. Each direction is put back into sequence before it is read; retransmissions are dropped; what arrives early
is held, bounded. Bytes that never arrive leave a hole, and a hole makes the nature `gap`: nobody can say what it held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from harness.wire.packets import ACK, FIN, RST, SYN, TCP, UDP, Packet, address
from harness.wire.tls import Assessment, Scanner, assess

FIRST_BYTES = 32
_HEAD = 512  # enough to tell text from binary and to see a request line
_HOLD = 1 << 18  # out-of-order bytes kept per direction; veths do not reorder, so this is generous
_GRACE = 30.0  # a closed connection's stragglers come within this; after it its key is forgotten
_MODULUS = 1 << 32
_KEEP = 16 << 10  # payload bytes per direction that go into the evidence file

_REQUEST = re.compile(rb"^[A-Z]{3,16} [\x21-\x7e]{1,4096} HTTP/1\.[01]\r?\n")
_REQUEST_BEGUN = re.compile(rb"^(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT) [\x21-\x7e]*")
_PREFACE = b"PRI * HTTP/2.0\r\n"
_STATUS = re.compile(rb"^HTTP/1\.[01] [1-5][0-9][0-9]")


class FlowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One connection as it was observed; addresses are still addresses, and times are seconds since the epoch."""

    protocol: str
    """tcp, udp, or the IP protocol's number."""
    client: str
    client_port: int
    server: str
    server_port: int
    start: float
    end: float
    nature: str
    """tls | http | text | binary | broken-tls | gap | midstream | handshake (TLS, not finished, no data) | silent"""
    reason: str = ""
    up: int = 0
    """Payload bytes from the client; `down` from the server."""
    down: int = 0
    tls_version: str = ""
    sni: str = ""
    alpn: tuple[str, ...] = ()
    client_certificate: bool = False
    first_bytes: str = ""
    closed: bool = False


class _Direction:
    """One half of a TCP connection, in sequence."""

    __slots__ = ("fin", "gap", "head", "held", "held_bytes", "next", "scanner", "total")

    def __init__(self) -> None:
        self.next: int | None = None
        self.held: dict[int, bytes] = {}
        self.held_bytes = 0
        self.gap = False
        self.fin = False
        self.total = 0
        self.head = b""
        self.scanner: Scanner = Scanner()

    def segment(self, sequence: int, payload: bytes, length: int) -> None:
        if self.gap:
            self.total += length
            return
        if self.next is None:
            self.next = sequence
        ahead = (sequence - self.next) % _MODULUS
        if ahead >= _MODULUS // 2:  # begins before what is expected: a retransmission, perhaps with a new tail
            skip = _MODULUS - ahead
            if skip >= length:
                return
            payload, length, ahead = payload[skip:], length - skip, 0
        if ahead:
            if sequence not in self.held or len(self.held[sequence]) < length:
                self.held_bytes += length
                self.held[sequence] = payload
            self.gap = self.held_bytes > _HOLD or len(payload) < length
            return
        self._take(payload, length)
        while self.held and not self.gap:
            ready = [s for s in self.held if (s - self.next) % _MODULUS == 0 or (self.next - s) % _MODULUS < _HOLD]
            if not ready:
                break
            start = ready[0]
            data = self.held.pop(start)
            self.held_bytes -= len(data)
            data = data[(self.next - start) % _MODULUS :]
            if data:
                self._take(data, len(data))

    def _take(self, payload: bytes, length: int) -> None:
        assert self.next is not None
        self.total += length
        self.next = (self.next + length) % _MODULUS
        if len(payload) < length:
            self.gap = True
            return
        if len(self.head) < _HEAD:
            self.head += payload[: _HEAD - len(self.head)]
        self.scanner.feed(payload)


class _Flow:
    __slots__ = ("client", "client_port", "closed", "down", "end", "isn", "keep", "midstream", "outgoing", "server",
                 "server_port", "shadow", "start", "up")  # fmt: skip

    def __init__(self, packet: Packet, when: float, *, outgoing: bool, midstream: bool) -> None:
        self.client, self.client_port = packet.source, packet.source_port
        self.server, self.server_port = packet.destination, packet.destination_port
        self.isn = packet.sequence
        self.start = self.end = when
        self.outgoing = outgoing
        self.midstream = midstream
        self.shadow = False
        self.closed = 0.0
        self.keep = 0
        self.up = _Direction()
        self.down = _Direction()

    def swap(self) -> None:
        self.client, self.server = self.server, self.client
        self.client_port, self.server_port = self.server_port, self.client_port

    def record(self) -> FlowRecord:
        nature, reason, tls = _nature(self)
        return FlowRecord(
            protocol="tcp",
            client=address(self.client),
            client_port=self.client_port,
            server=address(self.server),
            server_port=self.server_port,
            start=self.start,
            end=self.end,
            nature=nature,
            reason=reason,
            up=self.up.total,
            down=self.down.total,
            tls_version=tls.version,
            sni=tls.sni,
            alpn=tls.alpn,
            client_certificate=tls.client_certificate,
            first_bytes="" if nature == "tls" else (self.up.head or self.down.head)[:FIRST_BYTES].hex(),
            closed=bool(self.closed),
        )


def _nature(flow: _Flow) -> tuple[str, str, Assessment]:
    none = Assessment("none")
    if not flow.up.total and not flow.down.total and not flow.up.held and not flow.down.held:
        return "silent", "no payload", none
    if flow.midstream:
        return "midstream", "open before the capture began: its handshake was not seen", none
    if flow.up.gap or flow.down.gap or flow.up.held or flow.down.held:
        return "gap", "bytes are missing from the capture", none
    tls = assess(flow.up.scanner, flow.down.scanner)
    if tls.state == "established":
        return "tls", "", tls
    if tls.state == "handshake":
        return "handshake", tls.reason, tls
    if tls.state == "broken":
        return "broken-tls", tls.reason, tls
    kind = content(flow.up.head, flow.down.head)
    return kind, {"http": "HTTP in the clear", "text": "readable text"}.get(kind, "neither TLS nor readable"), none


def content(up: bytes, down: bytes) -> str:
    """http, text or binary, by the first bytes of both directions."""
    if up.startswith(_PREFACE[: len(up)] if 3 <= len(up) < len(_PREFACE) else _PREFACE):
        return "http"
    if _REQUEST.match(up) or _REQUEST_BEGUN.match(up) or _STATUS.match(down):
        return "http"
    seen = up or down
    printable = sum(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in seen)
    return "text" if seen and printable >= 0.9 * len(seen) else "binary"


class FlowTable:
    """Feed it packets; ask for `records` at any time. Bounded: beyond `limit` connections `overflow` counts."""

    def __init__(self, ports: frozenset[int] = frozenset(), limit: int = 200_000) -> None:
        self._ports = ports
        self._limit = limit
        self._flows: dict[tuple[int, bytes, int, bytes, int], _Flow] = {}
        self._origins: dict[tuple[bytes, int, int], _Flow] = {}
        self._datagrams: dict[tuple[int, bytes, int, bytes, int], FlowRecord] = {}
        self._done: list[FlowRecord] = []
        self._swept = 0.0
        self.overflow = 0
        """Packets of connections that no longer found room."""

    def packet(self, packet: Packet, when: float, interface: int, outgoing: bool) -> bool:
        """Take one packet in. `outgoing`: it left the node through `interface`, towards the pod there. Returns
        whether it belongs in the evidence file: the first bytes of a connection's kept view."""
        if packet.protocol != TCP:
            return self._datagram(packet, when, outgoing)
        here = (interface, packet.source, packet.source_port, packet.destination, packet.destination_port)
        back = (interface, packet.destination, packet.destination_port, packet.source, packet.source_port)
        flow = self._flows.get(here) or self._flows.get(back)
        if packet.flags & (SYN | ACK) == SYN:
            flow = self._open(here, back, packet, when, outgoing, flow)
        elif flow is None:
            flow = self._midstream(here, packet, when, outgoing)
        if flow is None or flow.shadow:
            return False
        flow.end = when
        forward = packet.source == flow.client and packet.source_port == flow.client_port
        side = flow.up if forward else flow.down
        sequence = packet.sequence
        if packet.flags & SYN:
            if side.next is None:
                side.next = (sequence + 1) % _MODULUS
            sequence = (sequence + 1) % _MODULUS
        if packet.length and not flow.closed:
            side.segment(sequence, packet.payload, packet.length)
        if packet.flags & FIN:
            side.fin = True
        if not flow.closed and (packet.flags & RST or (flow.up.fin and flow.down.fin)):
            flow.closed = when
        if when - self._swept > _GRACE:
            self._sweep(when)
        flow.keep += packet.length
        return flow.keep - packet.length < 2 * _KEEP or bool(packet.flags & (SYN | FIN | RST))

    def records(self) -> Iterator[FlowRecord]:
        """Every connection so far, open ones as they stand."""
        yield from self._done
        yield from (flow.record() for flow in self._kept())
        yield from self._datagrams.values()

    def __len__(self) -> int:
        return len(self._done) + len(self._flows) + len(self._datagrams)

    def _open(
        self,
        here: tuple[int, bytes, int, bytes, int],
        back: tuple[int, bytes, int, bytes, int],
        packet: Packet,
        when: float,
        outgoing: bool,
        known: _Flow | None,
    ) -> _Flow | None:
        if known is not None and known.isn == packet.sequence and known.client == packet.source:
            return known  # a retransmitted SYN
        if known is not None:  # the addresses are used again
            self._forget(here if here in self._flows else back, known)
        if len(self) >= self._limit:
            self.overflow += 1
            return None
        flow = _Flow(packet, when, outgoing=outgoing, midstream=False)
        origin = (packet.source, packet.source_port, packet.sequence)
        other = self._origins.get(origin)
        if other is not None:
            loser = other if outgoing and not other.outgoing else flow
            loser.shadow = True
        self._flows[here] = flow
        if not flow.shadow:
            self._origins[origin] = flow
        return flow

    def _midstream(
        self, here: tuple[int, bytes, int, bytes, int], packet: Packet, when: float, outgoing: bool
    ) -> _Flow | None:
        """Nothing is known of this connection. Which end is the server is a guess by ports, and one of its views
        is enough."""
        if not packet.length:
            return None  # the tail of something closed before the capture
        if len(self) >= self._limit:
            self.overflow += 1
            return None
        flow = _Flow(packet, when, outgoing=outgoing, midstream=True)
        source_listens = packet.source_port in self._ports, -packet.source_port
        destination_listens = packet.destination_port in self._ports, -packet.destination_port
        if source_listens > destination_listens:
            flow.swap()
        origin = (flow.client, flow.client_port, -1)
        if origin in self._origins and self._origins[origin].server == flow.server:
            flow.shadow = True
        else:
            self._origins[origin] = flow
        self._flows[here] = flow
        return flow

    def _datagram(self, packet: Packet, when: float, outgoing: bool) -> bool:
        """Not TCP: one flow per pair of endpoints, never vouched for. Seen where it enters its destination's veth."""
        if not outgoing or not packet.length:
            return False
        there = (packet.protocol, packet.source, packet.source_port, packet.destination, packet.destination_port)
        back = (packet.protocol, packet.destination, packet.destination_port, packet.source, packet.source_port)
        if back in self._datagrams:
            known = self._datagrams[back]
            self._datagrams[back] = msgspec.structs.replace(known, end=when, down=known.down + packet.length)
            return False
        if there in self._datagrams:
            known = self._datagrams[there]
            self._datagrams[there] = msgspec.structs.replace(known, end=when, up=known.up + packet.length)
            return False
        if len(self) >= self._limit:
            self.overflow += 1
            return False
        self._datagrams[there] = FlowRecord(
            protocol="udp" if packet.protocol == UDP else str(packet.protocol),
            client=address(packet.source),
            client_port=packet.source_port,
            server=address(packet.destination),
            server_port=packet.destination_port,
            start=when,
            end=when,
            nature=content(packet.payload[:_HEAD], b""),
            reason="not TCP: no TLS to be seen",
            up=packet.length,
            first_bytes=packet.payload[:FIRST_BYTES].hex(),
        )
        return True

    def _kept(self) -> Iterator[_Flow]:
        return (flow for flow in self._flows.values() if not flow.shadow)

    def _forget(self, key: tuple[int, bytes, int, bytes, int], flow: _Flow) -> None:
        del self._flows[key]
        if not flow.shadow:
            self._done.append(flow.record())
            origin = (flow.client, flow.client_port, -1 if flow.midstream else flow.isn)
            if self._origins.get(origin) is flow:
                del self._origins[origin]

    def _sweep(self, now: float) -> None:
        """Condense what has been closed long enough to have no stragglers left."""
        self._swept = now
        for key, flow in list(self._flows.items()):
            twin = self._origins.get((flow.client, flow.client_port, flow.isn)) if flow.shadow else None
            closed = flow.closed or (flow.shadow and (twin is None or twin.closed))
            if closed and (twin is None or not twin.closed or now - twin.closed > _GRACE) and now - flow.end > _GRACE:
                self._forget(key, flow)
