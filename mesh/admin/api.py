"""The admin interface: HTTP on a Unix socket, mode 0600. Errors are JSON: an `error`, or `errors` when there are many.

    POST /apply, /delete   {"documents": [...], "wait": true, "deadline": 10}  -> receipt; 422 and nothing changed;
                           504 when not every proxy answered by the deadline
    POST /validate         {"documents": [...]}
    POST /inject           a Pod -> the Pod to run
    POST /rotate           every workload certificate replaced, and ACKed
    GET  /digest, /settled?deadline=, /proxies, /status, /ready, /metrics
    GET  /debug/config_dump?proxy=, /debug/registry, /debug/proxy_status, /debug/refusals
    PUT  /mutant {"name"}, DELETE /mutant

A document is `{"file", "text"}` (YAML), or `{"file", "line", "data", "lines": [[path, line], ...]}` when the caller has
parsed it already and wants errors to name the lines of its file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from manifests import Document, InvalidManifests, ManifestError, load_text
from mesh.admin import debug
from mesh.admin.patches import UnknownPatch
from mesh.inject.webhook import InjectionError
from mesh.xds.hub import Answers

if TYPE_CHECKING:
    from mesh.server import ControlPlane

log = logging.getLogger("mesh.admin")

MAX_BODY = 64 << 20
DEADLINE = 10.0


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    file: str = "<request>"
    text: str | None = None
    line: int = 1
    data: dict[str, Any] = {}
    lines: list[tuple[list[str | int], int]] = []


class Change(msgspec.Struct, frozen=True, kw_only=True):
    documents: list[Submitted]
    wait: bool = True
    deadline: float = DEADLINE


class MutantName(msgspec.Struct, frozen=True, kw_only=True):
    name: str


def documents(submitted: list[Submitted]) -> list[Document]:
    """Raises `InvalidManifests` with the mistakes of every file."""
    found: list[Document] = []
    errors: list[ManifestError] = []
    for item in submitted:
        if item.text is None:
            lines = {tuple(path): line for path, line in item.lines}
            found.append(Document(file=item.file, line=item.line, data=item.data, lines=lines))
            continue
        try:
            found.extend(load_text(item.text, item.file))
        except InvalidManifests as exc:
            errors.extend(exc.errors)
    if errors:
        raise InvalidManifests(errors)
    return found


def receipt(digest: str, answers: Answers, elapsed: float | None = None) -> dict[str, Any]:
    return {
        "digest": digest,
        "generation": answers.generation,
        "proxies": answers.proxies,
        "acked": answers.acked,
        "nacked": answers.nacked,
        "missing": list(answers.missing),
        "elapsed_ms": round((answers.elapsed if elapsed is None else elapsed) * 1000, 3),
    }


class AdminApi:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors])
        app.add_routes(
            [
                web.post("/apply", self._apply),
                web.post("/delete", self._delete),
                web.post("/validate", self._validate),
                web.post("/inject", self._inject),
                web.post("/rotate", self._rotate),
                web.get("/digest", self._digest),
                web.get("/settled", self._settled),
                web.get("/proxies", self._proxies),
                web.get("/status", self._status),
                web.get("/ready", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/debug/config_dump", self._config_dump),
                web.get("/debug/registry", self._registry),
                web.get("/debug/proxy_status", self._proxy_status),
                web.get("/debug/refusals", self._refusals),
                web.put("/mutant", self._set_mutant),
                web.delete("/mutant", self._unset_mutant),
            ]
        )
        return app

    async def start(self, socket: Path) -> None:
        self._runner = web.AppRunner(self.application(), access_log=None)
        await self._runner.setup()
        # No one may connect between the socket being made and its mode being set.
        before = os.umask(0o177)
        try:
            socket.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anything is served
            await web.UnixSite(self._runner, str(socket)).start()
        finally:
            os.umask(before)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # === configuration ===

    async def _apply(self, request: web.Request) -> web.Response:
        return await self._change(request, self._plane.apply)

    async def _delete(self, request: web.Request) -> web.Response:
        return await self._change(request, self._plane.delete)

    async def _change(self, request: web.Request, act: Callable[[list[Document]], Awaitable[int]]) -> web.Response:
        change = msgspec.json.decode(await request.read(), type=Change)
        found = documents(change.documents)
        generation = await act(found)
        answers = await self._plane.hub.answers(generation, deadline=change.deadline if change.wait else 0.0)
        if change.wait and not answers.missing:
            self._plane.metrics.converged(answers.elapsed)
        return self._answer(answers, wait=change.wait)

    def _answer(self, answers: Answers, *, wait: bool = True) -> web.Response:
        body = receipt(self._plane.hub.digest(), answers)
        if wait and answers.missing:
            body["error"] = f"no answer from {', '.join(answers.missing)} within {answers.elapsed:.1f} s"
            return _json(body, 504)
        return _json(body)

    async def _validate(self, request: web.Request) -> web.Response:
        change = msgspec.json.decode(await request.read(), type=Change)
        warnings = self._plane.validate(documents(change.documents))
        return _json({"warnings": [msgspec.to_builtins(warning) for warning in warnings]})

    async def _inject(self, request: web.Request) -> web.Response:
        pod = msgspec.json.decode(await request.read(), type=dict[str, Any])
        return _json(self._plane.inject(pod))

    async def _rotate(self, request: web.Request) -> web.Response:
        deadline = float(request.query.get("deadline", DEADLINE))
        generation = self._plane.rotate()
        return self._answer(await self._plane.hub.answers(generation, deadline=deadline))

    async def _set_mutant(self, request: web.Request) -> web.Response:
        name = msgspec.json.decode(await request.read(), type=MutantName).name
        deadline = float(request.query.get("deadline", DEADLINE))
        try:
            generation = self._plane.hub.patch(self._plane.patches.get(name))
        except UnknownPatch:
            raise
        except Exception as exc:  # the patch is somebody else's code
            log.exception("patch %s fails", name)
            return _json({"error": f"patch {name} fails: {type(exc).__name__}: {exc}"}, 422)
        return self._answer(await self._plane.hub.answers(generation, deadline=deadline))

    async def _unset_mutant(self, request: web.Request) -> web.Response:
        deadline = float(request.query.get("deadline", DEADLINE))
        generation = self._plane.hub.patch(None)
        return self._answer(await self._plane.hub.answers(generation, deadline=deadline))

    # === state ===

    async def _digest(self, _: web.Request) -> web.Response:
        self._plane.refresh()
        return _json({"digest": self._plane.hub.digest(), "generation": self._plane.hub.generation})

    async def _settled(self, request: web.Request) -> web.Response:
        return self._answer(await self._plane.settled(float(request.query.get("deadline", DEADLINE))))

    async def _status(self, _: web.Request) -> web.Response:
        """What became of every object: judged when it was read, and refused by which proxies when it was served."""
        status = msgspec.to_builtins(self._plane.config.status)
        for origin, proxy, error in self._plane.hub.refusals():
            status["objects"].setdefault(origin, {}).setdefault("refused_by", {})[proxy] = error
        return _json(status)

    async def _proxies(self, _: web.Request) -> web.Response:
        return _json(
            [
                {
                    "id": status["id"],
                    "connected": True,
                    "acked": {name: of["acked"] for name, of in status["types"].items()},
                    "sent": {name: of["sent"] for name, of in status["types"].items()},
                    "nacked": {name: of["nacked"] for name, of in status["types"].items() if of["nacked"]},
                }
                for status in map(debug.proxy_status, self._plane.hub.streams)
            ]
        )

    async def _ready(self, _: web.Request) -> web.Response:
        return _ready(self._plane)

    async def _metrics(self, _: web.Request) -> web.Response:
        return _metrics(self._plane)

    # === debugging ===

    async def _config_dump(self, request: web.Request) -> web.Response:
        proxy = request.query.get("proxy", "")
        streams = {stream.proxy: stream for stream in self._plane.hub.streams}
        if proxy not in streams:
            known = ", ".join(sorted(streams)) or "none"
            return _json({"error": f"no proxy {proxy!r} is connected; ?proxy= takes one of: {known}"}, 404)
        target = streams[proxy].target()
        return _json(debug.config_dump(target or {}))

    async def _registry(self, _: web.Request) -> web.Response:
        return _json(debug.registry(self._plane.registry))

    async def _proxy_status(self, _: web.Request) -> web.Response:
        return _json([debug.proxy_status(stream) for stream in self._plane.hub.streams])

    async def _refusals(self, _: web.Request) -> web.Response:
        return _json([{"origin": o, "proxy": p, "error": e} for o, p, e in self._plane.hub.refusals()])


class MonitoringApi:
    """The TCP side: `/metrics` and `/ready`, nothing else."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        app = web.Application()
        app.add_routes([web.get("/metrics", self._metrics), web.get("/ready", self._ready)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return _metrics(self._plane)

    async def _ready(self, _: web.Request) -> web.Response:
        return _ready(self._plane)


def _ready(plane: ControlPlane) -> web.Response:
    if plane.ready.is_set():
        return _json({"ready": True})
    return _json({"ready": False, "error": "configuration and cluster are still being read"}, 503)


def _metrics(plane: ControlPlane) -> web.Response:
    return web.Response(body=plane.metrics.render(), headers={"content-type": "text/plain; version=0.0.4"})


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidManifests as exc:
        return _json({"errors": [msgspec.to_builtins(error) for error in exc.errors]}, 422)
    except InjectionError as exc:
        return _json({"error": str(exc)}, 422)
    except (msgspec.DecodeError, ValueError) as exc:
        return _json({"error": f"{request.method} {request.path}: {exc}"}, 400)
    except UnknownPatch as exc:
        return _json({"error": str(exc)}, 404)
    except web.HTTPException as exc:
        return _json({"error": f"{request.method} {request.path}: {exc.reason}"}, exc.status)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _json({"error": f"{request.method} {request.path} failed; the control plane's log has the details"}, 500)
