"""The control API: what was received, and calls on command. HTTP on the pod's loopback.

==========================  ==========================================================================
`POST /call`                A `CallSpec`; answers `CallResults` when the call has ended.
`POST /stop?id=`            Ends the call with that id early.
`GET /requests[?token=]`    `RequestLog`.
`GET /attempts?token=`      `{"attempts": n}`
`GET /counts`               `Counts`
`POST /reset`               Forgets all of that.
`GET /healthz`              200
==========================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Awaitable
from urllib.parse import parse_qs

import msgspec

from harness.workloads.echo.caller import Caller, InvalidCall, decode_spec
from harness.workloads.echo.journal import Journal
from harness.workloads.echo.protocol import Refusal
from harness.workloads.http1 import Request, Response

JSON = [("Content-Type", "application/json")]


class Control:
    """A `Handler`."""

    def __init__(self, journal: Journal, caller: Caller) -> None:
        self._journal = journal
        self._caller = caller

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        path, _, query = request.target.partition("?")
        parameters = {name: values[0] for name, values in parse_qs(query, max_num_fields=10).items()}
        match request.method, path:
            case "POST", "/call":
                return self._call(request.body)
            case "POST", "/stop":
                return _json({"stopped": self._caller.stop(parameters.get("id", ""))})
            case "GET", "/requests":
                return Response(200, JSON, self._journal.encoded_log(parameters.get("token", "")))
            case "GET", "/attempts":
                return _json({"attempts": self._journal.attempts(parameters.get("token", ""))})
            case "GET", "/counts":
                return _json(self._journal.counts())
            case "POST", "/reset":
                self._journal.reset()
                return _json({"reset": True})
            case "GET", "/healthz":
                return Response(200)
        return _json(Refusal(error=f"no {request.method} {path}"), 404)

    async def _call(self, body: bytes) -> Response:
        try:
            results = await self._caller.run(decode_spec(body))
        except InvalidCall as exc:
            return _json(Refusal(error=str(exc)), 400)
        return _json(results)


def health(request: Request) -> Response:
    """The handler of the probes' port."""
    return Response(200 if request.target.partition("?")[0] == "/healthz" else 404)


def _json(value: object, status: int = 200) -> Response:
    return Response(status, JSON, msgspec.json.encode(value))
