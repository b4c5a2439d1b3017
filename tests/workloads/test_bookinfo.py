"""Bookinfo over real sockets on loopback: content, degradation, headers handed on, connections, shutdown."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from harness.workloads.bookinfo import services
from harness.workloads.bookinfo.services import SERVICES, Context
from harness.workloads.bookinfo.upstream import Unavailable, Upstream
from harness.workloads.clock import Clock
from harness.workloads.http1 import Request, Response, Server
from tests.workloads.loops import Loop, until


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.text = body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


Wrap = Callable[[Request], "Response | None"]


class Bookinfo:
    """Services on free ports; each may be given a `wrap` that sees every request and may answer in its place."""

    def __init__(self, loop: Loop, **environment: str) -> None:
        self.loop = loop
        self.environment = {"PROFILE_OFF": "1", **environment}
        self.seen: dict[str, list[Request]] = {}
        self.instead: dict[str, Wrap] = {}
        self.servers: dict[str, Server] = {}
        self._listeners: list[asyncio.Server] = []

    def start(self, service: str, version: str = "v1", **upstreams: int) -> int:
        environ = {**self.environment, "SERVICE_VERSION": version, "POD_NAME": f"{service}-{version}-abc"}
        for name, port in upstreams.items():
            environ |= {f"{name.upper()}_HOSTNAME": "127.0.0.1", f"{name.upper()}_SERVICE_PORT": str(port)}
        seen = self.seen.setdefault(service, [])

        async def begin() -> int:
            real = SERVICES[service](Context(service, environ, Clock()))

            async def handler(request: Request) -> Response:
                seen.append(request)
                instead = self.instead.get(service)
                answer = instead(request) if instead is not None else None
                return answer if answer is not None else await real(request)

            server = self.servers[service] = Server(handler)
            listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
            self._listeners.append(listener)
            return int(listener.sockets[0].getsockname()[1])

        return self.loop.run(begin())

    def stop(self) -> None:
        async def end() -> None:
            for listener in self._listeners:
                listener.close()

        self.loop.run(end())


@contextmanager
def bookinfo(loop: Loop, reviews: str, **environment: str) -> Iterator[tuple[Bookinfo, int]]:
    """All four services, with that version of reviews; the port of productpage."""
    apps = Bookinfo(loop, **environment)
    ratings = apps.start("ratings")
    details = apps.start("details")
    reviews_port = apps.start("reviews", reviews, ratings=ratings)
    try:
        yield apps, apps.start("productpage", details=details, reviews=reviews_port, ratings=ratings)
    finally:
        apps.stop()


@pytest.fixture(scope="module")
def versions(loop: Loop) -> Iterator[dict[str, int]]:
    with ExitStack() as stack:
        yield {v: stack.enter_context(bookinfo(loop, v))[1] for v in ("v1", "v2", "v3")}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# --- content


@pytest.mark.parametrize(("version", "color"), [("v1", None), ("v2", "black"), ("v3", "red")])
def test_the_page_shows_details_reviews_stars_and_who_served_them(
    versions: dict[str, int], version: str, color: str | None
) -> None:
    page = ask(versions[version], "/productpage")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    for text in ("The Comedy of Errors", "William Shakespeare", "paperback", "PublisherA", "123-1234567890"):
        assert text in page.text
    assert page.text.count("<blockquote>") == 2
    assert f'id="reviews-instance">reviews-{version}-abc<' in page.text
    assert f'id="reviews-version">{version}<' in page.text
    stars = re.findall(r'class="stars (\w+)" title="(\d) of 5"', page.text)
    assert stars == ([] if color is None else [(color, "5"), (color, "4")])


def test_the_page_is_one_well_formed_document_that_needs_nothing_else(versions: dict[str, int]) -> None:
    from html.parser import HTMLParser

    open_tags: list[str] = []
    void = {"meta", "input", "br", "link", "img"}

    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "link", "img"}
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Check().feed(ask(versions["v2"], "/productpage").text)
    assert open_tags == []


def test_the_json_api(versions: dict[str, int]) -> None:
    port = versions["v3"]
    assert [p["title"] for p in ask(port, "/api/v1/products").json] == ["The Comedy of Errors"]
    assert ask(port, "/api/v1/products/0").json["author"] == "William Shakespeare"
    assert ask(port, "/api/v1/products/0/ratings").json == {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}
    reviews = ask(port, "/api/v1/products/0/reviews").json
    assert reviews["id"] == "0"
    assert reviews["podname"] == "reviews-v3-abc"
    assert [r["rating"] for r in reviews["reviews"]] == [{"stars": 5, "color": "red"}, {"stars": 4, "color": "red"}]
    assert ask(port, "/api/v1/products/x").status == 404


def test_each_service_alone(loop: Loop) -> None:
    apps = Bookinfo(loop)
    try:
        for service, path in (("details", "/details/0"), ("ratings", "/ratings/0"), ("reviews", "/reviews/0")):
            port = apps.start(service)
            assert ask(port, path).status == 200
            assert ask(port, "/health").json == {"status": f"{service.title()} is healthy"}
            assert ask(port, "/nothing").status == 404
        assert ask(apps.start("details"), "/details/x").json == {"error": "please provide numeric product id"}
        assert ask(apps.start("ratings"), "/ratings/x").status == 400
    finally:
        apps.stop()


def test_login_makes_a_user_and_logout_forgets_it(versions: dict[str, int]) -> None:
    port = versions["v1"]
    answer = ask(
        port,
        "/login",
        "POST",
        urlencode({"username": "jason"}).encode(),
        Content_Type="application/x-www-form-urlencoded",
    )
    assert (answer.status, answer.headers["location"]) == (302, "productpage")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert cookie == "user=jason"
    assert '<b id="user">jason</b>' in ask(port, "/productpage", Cookie=cookie).text
    assert "Max-Age=0" in ask(port, "/logout", Cookie=cookie).headers["set-cookie"]
    assert 'id="user"' not in ask(port, "/productpage").text


@pytest.mark.parametrize("name", ["", "a b", "x\r\nSet-Cookie: y=1", "<b>", "j" * 65])
def test_login_refuses_what_could_not_be_a_cookie(versions: dict[str, int], name: str) -> None:
    answer = ask(versions["v1"], "/login", "POST", urlencode({"username": name}).encode())
    assert answer.status == 400
    assert "set-cookie" not in answer.headers


def test_a_user_name_is_escaped_in_the_page(versions: dict[str, int]) -> None:
    page = ask(versions["v1"], "/productpage", end_user="<script>alert(1)</script>")
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text


# --- headers

TRACE = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "a=b",
    "b3": "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1",
    "x-b3-traceid": "80f198ee56343ba8",
    "x-b3-spanid": "e457b5a2e4d86bd1",
    "x-b3-parentspanid": "05e3ac9a4f6e3b90",
    "x-b3-sampled": "1",
    "x-b3-flags": "0",
    "x-request-id": "r-1",
    "x-ot-span-context": "o",
    "sw8": "s",
    "end-user": "jason",
    "authorization": "Bearer t",
    "x-profile-seed": "42",
}


def test_what_joins_traces_and_names_the_user_reaches_every_service(loop: Loop) -> None:
    with bookinfo(loop, "v2") as (apps, port):
        ask(port, "/productpage", **TRACE, x_private="secret", Cookie="user=jason; other=1")
        for service in ("details", "reviews", "ratings"):
            [request] = apps.seen[service]
            got = {name.lower(): value for name, value in request.headers}
            assert {name: got.get(name) for name in TRACE} == TRACE
            assert got["cookie"] == "user=jason; other=1"
            assert "x-private" not in got
            assert request.target == f"/{service}/0"


def test_a_login_cookie_becomes_the_end_user_header(loop: Loop) -> None:
    with bookinfo(loop, "v2") as (apps, port):
        ask(port, "/productpage", Cookie="user=jason", end_user="mallory")
        for service in ("details", "reviews", "ratings"):
            assert [v for k, v in apps.seen[service][0].headers if k == "end-user"] == ["jason"]


def test_v1_asks_for_no_ratings(loop: Loop) -> None:
    with bookinfo(loop, "v1") as (apps, port):
        ask(port, "/productpage")
        assert [len(apps.seen[s]) for s in ("details", "reviews", "ratings")] == [1, 1, 0]


# --- degradation


def answering(status: int) -> Wrap:
    return lambda request: Response(status)


def test_ratings_that_fail_cost_the_stars_only(loop: Loop) -> None:
    with bookinfo(loop, "v2") as (apps, port):
        apps.instead["ratings"] = answering(500)
        page = ask(port, "/productpage")
        assert page.status == 200
        assert page.text.count("Ratings service is currently unavailable") == 2
        assert "An extremely entertaining play" in page.text


@pytest.mark.parametrize("how", ["close", "reset", "garbage"])
def test_ratings_that_break_off_cost_the_stars_only(loop: Loop, how: str) -> None:
    with bookinfo(loop, "v3") as (apps, port):
        broken = {"close": Response(fate="close"), "reset": Response(fate="reset"), "garbage": Response(200, body=b"{")}
        apps.instead["ratings"] = lambda request: broken[how]
        page = ask(port, "/productpage")
        assert page.status == 200
        assert page.text.count("Ratings service is currently unavailable") == 2


def test_reviews_that_fail_are_tried_twice_and_then_missed(loop: Loop) -> None:
    with bookinfo(loop, "v2") as (apps, port):
        apps.instead["reviews"] = answering(503)
        page = ask(port, "/productpage")
        assert page.status == 200
        assert "Sorry, product reviews are currently unavailable for this book." in page.text
        assert "William Shakespeare" in page.text
        assert len(apps.seen["reviews"]) == 2
        assert ask(port, "/api/v1/products/0/reviews").status == 503


def test_details_that_are_not_there_are_missed(loop: Loop) -> None:
    apps = Bookinfo(loop)
    try:
        reviews = apps.start("reviews", "v1")
        port = apps.start("productpage", details=free_port(), reviews=reviews)
        page = ask(port, "/productpage")
        assert page.status == 200
        assert "Sorry, product details are currently unavailable for this book." in page.text
        assert page.text.count("<blockquote>") == 2
    finally:
        apps.stop()


def test_slow_ratings_are_given_up_and_the_page_still_comes(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(services.RATINGS_TIMEOUT, "red", 0.2)
    with bookinfo(loop, "v3") as (apps, port):
        ratings = apps.servers["ratings"]
        real = ratings.handler

        async def late(request: Request) -> Response:
            await asyncio.sleep(60)
            return Response()

        ratings.handler = late
        page = ask(port, "/productpage")
        assert page.text.count("Ratings service is currently unavailable") == 2
        ratings.handler = real
        monkeypatch.setitem(services.RATINGS_TIMEOUT, "red", 10.0)
        assert "stars red" in ask(port, "/productpage").text


def test_slow_reviews_are_given_up_and_the_page_still_comes(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PAGE_TIMEOUT", 0.2)
    with bookinfo(loop, "v3") as (apps, port):

        async def late(request: Request) -> Response:
            await asyncio.sleep(60)
            return Response()

        apps.servers["reviews"].handler = late
        page = ask(port, "/productpage")
        assert page.status == 200
        assert "Sorry, product reviews are currently unavailable for this book." in page.text


# --- service times


def test_the_service_time_is_spent(loop: Loop) -> None:
    """The lower bound only: how much later than that it comes is the machine's affair."""
    apps = Bookinfo(loop, PROFILE_OFF="0", PROFILE_MEDIAN_MS="200", PROFILE_SIGMA="0")
    try:
        port = apps.start("details")
        began = time.monotonic()
        ask(port, "/details/0")
        assert time.monotonic() - began >= 0.199
    finally:
        apps.stop()


