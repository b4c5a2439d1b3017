"""The echo program over real sockets: what it says it received, what it does when told, how it calls."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections import Counter

import grpc
import pytest

from harness.workloads.echo import client, grpc_wire
from harness.workloads.echo.protocol import (
    GRPC_STREAM,
    GRPC_UNARY,
    CallResult,
    CallResults,
    Echo,
    Pairs,
    decode_echo,
)
from harness.workloads.http1 import Request, Response, Server
from tests.workloads.loops import EchoProgram, until

HOSTILE_PATHS = [
    "//a/../b%2e",
    "/%2e%2e/%2F;x=1/?q=%20&q=+",
    "/A/./b//",
    "/?x=/../y",
    "/a|b\\c",
]


def one(echo: EchoProgram, url: str, **how: object) -> CallResult:
    [result] = client.call(echo, echo.pod, url, **how).results
    return result


def echoed(result: CallResult) -> Echo:
    assert result.error == "", (result.error, result.detail)
    assert result.echo is not None, result
    return result.echo


def url_for(echo: EchoProgram, protocol: str, path: str = "/") -> str:
    port = {
        "http1": echo.ports.http,
        "http2": echo.ports.http2,
        "grpc": echo.ports.grpc,
        "grpc-stream": echo.ports.grpc,
        "tcp": echo.ports.tcp,
        "tcp-server-first": echo.ports.tcp_server,
        "websocket": echo.ports.http,
    }[protocol]
    if protocol.startswith("tcp"):
        return f"tcp://127.0.0.1:{port}"
    return echo.url("/ws" if protocol == "websocket" else path, port)


ALL = ["http1", "http2", "grpc", "grpc-stream", "tcp", "tcp-server-first", "websocket"]


# --- what was received, exactly


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_the_path_is_sent_and_told_as_written(echo: EchoProgram, protocol: str, path: str) -> None:
    assert echoed(one(echo, url_for(echo, protocol, path), protocol=protocol)).path == path


def test_a_path_beyond_ascii_is_bytes_in_http2_and_refused_in_http1(echo: EchoProgram) -> None:
    path = "/é".encode().decode("latin-1")
    assert echoed(one(echo, url_for(echo, "http2", path), protocol="http2")).path == path
    assert one(echo, url_for(echo, "http1", path)).status == 400


def test_http1_headers_keep_order_case_and_repetition_and_nothing_is_added(echo: EchoProgram) -> None:
    told: Pairs = [("X-One", "1"), ("x-two", "a, b"), ("X-ONE", "  2".strip()), ("cookie", "a=1"), ("Cookie", "b=2")]
    heard = echoed(one(echo, echo.url("/h"), headers=told))
    assert heard.headers == [("Host", f"127.0.0.1:{echo.ports.http}"), *told]
    assert (heard.protocol, heard.method) == ("HTTP/1.1", "GET")
    assert heard.all("x-one") == ["1", "2"]


def test_a_host_that_is_told_stays_where_it_was_told(echo: EchoProgram) -> None:
    told: Pairs = [("A", "1"), ("hOsT", "other.example"), ("B", "2")]
    assert echoed(one(echo, echo.url(), headers=told)).headers == told


def test_http2_headers_keep_order_and_repetition_behind_the_pseudo_headers(echo: EchoProgram) -> None:
    told: Pairs = [("x-one", "1"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-one", "2"), ("Host", "other.example")]
    heard = echoed(one(echo, echo.url("/p", echo.ports.http2), protocol="http2", headers=told))
    assert heard.headers == [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "other.example"),
        (":path", "/p"),
        *told[:4],
    ]
    assert heard.protocol == "HTTP/2"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"])
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_methods(echo: EchoProgram, protocol: str, method: str) -> None:
    assert echoed(one(echo, url_for(echo, protocol), protocol=protocol, method=method)).method == method


def test_head_has_no_body_and_the_connection_stays(echo: EchoProgram) -> None:
    results = client.call(echo, echo.pod, echo.url(), method="HEAD", count=3)
    assert [(r.status, r.body, r.connection) for r in results.results] == [(200, b"", 1)] * 3
    assert results.results[0].header("content-length") not in (None, "0")


@pytest.mark.parametrize("protocol", ALL)
@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_the_body_is_told_by_hash_and_length(echo: EchoProgram, protocol: str, size: int) -> None:
    body = b"x" * size
    method = "POST" if protocol.startswith("http") else "GET"
    result = one(echo, url_for(echo, protocol), protocol=protocol, method=method, body=body)
    lines = result.body.split(b"\n")
    heard = decode_echo(lines[-1])  # a server that speaks first greeted before
    assert heard is not None
    assert (heard.body_length, heard.body_sha256) == (size, hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("protocol", ALL)
def test_who_answered_and_who_asked(echo: EchoProgram, protocol: str) -> None:
    before = time.monotonic_ns()
    result = one(echo, url_for(echo, protocol), protocol=protocol, body=b"x")
    heard = echoed(result)
    assert (heard.instance.pod, heard.instance.version) == ("echo-1", "v1")
    assert (heard.instance.namespace, heard.instance.service_account) == ("test", "echo")
    assert heard.peer == ("127.0.0.1", result.local_port)
    assert before < result.started_ns < heard.arrival_ns < time.monotonic_ns()
    assert heard.port == int(url_for(echo, protocol).rpartition(":")[2].partition("/")[0])


@pytest.mark.parametrize(
    ("protocol", "said"),
    [("http1", "HTTP/1.1"), ("http2", "HTTP/2"), ("tcp", "TCP"), ("grpc", "gRPC"), ("websocket", "WebSocket")],
)
def test_the_undeclared_port_takes_what_comes(echo: EchoProgram, protocol: str, said: str) -> None:
    path = {"tcp": "", "websocket": "/ws"}.get(protocol, "/")
    scheme = "tcp" if protocol == "tcp" else "http"
    heard = echoed(one(echo, f"{scheme}://127.0.0.1:{echo.ports.auto}{path}", protocol=protocol, body=b"Gx"))
    assert heard.protocol == said


def test_the_undeclared_port_waits_until_it_knows(echo: EchoProgram) -> None:
    with socket.create_connection(("127.0.0.1", echo.ports.auto)) as sock:
        for part in (b"P", b"OS", b"T / HT", b"TP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"):
            sock.sendall(part)
        assert b'"method":"POST"' in sock.recv(65_536)
    with socket.create_connection(("127.0.0.1", echo.ports.auto)) as sock:
        sock.sendall(b"PR")
        sock.shutdown(socket.SHUT_WR)
        assert b'"protocol":"TCP"' in sock.recv(65_536)


def test_a_pipelined_pair_is_answered_in_order(echo: EchoProgram) -> None:
    with socket.create_connection(("127.0.0.1", echo.ports.http)) as sock:
        sock.settimeout(10)
        first = b"GET /1?echo-delay=50 HTTP/1.1\r\nHost: x\r\n\r\n"
        sock.sendall(first + b"GET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while chunk := sock.recv(65_536):
            data += chunk
    assert 0 < data.index(b'"path":"/1') < data.index(b'"path":"/2"')


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
    ],
)
def test_what_is_not_http_is_refused(echo: EchoProgram, raw: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", echo.ports.http)) as sock:
        sock.settimeout(10)
        sock.sendall(raw)
        assert sock.recv(1_000).startswith(b"HTTP/1.1 " + status)


def test_chunked_bodies_are_put_together(echo: EchoProgram) -> None:
    with socket.create_connection(("127.0.0.1", echo.ports.http)) as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n"
        )
        answer = sock.recv(65_536)
    assert hashlib.sha256(b"abcde").hexdigest().encode() in answer


# --- what it does when told


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_told_status_headers_and_size(echo: EchoProgram, protocol: str) -> None:
    told = [
        ("x-echo-status", "418"),
        ("x-echo-header", "x-a: 1"),
        ("x-echo-header", "x-a: 2"),
        ("x-echo-size", "200000"),
    ]
    result = one(echo, url_for(echo, protocol), protocol=protocol, headers=told)
    assert (result.status, result.all("x-a"), result.body_length) == (418, ["1", "2"], 200_000)
    assert len(result.body) == 65_536


@pytest.mark.parametrize("protocol", ["http1", "http2", "grpc"])
def test_a_told_delay_is_kept(echo: EchoProgram, protocol: str) -> None:
    result = one(echo, url_for(echo, protocol), protocol=protocol, headers=[("x-echo-delay", "150")])
    assert result.error == ""
    assert result.latency_ms >= 150


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_fail_n_times_then_answer_and_the_attempts_are_known(echo: EchoProgram, protocol: str) -> None:
    told = [("x-echo-fail", "2"), ("x-echo-token", "t")]
    results = client.call(echo, echo.pod, url_for(echo, protocol), protocol=protocol, headers=told, count=4).results
    assert [r.status for r in results] == [503, 503, 200, 200]
    assert client.attempts(echo, echo.pod, "t") == 4
    assert client.attempts(echo, echo.pod, "other") == 0
    log = client.requests(echo, echo.pod, token="t")
    assert [(r.echo.attempt, r.outcome) for r in log] == [
        (1, "failed"),
        (2, "failed"),
        (3, "answered"),
        (4, "answered"),
    ]


def test_grpc_fails_with_its_own_status(echo: EchoProgram) -> None:
    told = [("x-echo-fail", "1"), ("x-echo-token", "g")]
    results = client.call(echo, echo.pod, url_for(echo, "grpc"), protocol="grpc", headers=told, count=2).results
    assert [(r.status, r.grpc_status) for r in results] == [(200, 14), (200, 0)]
    assert one(echo, url_for(echo, "grpc"), protocol="grpc", headers=[("x-echo-status", "7")]).grpc_status == 7
    assert one(echo, url_for(echo, "grpc", "/no.Such/Method"), protocol="grpc").grpc_status == 12


@pytest.mark.parametrize(
    ("protocol", "told", "error", "partial"),
    [
        ("http1", ("reset", "now"), "reset", 0),
        ("http1", ("reset", "mid"), "reset", 200),
        ("http1", ("close", "now"), "closed", 0),
        ("http1", ("close", "mid"), "closed", 200),
        ("http2", ("reset", "now"), "reset", 0),
        ("http2", ("reset", "mid"), "reset", 200),
        ("http2", ("close", "now"), "closed", 0),
        ("http2", ("close", "mid"), "closed", 200),
        ("grpc", ("reset", "now"), "reset", 0),
    ],
)
def test_resets_and_closes_are_told_apart(
    echo: EchoProgram, protocol: str, told: tuple[str, str], error: str, partial: int
) -> None:
    headers = [(f"x-echo-{told[0]}", told[1]), ("x-echo-token", "r")]
    result = one(echo, url_for(echo, protocol), protocol=protocol, headers=headers)
    assert (result.status, result.error, result.partial_status) == (0, error, partial)
    [entry] = client.requests(echo, echo.pod, token="r")
    assert entry.outcome == ("reset" if told[0] == "reset" else "closed")


@pytest.mark.parametrize(("told", "error"), [("echo-reset=now", "reset"), ("echo-close=now", "closed")])
def test_tcp_resets_and_closes(echo: EchoProgram, told: str, error: str) -> None:
    assert one(echo, url_for(echo, "tcp"), protocol="tcp", body=f"?{told} x".encode()).error == error


def test_an_instruction_without_meaning_is_told_to_the_caller(echo: EchoProgram) -> None:
    result = one(echo, echo.url(), headers=[("x-echo-delay", "soon")])
    assert (result.status, b"delay: 'soon'" in result.body) == (400, True)
    assert one(echo, url_for(echo, "grpc"), protocol="grpc", headers=[("x-echo-delay", "soon")]).grpc_status == 3


@pytest.mark.parametrize("protocol", ["http1", "http2", "grpc"])
def test_a_caller_that_goes_away_cancels_the_request(echo: EchoProgram, protocol: str) -> None:
    told = [("x-echo-delay", "30000"), ("x-echo-token", "c")]
    result = one(echo, url_for(echo, protocol), protocol=protocol, headers=told, timeout_ms=150)
    assert result.error == "timeout"
    assert 150 <= result.latency_ms < 15_000
    [entry] = until(lambda: [r for r in client.requests(echo, echo.pod, token="c") if r.outcome != "pending"])
    assert entry.outcome == "cancelled"
    assert entry.finished_ns > entry.echo.arrival_ns
    assert client.counts(echo, echo.pod).cancelled == 1


def test_a_websocket_can_be_refused(echo: EchoProgram) -> None:
    assert one(echo, echo.url("/ws?echo-status=403"), protocol="websocket").status == 403


def test_one_connection_carries_many_messages(echo: EchoProgram) -> None:
    for protocol, connections in (("websocket", 101), ("grpc-stream", 200), ("tcp", 0)):
        result = one(echo, url_for(echo, protocol), protocol=protocol, body=b"m", messages=5)
        assert (result.status, result.error) == (connections, "")
        ordinals = [e.ordinal for line in result.body.split(b"\n") if (e := decode_echo(line))]
        assert len(ordinals) == 5
        assert ordinals == sorted(ordinals)


def test_a_stream_is_answered_message_by_message_even_when_late(echo: EchoProgram) -> None:
    told = [("x-echo-delay", "30")]
    result = one(echo, url_for(echo, "grpc-stream"), protocol="grpc-stream", body=b"m", messages=3, headers=told)
    assert (result.grpc_status, result.body.count(b"\n")) == (0, 2)
    assert result.latency_ms >= 90


def test_the_server_speaks_first(echo: EchoProgram) -> None:
    with socket.create_connection(("127.0.0.1", echo.ports.tcp_server)) as sock:
        sock.settimeout(10)
        greeting = decode_echo(sock.recv(65_536))
    assert greeting is not None
    assert greeting.ordinal == 0
    result = one(echo, url_for(echo, "tcp-server-first"), protocol="tcp-server-first", body=b"x")
    assert 0 < result.greeting_ms <= result.latency_ms


# --- how it calls


def test_connections_are_kept_unless_new_ones_are_wanted(echo: EchoProgram) -> None:
    kept = client.call(echo, echo.pod, echo.url(), count=50, concurrency=5)
    assert kept.connections <= 5
    fresh = client.call(echo, echo.pod, echo.url(), count=50, concurrency=5, new_connection=True)
    assert fresh.connections == 50
    assert len({r.connection for r in fresh.results}) == 50
    for protocol in ("http2", "grpc"):
        shared = client.call(echo, echo.pod, url_for(echo, protocol), protocol=protocol, count=50, concurrency=5)
        assert shared.connections == 1
        fresh = client.call(
            echo, echo.pod, url_for(echo, protocol), protocol=protocol, count=5, concurrency=5, new_connection=True
        )
        assert (fresh.connections, [r.error for r in fresh.results]) == (5, [""] * 5)


@pytest.mark.parametrize("protocol", ALL)
def test_every_result_comes_in_order(echo: EchoProgram, protocol: str) -> None:
    results = client.call(
        echo, echo.pod, url_for(echo, protocol), protocol=protocol, count=30, concurrency=4, body=b"x"
    ).results
    assert [r.index for r in results] == list(range(30))
    assert Counter(r.error for r in results) == {"": 30}
    assert all(r.ok for r in results)


def test_concurrency_is_real_and_bounded(echo: EchoProgram) -> None:
    results = client.call(echo, echo.pod, echo.url(), count=20, concurrency=10, headers=[("x-echo-delay", "100")])
    assert results.elapsed_s >= 0.2
    assert client.counts(echo, echo.pod).peak_connections == 10


def test_a_rate_holds_requests_back(echo: EchoProgram) -> None:
    before = time.monotonic_ns()
    results = client.call(echo, echo.pod, echo.url(), count=20, rate=100.0, concurrency=4).results
    assert all(r.started_ns >= before + n * 10_000_000 for n, r in enumerate(results))


def test_the_marker_becomes_the_index(echo: EchoProgram) -> None:
    headers = [("x-echo-token", "n-NN"), ("x-NN", "NN")]
    results = client.call(echo, echo.pod, echo.url("/p/NN"), headers=headers, count=3, marker="NN").results
    assert [(echoed(r).path, echoed(r).token) for r in results] == [(f"/p/{n}", f"n-{n}") for n in range(3)]


def test_the_address_may_differ_from_the_authority(echo: EchoProgram) -> None:
    heard = echoed(one(echo, "http://server.example:81/x", address=f"127.0.0.1:{echo.ports.http}"))
    assert heard.header("host") == "server.example:81"


def test_failures_to_connect_are_told_apart(echo: EchoProgram) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        refused = one(echo, f"http://127.0.0.1:{sock.getsockname()[1]}/")
    assert (refused.status, refused.error) == (0, "connect")
    assert one(echo, "http://no-such-host.invalid/").error == "resolve"
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        late = one(echo, f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_ms=100)
    assert late.error == "timeout"


def test_what_is_not_http_is_a_protocol_error(echo: EchoProgram) -> None:
    assert one(echo, url_for(echo, "tcp").replace("tcp:", "http:")).error == "protocol"


def test_redirects_are_not_followed(echo: EchoProgram) -> None:
    told = [("x-echo-status", "301"), ("x-echo-header", "Location: /elsewhere"), ("x-echo-token", "f")]
    result = one(echo, echo.url(), headers=told)
    assert (result.status, result.header("location")) == (301, "/elsewhere")
    assert client.attempts(echo, echo.pod, "f") == 1


def test_an_answer_that_ends_with_the_connection_is_whole(echo: EchoProgram) -> None:
    async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        writer.close()

    async def begin() -> int:
        server = await asyncio.start_server(old_server, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    port = echo.loop.run(begin())
    results = client.call(echo, echo.pod, f"http://127.0.0.1:{port}/", count=2).results
    assert [(r.status, r.body, r.error) for r in results] == [(200, b"until the end", "")] * 2


def test_nothing_is_sent_twice(echo: EchoProgram) -> None:
    """A server that closes every other connection after the request: one arrival for each request, no more."""
    arrivals: list[str] = []

    def handler(request: Request) -> Response:
        arrivals.append(request.target)
        return Response(fate="close") if len(arrivals) % 2 else Response(200)

    async def begin() -> int:
        listener = await asyncio.get_running_loop().create_server(Server(handler), "127.0.0.1", 0)
        return int(listener.sockets[0].getsockname()[1])

    port = echo.loop.run(begin())
    results = client.call(echo, echo.pod, f"http://127.0.0.1:{port}/@", marker="@", count=20).results
    assert arrivals == [f"/{n}" for n in range(20)]
    assert Counter(r.error for r in results) == {"closed": 10, "": 10}


# --- the control API


def test_a_call_in_the_background_is_stopped_and_keeps_its_results(echo: EchoProgram) -> None:
    with client.start(echo, echo.pod, echo.url(), count=100_000, rate=200.0) as background:
        until(lambda: client.counts(echo, echo.pod).requests >= 10)
        assert not background.done
    results = background.join()
    assert 10 <= len(results.results) < 100_000
    assert all(r.status == 200 for r in results.results)
    assert client.counts(echo, echo.pod).requests == len(results.results)


def test_a_harness_that_goes_away_ends_its_call(echo: EchoProgram) -> None:
    body = b'{"url":"%s","count":100000,"rate":100.0}' % echo.url("/?echo-token=gone").encode()
    sock = echo.connect(("127.0.0.1", 0), source=None)
    sock.sendall(b"POST /call HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: client.attempts(echo, echo.pod, "gone") >= 3)
    sock.close()

    def settled() -> bool:
        before = client.attempts(echo, echo.pod, "gone")
        time.sleep(0.15)
        return client.attempts(echo, echo.pod, "gone") == before

    until(settled)


def test_the_log_is_told_whole_or_not_at_all(echo: EchoProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.workloads.echo.journal as journal

    monkeypatch.setattr(journal, "MAX_ENTRIES", 5)
    client.call(echo, echo.pod, echo.url(), count=9)
    with pytest.raises(client.EchoError, match="forgot 4 requests"):
        client.requests(echo, echo.pod)
    client.reset(echo, echo.pod)
    assert client.requests(echo, echo.pod) == []


@pytest.mark.parametrize(
    ("spec", "says"), [({"url": "https://x/"}, "TLS is the mesh"), ({"url": "http://x/", "count": 0}, "count: 0")]
)
def test_a_wrong_call_is_refused_with_a_reason(echo: EchoProgram, spec: dict[str, object], says: str) -> None:
    with pytest.raises(client.EchoError, match=says):
        client.call(echo, echo.pod, **spec)  # type: ignore[arg-type]


def test_an_unreachable_control_api_names_the_pod(echo: EchoProgram) -> None:
    class Nowhere:
        def connect(self, address: tuple[str, int], *, source: object, timeout: float = 5.0) -> socket.socket:
            raise ConnectionRefusedError("refused")

    with pytest.raises(client.EchoError, match=r"test/echo, GET /counts: cannot connect to 127\.0\.0\.1:8089"):
        client.counts(Nowhere(), echo.pod)


def test_the_probe_port_is_not_counted(echo: EchoProgram) -> None:
    with socket.create_connection(("127.0.0.1", echo.ports.health)) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1_000).startswith(b"HTTP/1.1 200")
    assert client.counts(echo, echo.pod).requests == 0


def test_two_thousand_five_hundred_results_come_whole(echo: EchoProgram) -> None:
    results: CallResults = client.call(
        echo, echo.pod, echo.url(), count=2_500, concurrency=8, headers=[("x-echo-token", "many")]
    )
    assert Counter(r.status for r in results.results) == {200: 2_500}
    log = client.requests(echo, echo.pod, token="many")
    assert sorted(r.echo.attempt for r in log) == list(range(1, 2_501))


# --- with other people's clients


def test_a_real_grpc_client_is_understood(echo: EchoProgram) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{echo.ports.grpc}") as channel:
        unary = channel.unary_unary(GRPC_UNARY)
        reply, call = unary.with_call(grpc_wire.frame(b"hi")[5:], timeout=10, metadata=(("x-one", "1"),))
        heard = decode_echo(grpc_wire.payload(reply))
        assert heard is not None
        assert (heard.body_length, heard.header("x-one")) == (2, "1")
        assert call.code() is grpc.StatusCode.OK
        stream = channel.stream_stream(GRPC_STREAM)
        replies = list(stream(iter([grpc_wire.frame(b"a")[5:], grpc_wire.frame(b"bcd")[5:]]), timeout=10))
        assert [e.body_length for r in replies if (e := decode_echo(grpc_wire.payload(r)))] == [1, 3]
        with pytest.raises(grpc.RpcError) as failed:
            unary(b"", timeout=10, metadata=(("x-echo-status", "5"),))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_real_grpc_server_is_understood(echo: EchoProgram) -> None:
    import concurrent.futures

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        result = one(echo, f"grpc://127.0.0.1:{port}/a.B/C", protocol="grpc", body=b"round trip")
        assert (result.grpc_status, result.body) == (0, b"round trip")
    finally:
        server.stop(0)


def test_aiohttp_is_understood_both_ways(echo: EchoProgram) -> None:
    import aiohttp
    from aiohttp import web

    async def check() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(echo.url("/a?b=1"), data=b"x" * 100_000) as response:
                assert (await response.json())["body_length"] == 100_000
            async with session.ws_connect(echo.url("/ws")) as ws:
                await ws.send_str("hello")
                assert (await ws.receive_json())["protocol"] == "WebSocket"

    echo.loop.run(check())

    async def serve() -> tuple[web.AppRunner, int]:
        async def echo_back(request: web.Request) -> web.WebSocketResponse:
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for message in ws:
                await ws.send_bytes(message.data.encode())
            return ws

        app = web.Application()
        app.router.add_get("/ws", echo_back)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, int(runner.addresses[0][1])

    runner, port = echo.loop.run(serve())
    try:
        result = one(echo, f"ws://127.0.0.1:{port}/ws", protocol="websocket", body=b"back", messages=2)
        assert (result.status, result.body) == (101, b"back\nback")
    finally:
        echo.loop.run(runner.cleanup())
