"""The control plane as its harness reaches it: HTTP over a Unix socket, which works across network namespaces."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from harness.meshes.api import MeshError
from manifests import Document, InvalidManifests, ManifestError

T = TypeVar("T")

GRACE = 10.0
"""Seconds a request may take beyond the deadline it carries."""
RETRY_SECONDS = 0.1


class _Refused(msgspec.Struct, frozen=True):
    error: str = ""
    errors: list[ManifestError] = []


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("control-plane", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Unreachable(MeshError):
    """Nobody answers on the socket: the control plane is not running, or not yet."""


class ControlClient:
    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, path: str, type_: type[T], *, deadline: float = 10.0, **query: object) -> T:
        return msgspec.json.decode(self._request("GET", path, query, None, deadline), type=type_)

    def post(self, path: str, type_: type[T], body: object = None, *, deadline: float = 10.0, **query: object) -> T:
        return msgspec.json.decode(self._request("POST", path, query, body, deadline), type=type_)

    def put(self, path: str, type_: type[T], body: object, *, deadline: float = 10.0, **query: object) -> T:
        return msgspec.json.decode(self._request("PUT", path, query, body, deadline), type=type_)

    def delete(self, path: str, type_: type[T], *, deadline: float = 10.0, **query: object) -> T:
        return msgspec.json.decode(self._request("DELETE", path, query, None, deadline), type=type_)

    def wait_ready(self, deadline: float) -> None:
        """Until the control plane has read its world. Raises `MeshError`."""
        end = time.monotonic() + deadline
        while True:
            try:
                self._request("GET", "/ready", {}, None, 2.0)
                return
            except MeshError as exc:
                if time.monotonic() > end:
                    raise MeshError(f"the control plane is not ready after {deadline:.0f} s: {exc}") from None
                time.sleep(RETRY_SECONDS)

    def _request(self, method: str, path: str, query: dict[str, object], body: object, deadline: float) -> bytes:
        """The answer's body. Raises `InvalidManifests` for 422 with errors, `MeshError` for everything else."""
        target = path + (f"?{urlencode(query)}" if query else "")
        connection = _UnixConnection(str(self.path), deadline + GRACE)
        try:
            payload = None if body is None else msgspec.json.encode(body)
            connection.request(method, target, body=payload, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except (FileNotFoundError, ConnectionError, http.client.HTTPException) as exc:
            raise Unreachable(
                f"the control plane does not answer on {self.path}: {exc or type(exc).__name__}"
            ) from None
        except TimeoutError:
            raise MeshError(f"{method} {path}: no answer from the control plane in {deadline + GRACE:.0f} s") from None
        finally:
            connection.close()
        if response.status == 200:
            return answer
        raise _error(f"{method} {path}", response.status, answer)


def _error(what: str, status: int, answer: bytes) -> Exception:
    try:
        refused = msgspec.json.decode(answer, type=_Refused)
    except msgspec.DecodeError:
        return MeshError(f"{what}: status {status}: {answer[:500].decode(errors='replace')}")
    if refused.errors:
        return InvalidManifests(refused.errors)
    return MeshError(f"{what}: {refused.error or f'status {status}'}")


def submission(documents: Iterable[Document]) -> list[dict[str, Any]]:
    """Documents as the admin interface takes them, with the lines of their file, so that its errors name them."""
    return [
        {
            "file": document.file,
            "line": document.line,
            "data": document.data,
            "lines": [[list(path), line] for path, line in document.lines.items()],
        }
        for document in documents
    ]