def test_health_takes_no_service_time(loop: Loop) -> None:
    apps = Bookinfo(loop, PROFILE_OFF="0", PROFILE_MEDIAN_MS="60000", PROFILE_SIGMA="0")
    try:
        assert ask(apps.start("details"), "/health").status == 200
    finally:
        apps.stop()


def test_a_declared_cpu_fraction_is_computed(loop: Loop) -> None:
    apps = Bookinfo(loop, PROFILE_OFF="0", PROFILE_MEDIAN_MS="100", PROFILE_SIGMA="0", PROFILE_CPU_FRACTION="0.5")
    try:
        port = apps.start("details")

        async def cpu() -> float:
            return time.thread_time()

        before = loop.run(cpu())
        ask(port, "/details/0")
        assert loop.run(cpu()) - before >= 0.05
    finally:
        apps.stop()


# --- connections


def test_connections_are_kept_and_used_again(loop: Loop) -> None:
    with bookinfo(loop, "v2") as (apps, port):
        for _ in range(10):
            ask(port, "/productpage")
        assert {name: apps.servers[name].opened for name in ("details", "reviews", "ratings")} == {
            "details": 1,
            "reviews": 1,
            "ratings": 1,
        }


def test_a_connection_closed_while_idle_fails_no_request(loop: Loop) -> None:
    with bookinfo(loop, "v2") as (apps, port):
        ask(port, "/productpage")

        async def close_idle() -> None:
            for name in ("details", "reviews", "ratings"):
                for connection in list(apps.servers[name].connections):
                    connection.close_if_idle()

        loop.run(close_idle())
        page = ask(port, "/productpage")
        assert "stars black" in page.text
        assert "unavailable" not in page.text


