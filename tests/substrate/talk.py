"""How the tests speak to pods, and wait."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from harness.substrate.api import NODE, PodInfo
from harness.substrate.local import LocalWorld

T = TypeVar("T")


def get(
    world: LocalWorld, host: str, path: str = "/", *, port: int = 80, source: PodInfo | str = NODE
) -> dict[str, Any]:
    """GET over a connection of its own; the JSON answer and its status."""
    conn = http.client.HTTPConnection(host, port, timeout=5)
    conn.sock = world.connect((host, port), source=source)
    try:
        conn.request("GET", path)
        response = conn.getresponse()
        return {"status": response.status, **json.loads(response.read())}
    finally:
        conn.close()


def eventually(question: Callable[[], T], *, deadline: float = 20.0, what: str = "") -> T:
    """The first truthy answer."""
    end = time.monotonic() + deadline
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what or question}; last answer {answer!r}")
        time.sleep(0.02)
