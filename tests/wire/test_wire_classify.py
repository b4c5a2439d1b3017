"""Packets to flows: each connection once, read in order, and nothing unknown passed off as known."""

from __future__ import annotations

import random
from ipaddress import ip_address
from pathlib import Path

import pytest

from harness.wire.classify import FlowTable
from harness.wire.packets import ACK, SYN, TCP, UDP, Packet, parse
from tests.wire.conversation import CLIENT, SERVER, Wire, certificate, only, tls

REQUEST = ("up", b"GET /reviews/0 HTTP/1.1\r\nhost: reviews\r\n\r\n")
RESPONSE = ("down", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("pem"))


def test_a_connection_over_two_veths_is_one_flow_with_both_directions(pem: Path) -> None:
    table = FlowTable()
    turns = tls(pem)
    Wire(table).say(turns)
    flow = only(table)
    assert (flow.nature, flow.client, flow.server, flow.server_port) == ("tls", CLIENT, SERVER, 9080)
    assert flow.up == sum(len(data) for way, data in turns if way == "up")
    assert flow.down == sum(len(data) for way, data in turns if way == "down")
    assert flow.closed


def test_a_service_address_is_resolved_by_the_servers_own_view() -> None:
    table = FlowTable()
    Wire(table).say([REQUEST, RESPONSE], interfaces=[(1, False, "10.96.0.7"), (2, True, "")])
    assert only(table).server == SERVER


def test_what_the_node_answered_itself_keeps_the_clients_view(pem: Path) -> None:
    """As with a redirect into a fault proxy: the server's veth sees another connection, from the node."""
    table = FlowTable()
    wire = Wire(table)
    wire.say(tls(pem), interfaces=[(1, False, "")])
    wire.say(tls(pem), client="10.244.255.254", interfaces=[(2, True, "")], isn=77)
    assert {(flow.client, flow.nature) for flow in table.records()} == {(CLIENT, "tls"), ("10.244.255.254", "tls")}


@pytest.mark.parametrize(
    ("turns", "nature"),
    [
        ([REQUEST, RESPONSE], "http"),
        ([("up", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30))], "http"),
        ([("down", b"220 mail ready\r\n"), ("up", b"")], "text"),
        ([("up", b"hello over there"), ("down", b"hello")], "text"),
        ([("up", bytes(range(200, 256)) * 3)], "binary"),
        ([], "silent"),
    ],
)
def test_natures(turns: list[tuple[str, bytes]], nature: str) -> None:
    table = FlowTable()
    Wire(table).say(turns)
    assert only(table).nature == nature


def test_open_before_the_capture_is_midstream_even_if_it_looks_like_tls(pem: Path) -> None:
    table = FlowTable(ports=frozenset({9080}))
    Wire(table).say(tls(pem), syn=False)
    flow = only(table)
    assert flow.nature == "midstream"
    assert (flow.client, flow.server_port) == (CLIENT, 9080)


def test_midstream_first_seen_from_the_server_is_turned_round() -> None:
    table = FlowTable(ports=frozenset({9080}))
    Wire(table).say([RESPONSE, REQUEST], syn=False)
    assert (only(table).client, only(table).server_port) == (CLIENT, 9080)


def test_the_same_ports_again_are_another_flow(pem: Path) -> None:
    table = FlowTable()
    wire = Wire(table)
    port = wire.say(tls(pem))
    wire.say([REQUEST, RESPONSE], client_port=port, isn=5)
    assert sorted(flow.nature for flow in table.records()) == ["http", "tls"]


def _segments(data: bytes, size: int, start: int) -> list[tuple[int, bytes]]:
    return [((start + at) % 2**32, data[at : at + size]) for at in range(0, len(data), size)]


def _packet(up: bool, sequence: int, payload: bytes, flags: int = ACK) -> Packet:
    a, b = (ip_address(CLIENT).packed, 40000), (ip_address(SERVER).packed, 9080)
    (source, sport), (destination, dport) = (a, b) if up else (b, a)
    return Packet(TCP, source, destination, sport, dport, flags, sequence, 0, payload, len(payload))


