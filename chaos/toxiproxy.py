"""Toxiproxy's API through the `toxiproxy-python` package, with what it leaves out put around it.

What the package does, and what is done about it here:

* its endpoint is a class attribute, one server per process, and it sets no timeouts: `_Api` stands in for its
  `APIConsumer` during each call, under a lock, so every client has its own server, socket factory and timeout;
* it takes HTTP 500 for success, `add_toxic` returns None, `disable` believes it worked: every answer above 399 raises,
  and every change is read back and compared;
* it updates by POST, deprecated since Toxiproxy 2.6: those become PATCH;
* `populate` deletes proxies that differ: it is not used.

Invariant: a method that returns has seen the server in the state it was asked for.
"""

from __future__ import annotations

import contextlib
import http.client
import json as jsonlib
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import toxiproxy
import toxiproxy.proxy
import toxiproxy.server

TIMEOUT = 5.0
"""Seconds for one API call; the server is on the same machine and answers in milliseconds."""

Dial = Callable[[tuple[str, int], float], sockets.socket]
"""Connects to an address within a timeout; where it connects from is its own affair."""

_PACKAGE = threading.RLock()
"""Held while the package's globals point to one client's server."""


class ToxiproxyError(Exception):
    """The server refused a change, did not answer, or answered and did not change; the message says which."""


class ToxiproxyGone(ToxiproxyError):
    """Nobody listens at the server's address: it ended, and its proxies and toxics with it."""


class Toxic(msgspec.Struct, frozen=True, kw_only=True):
    """One toxic. `toxicity` is the share of *connections* it applies to, rolled once per connection and direction when
    the connection (or the toxic) begins: with a few keep-alive connections it is a coarse tool."""

    name: str
    type: str
    stream: str = "downstream"
    toxicity: float = 1.0
    attributes: dict[str, int] = {}

    def matches(self, wanted: Toxic) -> bool:
        """Whether this, as read back, is what was asked for; attributes not asked for may have defaults."""
        return (
            (self.name, self.type, self.stream) == (wanted.name, wanted.type, wanted.stream)
            and abs(self.toxicity - wanted.toxicity) < 1e-6  # the server keeps 32 bits
            and all(self.attributes.get(key) == value for key, value in wanted.attributes.items())
        )