def test_a_close_that_crosses_the_request_is_tried_once_more(loop: Loop) -> None:
    """The server reads the request on a kept connection and closes without a byte: what a crossing looks like."""
    with bookinfo(loop, "v1") as (apps, port):
        ask(port, "/productpage")
        crossed: list[int] = []

        def once(request: Request) -> Response | None:
            if crossed:
                return None
            crossed.append(1)
            return Response(fate="close")

        apps.instead["details"] = once
        assert "unavailable" not in ask(port, "/productpage").text
        assert crossed == [1]
        assert apps.servers["details"].opened == 2


def test_a_new_connection_that_is_closed_is_not_tried_again(loop: Loop) -> None:
    with bookinfo(loop, "v1") as (apps, port):
        apps.instead["details"] = lambda request: Response(fate="close")
        assert "Sorry, product details" in ask(port, "/productpage").text
        assert len(apps.seen["details"]) == 1


def test_those_who_wait_for_a_connection_are_bounded(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.workloads.bookinfo.upstream as module

    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def check() -> tuple[int, int]:
        gate = asyncio.Event()

        async def held(request: Request) -> Response:
            await gate.wait()
            return Response(200)

        listener = await asyncio.get_running_loop().create_server(Server(held), "127.0.0.1", 0)
        upstream = Upstream("127.0.0.1", int(listener.sockets[0].getsockname()[1]))
        calls = [asyncio.ensure_future(upstream.get("/", [], 20.0)) for _ in range(8)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(call.exception(), Unavailable) for call in done)
        gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        listener.close()
        upstream.close()
        return sum(isinstance(r, Unavailable) for r in results), sum(not isinstance(r, Exception) for r in results)

    assert loop.run(check()) == (3, 5)


# --- the process


@contextmanager
def process(service: str, port: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "harness.workloads.bookinfo", service],
        env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port), **environment},
        stderr=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def test_sigterm_finishes_what_is_in_progress_and_says_close() -> None:
    port = free_port()
    told = {"PROFILE_MEDIAN_MS": "2000", "PROFILE_SIGMA": "0", "LAME_DUCK_SECONDS": "0.1"}
    with process("details", port, **told) as child:
        until(lambda: listening(port))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/details/0")
        idle = socket.create_connection(("127.0.0.1", port), 5)
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        child.send_signal(signal.SIGTERM)
        until(lambda: not listening(port))
        response = connection.getresponse()
        assert (response.status, response.getheader("connection")) == (200, "close")
        assert response.read()
        assert idle.recv(4096) == b""
        idle.close()
        connection.close()
        assert child.wait(20) == 0


def test_wrong_usage_and_a_wrong_profile_are_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.workloads.bookinfo", "prices"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.startswith("usage:")) == (2, True)
    done = subprocess.run(
        [sys.executable, "-m", "harness.workloads.bookinfo", "details"],
        capture_output=True,
        text=True,
        env={**os.environ, "PROFILE_SIGMA": "x"},
    )
    assert done.returncode == 1
    assert "PROFILE_SIGMA='x': expected a number" in done.stderr


def test_a_port_in_use_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process("details", port) as child:
            assert child.wait(20) == 1
            assert child.stderr is not None
            assert b"address already in use" in child.stderr.read()