@pytest.mark.parametrize("seed", range(20))
def test_reordered_and_repeated_segments_read_the_same(pem: Path, seed: int) -> None:
    rng = random.Random(seed)
    table = FlowTable()
    isn = 2**32 - 300
    table.packet(_packet(True, isn, b"", SYN), 1.0, 2, True)
    table.packet(_packet(False, isn, b"", SYN | ACK), 1.0, 2, False)
    position = {"up": isn + 1, "down": isn + 1}
    for way, data in tls(pem):
        segments = _segments(data, rng.randint(50, 900), position[way])
        segments += rng.sample(segments, len(segments) // 2)
        rng.shuffle(segments)
        for sequence, payload in segments:
            table.packet(_packet(way == "up", sequence, payload), 1.1, 2, way == "up")
        position[way] += len(data)
    flow = only(table)
    assert flow.nature == "tls"
    assert flow.up == position["up"] - isn - 1


def test_a_hole_is_never_covered(pem: Path) -> None:
    table = FlowTable()
    wire = Wire(table)
    isn = 9
    turns = tls(pem)
    wire.table.packet(_packet(True, isn, b"", SYN), 1.0, 2, True)
    wire.table.packet(_packet(False, isn, b"", SYN | ACK), 1.0, 2, False)
    position = {"up": isn + 1, "down": isn + 1}
    for index, (way, data) in enumerate(turns):
        if index != len(turns) - 2:
            table.packet(_packet(way == "up", position[way], data), 1.1, 2, way == "up")
        position[way] += len(data)
    table.packet(_packet(turns[-2][0] == "up", position[turns[-2][0]], b"\x17\x03\x03"), 1.2, 2, turns[-2][0] == "up")
    assert only(table).nature == "gap"


def test_truncated_packets_are_a_hole() -> None:
    table = FlowTable()
    table.packet(_packet(True, 9, b"", SYN), 1.0, 2, True)
    table.packet(_packet(True, 10, b"GET / HT")._replace(length=500), 1.0, 2, True)
    assert only(table).nature == "gap"


def test_datagrams_between_pods_show_up() -> None:
    table = FlowTable()
    datagram = _packet(True, 0, b"\x80\x01\x02" * 30)._replace(protocol=UDP)
    table.packet(datagram, 1.0, 1, False)
    table.packet(datagram, 1.0, 2, True)
    assert (only(table).protocol, only(table).nature) == ("udp", "binary")


def test_a_full_table_counts_what_it_could_not_hold() -> None:
    table = FlowTable(limit=3)
    wire = Wire(table)
    for _ in range(5):
        wire.say([REQUEST, RESPONSE], interfaces=[(2, True, "")], close=False)
    assert table.overflow > 0
    assert len(list(table.records())) == 3


def test_closed_connections_are_condensed_and_still_reported(pem: Path) -> None:
    table = FlowTable()
    wire = Wire(table)
    for _ in range(20):
        wire.say([REQUEST, RESPONSE])
    wire.now += 100
    wire.say([REQUEST, RESPONSE])
    wire.now += 100
    wire.say([REQUEST, RESPONSE])
    assert len(list(table.records())) == 22
    assert len(table._flows) <= 4


def test_random_frames_never_raise() -> None:
    rng = random.Random(3)
    table = FlowTable()
    for _ in range(5000):
        data = bytearray(rng.randbytes(rng.randint(0, 90)))
        if data:
            data[0] = rng.choice([0x45, 0x46, 0x4F, 0x60, data[0]])
        packet = parse(rng.choice([0x0800, 0x86DD, 0x0806]), bytes(data))
        if packet is not None:
            table.packet(packet, 1.0, rng.randint(1, 3), rng.random() < 0.5)
    for record in table.records():
        assert record.nature != "tls"