class ProxyState(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy as the server reports it."""

    name: str
    listen: str
    upstream: str
    enabled: bool
    toxics: list[Toxic] = []

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    def toxic(self, name: str) -> Toxic | None:
        return next((toxic for toxic in self.toxics if toxic.name == name), None)


def _dial(address: tuple[str, int], timeout: float) -> sockets.socket:
    return sockets.create_connection(address, timeout=timeout)


class Client:
    """One Toxiproxy server. Safe to use from several threads."""

    def __init__(self, address: tuple[str, int], *, dial: Dial = _dial, timeout: float = TIMEOUT) -> None:
        self.address = address
        self._api = _Api(address, dial, timeout)
        self._server = toxiproxy.Toxiproxy()

    def version(self) -> str:
        return str(self._api.get("/version").json()["version"])

    def proxies(self) -> dict[str, ProxyState]:
        """Every proxy, toxics included."""
        answer = self._api.get("/proxies").json()
        return {name: msgspec.convert(value, ProxyState, strict=False) for name, value in answer.items()}

    def proxy(self, name: str) -> ProxyState:
        state = self.proxies().get(name)
        if state is None:
            raise ToxiproxyError(f"Toxiproxy has no proxy {name!r}; it has {sorted(self.proxies()) or 'none'}")
        return state

    def ensure_proxy(self, name: str, *, listen: str, upstream: str) -> ProxyState:
        """The proxy `name`, made if need be, enabled, listening on `listen` (port 0: the server chooses) and going to
        `upstream`. One that goes elsewhere is an error: traffic may depend on it."""
        state = self.proxies().get(name)
        if state is None:
            with self._bound():
                self._server.create(upstream=upstream, name=name, listen=listen, enabled=True)
            state = self.proxy(name)
        host, _, port = listen.rpartition(":")
        same = state.listen == listen or (port == "0" and state.listen.rpartition(":")[0] == host)
        if not (same and state.upstream == upstream and state.enabled):
            raise ToxiproxyError(
                f"proxy {name!r} is {state.listen} -> {state.upstream}, enabled={state.enabled}; "
                f"wanted {listen} -> {upstream}, enabled"
            )
        return state

    def delete_proxy(self, name: str) -> None:
        """Remove the proxy and cut its connections. One that is not there is fine."""
        with self._bound():
            if proxy := self._server.get_proxy(name):
                proxy.destroy()
        if name in self.proxies():
            raise ToxiproxyError(f"proxy {name!r} is still there after its deletion")

    def add_toxic(self, proxy: str, toxic: Toxic) -> None:
        """Add, or replace one of the same name. Applies to connections already open, too, but see `reset_peer` and
        `toxicity`, which are settled when a connection begins."""
        if self.proxy(proxy).toxic(toxic.name) is not None:
            self._api.patch(
                f"/proxies/{proxy}/toxics/{toxic.name}",
                json={"toxicity": toxic.toxicity, "attributes": toxic.attributes},
            )
        else:
            with self._bound():
                self._package_proxy(proxy).add_toxic(**msgspec.to_builtins(toxic))
        seen = self.proxy(proxy).toxic(toxic.name)
        if seen is None or not seen.matches(toxic):
            raise ToxiproxyError(f"proxy {proxy!r} should have the toxic {toxic}, and has {seen}")

    def remove_toxic(self, proxy: str, name: str) -> None:
        """Remove the toxic; one that is not there, or whose proxy is not, is fine."""
        state = self.proxies().get(proxy)
        if state is None:
            return
        if state.toxic(name) is not None:
            with self._bound():
                self._package_proxy(proxy).destroy_toxic(name)
        if self.proxy(proxy).toxic(name) is not None:
            raise ToxiproxyError(f"toxic {name!r} of proxy {proxy!r} is still there after its removal")

    def set_enabled(self, proxy: str, enabled: bool) -> None:
        """A disabled proxy refuses connections and cuts those it has."""
        with self._bound():
            handle = self._package_proxy(proxy)
            handle.enable() if enabled else handle.disable()
        if self.proxy(proxy).enabled != enabled:
            raise ToxiproxyError(f"proxy {proxy!r} should be {'enabled' if enabled else 'disabled'}, and is not")

    def reset(self) -> None:
        """Every proxy enabled, no toxic left."""
        with self._bound():
            self._server.reset()
        left = {name: state for name, state in self.proxies().items() if state.toxics or not state.enabled}
        if left:
            raise ToxiproxyError(f"toxics or disabled proxies are left after a reset: {left}")

    def _package_proxy(self, name: str) -> Any:
        proxy = self._server.get_proxy(name)
        if proxy is None:
            raise ToxiproxyError(f"Toxiproxy has no proxy {name!r}")
        return proxy

    @contextlib.contextmanager
    def _bound(self) -> Iterator[None]:
        """The package talks to this client's server while entered."""
        with _PACKAGE:
            before = toxiproxy.server.APIConsumer, toxiproxy.proxy.APIConsumer
            toxiproxy.server.APIConsumer = toxiproxy.proxy.APIConsumer = self._api
            try:
                yield
            finally:
                toxiproxy.server.APIConsumer, toxiproxy.proxy.APIConsumer = before


class _Answer:
    """An HTTP answer in the shape the package reads (that of `requests`)."""

    def __init__(self, status: int, content: bytes) -> None:
        self.status_code = status
        self.content = content

    def json(self) -> Any:
        return jsonlib.loads(self.content)


class _Api:
    """Stands where the package has its `APIConsumer`: same methods, and an error is an error."""

    def __init__(self, address: tuple[str, int], dial: Dial, timeout: float) -> None:
        self.host, self.port = address
        self._dial = dial
        self._timeout = timeout

    def get(self, url: str, params: None = None, **_: object) -> _Answer:
        return self._call("GET", url)

    def delete(self, url: str, **_: object) -> _Answer:
        return self._call("DELETE", url)

    def post(self, url: str, data: None = None, json: Mapping[str, object] | None = None, **_: object) -> _Answer:
        # The package has one verb for making and changing; a collection's own URL makes, a member's changes.
        member = len(url.strip("/").split("/")) in (2, 4)
        return self._call("PATCH" if member else "POST", url, json)

    def patch(self, url: str, *, json: Mapping[str, object]) -> _Answer:
        return self._call("PATCH", url, json)

    def _call(self, method: str, url: str, json: Mapping[str, object] | None = None) -> _Answer:
        body = None if json is None else jsonlib.dumps(json).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self._timeout)
        where = f"{method} http://{self.host}:{self.port}{url}"
        started = time.monotonic()
        with contextlib.closing(connection):
            try:
                connection.sock = self._dial((self.host, self.port), self._timeout)
                connection.request(method, url, body=body, headers={"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as exc:
                elapsed = time.monotonic() - started
                kind = ToxiproxyGone if isinstance(exc, ConnectionRefusedError) else ToxiproxyError
                raise kind(f"{where}: {type(exc).__name__}: {exc} after {elapsed:.1f} s") from exc
        if response.status >= 400:
            raise ToxiproxyError(f"{where}: HTTP {response.status}: {content[:300].decode(errors='replace').strip()}")
        return _Answer(response.status, content)
