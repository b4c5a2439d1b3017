"""What each bookinfo service answers.

Timeouts, retries and the words of a degraded page are those of Istio's sample: productpage gives details one try and
reviews two, of 3 s each; reviews gives ratings 10 s (v2) or 2.5 s (v3).
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from harness.workloads.bookinfo.page import SUMMARY, index_page, product_page
from harness.workloads.bookinfo.profile import SEED_HEADER, Draws, from_environment
from harness.workloads.bookinfo.propagation import USER_COOKIE, forwarded, forwarded_for, user_of
from harness.workloads.bookinfo.upstream import Unavailable, Upstream
from harness.workloads.clock import Clock
from harness.workloads.http1 import Pairs, Request, Response

PORT = 9080

DETAILS_ERROR = "Sorry, product details are currently unavailable for this book."
REVIEWS_ERROR = "Sorry, product reviews are currently unavailable for this book."
RATINGS_ERROR = "Sorry, product ratings are currently unavailable for this book."
STARS_ERROR = "Ratings service is currently unavailable"

PAGE_TIMEOUT = 3.0
REVIEWS_TRIES = 2
RATINGS_TIMEOUT = {"black": 10.0, "red": 2.5}

JSON: Pairs = [("Content-Type", "application/json")]
HTML: Pairs = [("Content-Type", "text/html; charset=utf-8")]

PRODUCTS = [{"id": 0, "title": "The Comedy of Errors", "descriptionHtml": SUMMARY}]

Service = Callable[[Request], Awaitable[Response]]


class Context:
    """What a service is given: its environment, clock, profile and upstreams."""

    def __init__(self, service: str, environ: Mapping[str, str], clock: Clock) -> None:
        self.service = service
        self.environ = environ
        self.clock = clock
        self.instance = environ.get("POD_NAME") or environ.get("HOSTNAME") or socket.gethostname()
        self.version = environ.get("SERVICE_VERSION", "v1")
        self.draws = Draws(service, from_environment(service, environ), self.instance)

    def upstream(self, name: str) -> Upstream:
        """The service `name`: `<NAME>_HOSTNAME` and `<NAME>_SERVICE_PORT` where they are set, as in Istio's sample."""
        host = self.environ.get(f"{name.upper()}_HOSTNAME", name)
        domain = self.environ.get("SERVICES_DOMAIN", "")
        port = int(self.environ.get(f"{name.upper()}_SERVICE_PORT", str(PORT)))
        return Upstream(f"{host}.{domain}" if domain else host, port)

    async def work(self, request: Request) -> None:
        """Spend the request's service time, counted from its arrival."""
        milliseconds = self.draws.time_ms(request.header(SEED_HEADER))
        if milliseconds <= 0:
            return
        computing = milliseconds * self.draws.profile.cpu_fraction
        if computing > 0:
            end = time.thread_time_ns() + int(computing * 1e6)
            while time.thread_time_ns() < end:
                pass
        await self.clock.until(request.arrival_ns + int(milliseconds * 1e6))


def json_response(value: object, status: int = 200) -> Response:
    return Response(status, JSON, msgspec.json.encode(value))


def not_found() -> Response:
    return json_response({"error": "not found"}, 404)


def path_of(request: Request) -> str:
    return request.target.partition("?")[0]


def details(context: Context) -> Service:
    async def serve(request: Request) -> Response:
        path = path_of(request)
        if path == "/health":
            return json_response({"status": "Details is healthy"})
        if not path.startswith("/details"):
            return not_found()
        number = _number(path.rpartition("/")[2])
        if number is None:
            return json_response({"error": "please provide numeric product id"}, 400)
        await context.work(request)
        return json_response(
            {
                "id": number,
                "author": "William Shakespeare",
                "year": 1595,
                "type": "paperback",
                "pages": 200,
                "publisher": "PublisherA",
                "language": "English",
                "ISBN-10": "1234567890",
                "ISBN-13": "123-1234567890",
            }
        )

    return serve


def ratings(context: Context) -> Service:
    async def serve(request: Request) -> Response:
        path = path_of(request)
        if path == "/health":
            return json_response({"status": "Ratings is healthy"})
        if not path.startswith("/ratings"):
            return not_found()
        number = _number(path.rpartition("/")[2])
        if number is None:
            return json_response({"error": "please provide numeric product ID"}, 400)
        await context.work(request)
        return json_response({"id": number, "ratings": {"Reviewer1": 5, "Reviewer2": 4}})

    return serve


