"""Instructions and what they come to; the log's bounds; gRPC's wire. No sockets."""

from __future__ import annotations

import pytest

import harness.workloads.echo.journal as journal_module
from harness.workloads.echo import grpc_wire
from harness.workloads.echo.behaviour import (
    NOTHING,
    Instructions,
    InvalidInstruction,
    instructions,
    line_instructions,
    plan,
)
from harness.workloads.echo.caller import InvalidCall, check
from harness.workloads.echo.journal import Journal
from harness.workloads.echo.protocol import CallSpec, Instance, decode_echo


def test_a_request_without_instructions_has_none() -> None:
    assert instructions([("Host", "x"), ("x-echo-", "1")], "/path?a=1") is NOTHING


def test_headers_of_any_case_and_parameters_are_read_and_a_header_wins() -> None:
    told = instructions([("X-Echo-Delay", "5"), ("x-echo-token", "a")], "/p?echo-delay=7&echo-status=418&other=1")
    assert told == Instructions(delay_ms=5.0, token="a", status=418)


def test_response_headers_may_be_repeated() -> None:
    told = instructions([("x-echo-header", "X-A: 1"), ("x-echo-header", "X-A:2 ")], "/")
    assert told.headers == (("X-A", "1"), ("X-A", "2"))


def test_a_line_carries_instructions_up_to_the_first_blank() -> None:
    assert line_instructions(b"hello ?") == (NOTHING, b"hello ?")
    told, body = line_instructions(b"?echo-token=t&echo-fail=1 the body ")
    assert (told.token, told.fail, body) == ("t", 1, b"the body ")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("delay", "soon", "delay: 'soon'"),
        ("delay", "-1", "expected a number from 0"),
        ("delay", "nan", "expected a number"),
        ("size", "99999999999", "size"),
        ("status", "1000", "status"),
        ("reset", "later", "expected now, mid"),
        ("header", "no colon", "Name: value"),
        ("header", "X-A: b\r\nX-C: d", "control characters"),
        ("token", "t" * 129, "129 characters"),
        ("fail", "2", "needs a token"),
        ("wait", "1", "no instruction"),
    ],
)
def test_an_instruction_without_meaning_is_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(InvalidInstruction, match=says):
        instructions([(f"x-echo-{name}", value)], "/")


def test_the_first_n_fail_and_the_next_is_answered() -> None:
    told = Instructions(fail=2, token="t", fail_status=500)
    assert [(p.status, p.outcome) for p in (plan(told, n) for n in (1, 2, 3))] == [
        (500, "failed"),
        (500, "failed"),
        (None, "answered"),
    ]
    assert plan(Instructions(fail=1, token="t", fail_how="reset"), 1).fate == "reset"
    assert plan(Instructions(fail=1, token="t", fail_how="close"), 1).fate == "close"


@pytest.mark.parametrize(("how", "when", "fate"), [("reset", "mid", "reset-mid"), ("close", "now", "close")])
def test_resets_and_closes(how: str, when: str, fate: str) -> None:
    assert plan(instructions([(f"x-echo-{how}", when)], "/"), 0).fate == fate


def receive(journal: Journal, token: str = "", body: bytes = b"") -> None:
    journal.receive(protocol="HTTP/1.1", path="/", headers=[], peer=("", 0), port=1, body=body, token=token)


def test_the_log_is_bounded_and_says_what_it_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_ENTRIES", 10)
    journal = Journal(Instance())
    for _ in range(25):
        receive(journal, "t")
    assert journal.encoded_log().count(b'"outcome"') == 10
    assert b'"dropped":15' in journal.encoded_log()
    assert journal.attempts("t") == 25
    assert journal.counts().requests == 25
    journal.reset()
    assert journal.encoded_log() == b'{"requests":[],"dropped":0}'


def test_the_log_is_bounded_in_bytes_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BYTES", 2_000)
    monkeypatch.setattr(journal_module, "MAX_TOKENS", 3)
    journal = Journal(Instance())
    for n in range(10):
        receive(journal, f"t{n}")
    assert len(journal.encoded_log()) < 4_000
    assert [journal.attempts(f"t{n}") for n in (6, 7, 8, 9)] == [0, 1, 1, 1]


def test_only_an_echo_is_taken_for_one() -> None:
    assert decode_echo(b"") is None
    assert decode_echo(b'{"type":"other"}') is None
    assert decode_echo(b'{"type":"echo","ordinal":"x"}') is None


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384, 100_000])
def test_grpc_frames_survive_any_split(size: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    wire = grpc_wire.frame(payload) * 2
    for step in (1, 7, len(wire)) if size < 1_000 else (1_000, len(wire)):
        deframer = grpc_wire.Deframer(1 << 20)
        got = [p for at in range(0, len(wire), step) for p in deframer.feed(wire[at : at + step])]
        assert got == [payload, payload]


def test_grpc_skips_unknown_fields_and_refuses_rubbish() -> None:
    assert grpc_wire.payload(b"\x10\x05\x1a\x01z\x0a\x02hi\x25abcd") == b"hi"
    for bad in (b"\x0a\x05hi", b"\x0b", b"\xff" * 12, b"\x0a"):
        with pytest.raises(grpc_wire.BadMessage):
            grpc_wire.payload(bad)
    with pytest.raises(grpc_wire.BadMessage, match="compressed"):
        grpc_wire.Deframer(10).feed(b"\x01\0\0\0\x01x")
    with pytest.raises(grpc_wire.BadMessage, match="at most 10"):
        grpc_wire.Deframer(10).feed(b"\0\0\0\xff\0")


@pytest.mark.parametrize(
    ("url", "authority", "path", "host", "port"),
    [
        ("http://a.b:81//c/../d%2e?x=1#y", "a.b:81", "//c/../d%2e?x=1#y", "a.b", 81),
        ("http://server", "server", "/", "server", 80),
        ("http://server?x", "server", "/?x", "server", 80),
        ("tcp://10.0.0.1:9000", "10.0.0.1:9000", "/", "10.0.0.1", 9000),
        ("http://[::1]:8080/p", "[::1]:8080", "/p", "::1", 8080),
        ("http://server;x/p", "server;x", "/p", "server;x", 80),
    ],
)
def test_a_url_is_taken_apart_and_its_path_left_alone(
    url: str, authority: str, path: str, host: str, port: int
) -> None:
    target = check(CallSpec(url=url))
    assert (target.authority, target.path, target.host, target.port) == (authority, path, host, port)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "https://x/"}, "TLS is the mesh's affair"),
        ({"url": "server:80"}, "url"),
        ({"url": "tcp://x"}, "port from 1"),
        ({"url": "http://x:70000/"}, "port from 1"),
        ({"url": "http://x/a b"}, "blanks"),
        ({"url": "http://x/\r\nX: y"}, "url"),
        ({"url": "http://x/", "address": "y"}, "address: 'y'"),
        ({"url": "http://x/", "count": 0}, "count: 0"),
        ({"url": "http://x/", "concurrency": 5000}, "concurrency: 5000"),
        ({"url": "http://x/", "method": "GE T"}, "method: 'GE T'"),
        ({"url": "http://x/", "headers": [("X Y", "1")]}, "headers: 'X Y'"),
        ({"url": "http://x/", "headers": [("X", "1\r\n2")]}, "headers: 'X'"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_by_field(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidCall, match=says):
        check(CallSpec(**fields))  # type: ignore[arg-type]