def reviews(context: Context) -> Service:
    """v1 asks for no ratings; v2 shows them as black stars, v3 as red ones."""
    starred = context.version != "v1"
    color = "red" if context.version == "v3" else "black"
    upstream = context.upstream("ratings") if starred else None
    texts = (
        ("Reviewer1", "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"),
        (
            "Reviewer2",
            "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by "
            "Shakespeare.",
        ),
    )

    async def serve(request: Request) -> Response:
        path = path_of(request)
        if path == "/health":
            return json_response({"status": "Reviews is healthy"})
        match = re.fullmatch(r"/reviews/(\d{1,9})", path)
        if match is None:
            return not_found()
        number = match[1]
        await context.work(request)
        stars: Mapping[str, Any] | None = None
        if upstream is not None:
            stars = await _stars(upstream, number, forwarded(request.headers), RATINGS_TIMEOUT[color])
        entries: list[dict[str, object]] = []
        for reviewer, text in texts:
            entry: dict[str, object] = {"reviewer": reviewer, "text": text}
            if starred:
                given = stars.get(reviewer) if stars is not None else None
                entry["rating"] = {"stars": given, "color": color} if given is not None else {"error": STARS_ERROR}
            entries.append(entry)
        return json_response(
            {
                "id": number,
                "podname": context.instance,
                "clustername": context.environ.get("CLUSTER_NAME", "null"),
                "version": context.version,
                "reviews": entries,
            }
        )

    return serve


async def _stars(upstream: Upstream, number: str, headers: Pairs, within: float) -> Mapping[str, Any] | None:
    try:
        reply = await upstream.get(f"/ratings/{number}", headers, within)
        if reply.status != 200:
            return None
        found = msgspec.json.decode(reply.body, type=dict[str, Any]).get("ratings")
    except (Unavailable, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None


def productpage(context: Context) -> Service:
    """The page, and the JSON API of Istio's sample under `/api/v1/products`."""
    backends = {name: context.upstream(name) for name in ("details", "reviews", "ratings")}

    async def ask(name: str, number: str, headers: Pairs, tries: int, error: str) -> tuple[int, dict[str, Any]]:
        status = 500
        for _ in range(tries):
            try:
                reply = await backends[name].get(f"/{name}/{number}", headers, PAGE_TIMEOUT)
                status = reply.status
                if status == 200:
                    return 200, msgspec.json.decode(reply.body, type=dict[str, Any])
            except (Unavailable, msgspec.DecodeError):
                status = 500
        return status, {"error": error}

    async def page(request: Request) -> Response:
        await context.work(request)
        user = user_of(request.headers)
        headers = forwarded_for(request.headers, user)
        _, found_details = await ask("details", "0", headers, 1, DETAILS_ERROR)
        _, found_reviews = await ask("reviews", "0", headers, REVIEWS_TRIES, REVIEWS_ERROR)
        return Response(200, HTML, product_page(found_details, found_reviews, user).encode())

    async def api(request: Request, path: str) -> Response:
        if path == "/api/v1/products":
            return json_response(PRODUCTS)
        match = re.fullmatch(r"/api/v1/products/(\d{1,9})(/reviews|/ratings)?", path)
        if match is None:
            return not_found()
        await context.work(request)
        headers = forwarded_for(request.headers, user_of(request.headers))
        if match[2] == "/reviews":
            status, found = await ask("reviews", match[1], headers, REVIEWS_TRIES, REVIEWS_ERROR)
        elif match[2] == "/ratings":
            status, found = await ask("ratings", match[1], headers, 1, RATINGS_ERROR)
        else:
            status, found = await ask("details", match[1], headers, 1, DETAILS_ERROR)
        return json_response(found, status)

    async def serve(request: Request) -> Response:
        path = path_of(request)
        if path == "/productpage":
            return await page(request)
        if path == "/health":
            return Response(200, HTML, b"Product page is healthy")
        if path == "/login" and request.method == "POST":
            return _login(request)
        if path == "/logout":
            return _back(request, f"{USER_COOKIE}=; Path=/; Max-Age=0")
        if path in ("/", "/index.html"):
            return Response(200, HTML, index_page(user_of(request.headers)).encode())
        if path.startswith("/api/v1/products"):
            return await api(request, path)
        return not_found()

    return serve


def _login(request: Request) -> Response:
    form = parse_qs(request.body.decode("utf-8", errors="replace"), max_num_fields=10)
    user = form.get("username", [""])[0]
    if not re.fullmatch(r"[\w.@-]{1,64}", user, re.ASCII):
        return json_response({"error": "username: expected 1 to 64 letters, digits, or any of . _ - @"}, 400)
    return _back(request, f"{USER_COOKIE}={user}; Path=/; HttpOnly; SameSite=Lax")


def _back(request: Request, cookie: str) -> Response:
    return Response(302, [("Location", "productpage"), ("Set-Cookie", cookie)])


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


SERVICES: Mapping[str, Callable[[Context], Service]] = {
    "productpage": productpage,
    "details": details,
    "reviews": reviews,
    "ratings": ratings,
}


def context_here(service: str, clock: Clock) -> Context:
    return Context(service, os.environ, clock)
