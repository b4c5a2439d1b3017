"""Toxiproxy on pod-to-pod edges: neither app nor sidecar is reconfigured, and what they encrypt stays opaque.

For every hop of a faulted edge (one source pod, one destination address) the node redirects the source's new
connections to a Toxiproxy proxy that leads to that destination. There is one proxy per edge and destination, so faults
of two edges with one destination do not mix.

What is there is always derived from what is wanted: `_reconcile` reads the world, makes proxies and toxics, then the
redirect, then moves open connections. It runs on every change, and every `WATCH_SECONDS` while a fault is active, so
pods that a restart or scale brings join the fault (one born between two looks may connect directly until the next).

Order matters. Toxics are there before the first connection is redirected, because `reset_peer` and `toxicity` are
settled when a connection begins. On the way back toxics go first, then the redirect, then connections, then proxies,
so that requests under way end undisturbed.

What a destination notices: its peer is the node's address instead of the source pod's. Identity under mutual TLS is
not affected; a rule about source addresses would be.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket as sockets
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from chaos.redirect import Redirects, Rule, balanced
from chaos.sockets import Drained, Endpoint, MakeSocket, SocketTable, drain, opened_from, towards
from chaos.targets import EdgeSpec, Hop, Resolved, resolve
from chaos.toxiproxy import Client, ProxyState, Toxic, ToxiproxyError, ToxiproxyGone
from harness.substrate.api import NODE, PodInfo, SubstrateError, World

WATCH_SECONDS = 0.5
DRAIN_SECONDS = 2.0
"""How long requests under way are waited for before their connection is moved by force. Longer than a request that
a fault slows by a second, short enough for a fault to be in place when the observation begins."""

PROXY_UID = 1337
"""The sidecar's uid: in a meshed pod only its sockets are on the edge; the app's own end at the sidecar."""


class EdgeError(Exception):
    """The fault could not be put on, or taken off, an edge; the message says what was seen."""


class _Active(msgspec.Struct):
    """What is wanted of one edge."""

    edge: EdgeSpec
    toxics: dict[str, Toxic] = {}
    down: int = 0
    """How many faults want it cut."""
    hits: dict[str, int] = {}
    """Hop label to connections taken before the redirect was last rewritten."""


class EdgeFaults:
    """All faulted edges of one world, on one Toxiproxy server. Safe to use from several threads."""

    def __init__(self, world: World, client: Client) -> None:
        self._world = world
        self._client = client
        self._redirects = Redirects(world)
        self._active: dict[EdgeSpec, _Active] = {}
        self._rules: list[Rule] = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._trouble = ""

    def add(self, edge: EdgeSpec, toxic: Toxic | None) -> Drained:
        """Put a toxic on the edge (None: cut it), for connections open now as well. Returns how those were moved."""
        with self._lock:
            resolved = resolve(self._world, edge)
            if not resolved.hops:
                raise EdgeError(f"{edge} has no hop between different pods")
            self._refuse_overlap(edge, resolved)
            active = self._active.setdefault(edge, _Active(edge))
            if toxic is None:
                active.down += 1
            else:
                active.toxics[toxic.name] = toxic
            # A cut does not wait for requests under way: they are what it cuts.
            drained = self._reconcile(deadline=0.0 if toxic is None else DRAIN_SECONDS, needed=True)
            self._watch()
            return drained

    def remove(self, edge: EdgeSpec, toxic: Toxic | None) -> Drained:
        """Take it off again. With nothing left, the edge is direct again, its open connections too. Idempotent."""
        with self._lock:
            active = self._active.get(edge)
            if active is None:
                return Drained()
            if toxic is None:
                active.down = max(0, active.down - 1)
            else:
                active.toxics.pop(toxic.name, None)
            if active.toxics or active.down:
                return self._reconcile(deadline=DRAIN_SECONDS)
            self._clear_toxics(edge)
            self._active[edge] = _Active(edge, hits=active.hits)
            drained = self._reconcile(deadline=DRAIN_SECONDS)
            del self._active[edge]
            if not self._active:
                self._stop.set()
            return drained

    def hops(self, edge: EdgeSpec) -> tuple[Hop, ...]:
        """The edge's hops now."""
        return resolve(self._world, edge, needed=False).hops

    def hits(self, edge: EdgeSpec) -> dict[str, int]:
        """Hop to connections that took the redirect since the fault was put on. Probes count, too."""
        with self._lock:
            active = self._active.get(edge)
            counted = dict(active.hits) if active else {}
            _count(counted, edge, self._redirects.hits())
            names = {_hop_label(hop): str(hop) for hop in self.hops(edge)}
            return {names.get(label, label): count for label, count in counted.items()}

    def states(self, edge: EdgeSpec) -> list[ProxyState]:
        """The edge's proxies as the server reports them. Raises `ToxiproxyGone` when it ended."""
        return [state for name, state in self._client.proxies().items() if name.startswith(_proxy_prefix(edge))]

    def redirected(self) -> bool:
        """Whether the node redirects anything."""
        return self._redirects.present()

    @property
    def trouble(self) -> str:
        """What the watcher last failed at; empty when all is well."""
        return self._trouble

    def close(self) -> None:
        """Every edge direct again, no proxy left. Idempotent."""
        with self._lock:
            self._stop.set()
            self._active.clear()
            restore_edges(self._world, self._client)
            self._rules = []
        watcher = self._watcher
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join(10)

    # === wanted to real

    def _reconcile(self, *, deadline: float, needed: bool = False) -> Drained:
        """Make the world what is wanted, and return how open connections were moved. Caller holds the lock."""
        rules: list[Rule] = []
        keep: set[str] = set()
        for active in self._active.values():
            wanted = bool(active.toxics or active.down)
            resolved = resolve(self._world, active.edge, needed=needed and wanted)
            if wanted:
                to = {hop.endpoint: self._proxy(active, hop.endpoint) for hop in resolved.hops}
                keep |= {_proxy_name(active.edge, endpoint) for endpoint in to}
                rules += _rules(active.edge, resolved, to)
        drained = Drained()
        if rules != self._rules:
            self._keep_hits()
            self._redirects.apply(rules)
            before, self._rules = self._rules, rules
            drained = self._move(before, rules, deadline)
        try:
            for name in {name for name in self._client.proxies() if name.startswith(_PREFIX)} - keep:
                self._client.delete_proxy(name)
        except ToxiproxyGone:
            if rules:
                raise  # the redirect leads nowhere; without one, there is nothing left to delete
        return drained

    def _proxy(self, active: _Active, endpoint: Endpoint) -> Endpoint:
        """The proxy of one destination, with the edge's toxics; where it listens."""
        name = _proxy_name(active.edge, endpoint)
        state = self._client.proxies().get(name)
        if state is None:
            listen = f"{node_address(self._world, endpoint[0])}:0"
            state = self._client.ensure_proxy(name, listen=listen, upstream=f"{endpoint[0]}:{endpoint[1]}")
        for toxic in active.toxics.values():
            seen = state.toxic(toxic.name)
            if seen is None or not seen.matches(toxic):
                self._client.add_toxic(name, toxic)
        for toxic in state.toxics:
            if toxic.name not in active.toxics:
                self._client.remove_toxic(name, toxic.name)
        if state.enabled == bool(active.down):
            self._client.set_enabled(name, not active.down)
        host, _, port = state.listen.rpartition(":")
        return (host, int(port))

    def _move(self, before: list[Rule], after: list[Rule], deadline: float) -> Drained:
        """End the open connections that the change of rules concerns, so that they are made anew under the new ones."""
        left, added = set(before) - set(after), set(after) - set(before)
        through = {rule.to for rule in left if rule.label}
        pods = {pod.ip: pod for pod in self._world.pods()}
        return _drain_all(
            [
                *_towards(self._world, pods, [rule for rule in added if rule.label]),
                *_through(self._world, pods, through),
            ],
            deadline,
        )

    def _clear_toxics(self, edge: EdgeSpec) -> None:
        with contextlib.suppress(ToxiproxyGone):  # its toxics went with it; what is left is the redirect
            for state in self.states(edge):
                for toxic in state.toxics:
                    self._client.remove_toxic(state.name, toxic.name)
                if not state.enabled:
                    self._client.set_enabled(state.name, True)

    def _keep_hits(self) -> None:
        counted = self._redirects.hits()
        for edge, active in self._active.items():
            _count(active.hits, edge, counted)

    def _refuse_overlap(self, edge: EdgeSpec, resolved: Resolved) -> None:
        """Two differently named edges with a hop in common would fight over its redirect: only one could win."""
        mine = {(hop.source.ip, hop.endpoint): hop for hop in resolved.hops}
        for other in self._active:
            if other == edge:
                continue
            for hop in resolve(self._world, other, needed=False).hops:
                if (hop.source.ip, hop.endpoint) in mine:
                    raise EdgeError(
                        f"{edge} and {other}, which has a fault already, share the hop {hop}; name one edge"
                    )

    # === new pods

    def _watch(self) -> None:
        """Have a watcher while there is something to watch; each has a stop of its own, so none can be mistaken for
        one that is about to end. Caller holds the lock."""
        if self._watcher is None or self._stop.is_set():
            self._stop = threading.Event()
            self._watcher = threading.Thread(target=self._watching, args=(self._stop,), name="edge-faults", daemon=True)
            self._watcher.start()

    def _watching(self, stop: threading.Event) -> None:
        while not stop.wait(WATCH_SECONDS):
            with self._lock:
                if stop.is_set():
                    return
                try:
                    self._reconcile(deadline=DRAIN_SECONDS)
                    self._trouble = ""
                except (SubstrateError, ToxiproxyError, OSError, EdgeError) as exc:
                    # A pod may vanish while it is looked at; the next look sees what is there then.
                    self._trouble = f"{type(exc).__name__}: {exc}"


def restore_edges(world: World, client: Client | None) -> Drained:
    """Take every redirect off the node, whoever put it there, and move its connections back; with the server's API,
    every toxic and proxy too. Idempotent; works on what is there, not on what is remembered."""
    if client is not None:
        with contextlib.suppress(ToxiproxyError):  # a server that died takes its toxics with it
            client.reset()
    redirects = Redirects(world)
    proxies = {endpoint for endpoint in redirects.targets() if endpoint[0] == node_address(world)}
    redirects.remove()
    drained = _drain_all(_through(world, {pod.ip: pod for pod in world.pods()}, proxies), DRAIN_SECONDS)
    if client is not None:
        with contextlib.suppress(ToxiproxyError):
            for name in client.proxies():
                client.delete_proxy(name)
    return drained


def node_address(world: World, towards: str = "10.244.255.254") -> str:
    """The node's own address, as the kernel would choose it to talk to `towards`."""
    with world.socket(NODE, sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))
        address: str = probe.getsockname()[0]
        return address


# === rules

_PREFIX = "edge_"


def _proxy_prefix(edge: EdgeSpec) -> str:
    """Readable, safe in a URL, and no other edge's: Kubernetes names have no underscore."""
    source, destination = edge.source, edge.destination
    return (
        f"{_PREFIX}{source.namespace}_{source.name}_to_{destination.namespace}_{destination.name}_{edge.port or 'any'}_"
    )


def _proxy_name(edge: EdgeSpec, endpoint: Endpoint) -> str:
    return f"{_proxy_prefix(edge)}{endpoint[0]}_{endpoint[1]}"


def _edge_label(edge: EdgeSpec) -> str:
    """Short: iptables takes 255 characters, two names of pods may have more."""
    return hashlib.blake2b(str(edge).encode(), digest_size=6).hexdigest() + "|"


def _hop_label(hop: Hop) -> str:
    return f"{hop.source.ip}|{hop.endpoint[0]}:{hop.endpoint[1]}"


def _count(total: dict[str, int], edge: EdgeSpec, counted: dict[str, int]) -> None:
    """Add what the kernel counted for the edge to `total`, by hop label."""
    prefix = _edge_label(edge)
    for label, count in counted.items():
        if label.startswith(prefix):
            hop = label.removeprefix(prefix)
            total[hop] = total.get(hop, 0) + count


def _rules(edge: EdgeSpec, resolved: Resolved, to: dict[Endpoint, Endpoint]) -> list[Rule]:
    """The edge's redirects: its hops, and its Services as its sources reach them."""
    rules = [
        Rule(
            interface=hop.source.interface,
            source=hop.source.ip,
            destination=hop.endpoint,
            to=to[hop.endpoint],
            label=_edge_label(edge) + _hop_label(hop),
        )
        for hop in resolved.hops
    ]
    hops = {(hop.source.ip, hop.endpoint): hop for hop in resolved.hops}
    for source in {hop.source.ip: hop.source for hop in resolved.hops}.values():
        for service in resolved.services:
            backends: list[tuple[Endpoint, Endpoint | None, str]] = []
            for endpoint in service.backends:
                hop = hops.get((source.ip, endpoint))
                label = _edge_label(edge) + _hop_label(hop) if hop else ""
                backends.append((endpoint, to[endpoint] if hop else None, label))
            rules += balanced(source.interface, source.ip, service.address, backends)
    return rules


# === moving connections

_Drain = Callable[[float], Drained]


def _inside(world: World, source: PodInfo | str) -> MakeSocket:
    return lambda family, type_, proto: world.socket(source, family, type_, proto)


def _towards(world: World, pods: dict[str, PodInfo], rules: Iterable[Rule]) -> list[_Drain]:
    """Connections that were opened before a redirect existed, per source pod."""
    targets: dict[str, set[Endpoint]] = {}
    for rule in rules:
        targets.setdefault(rule.source, set()).add(rule.destination)

    def one(pod: PodInfo, ends: frozenset[Endpoint]) -> _Drain:
        wanted = towards(ends, uid=PROXY_UID if pod.meshed else None)
        return lambda deadline: drain(_inside(world, pod), wanted, deadline=deadline)

    return [one(pods[ip], frozenset(ends)) for ip, ends in targets.items() if ip in pods]


def _through(world: World, pods: dict[str, PodInfo], proxies: Iterable[Endpoint]) -> list[_Drain]:
    """Connections that go through Toxiproxy, per source pod. The node's side of them knows exactly which they are:
    the proxies' accepted sockets, whose peers are the sources' own ends."""
    ends = frozenset(proxies)
    if not ends:
        return []
    with SocketTable(_inside(world, NODE)) as table:
        peers = [connection.remote for connection in table.connections() if connection.local in ends]
    own: dict[str, set[Endpoint]] = {}
    for peer in peers:
        own.setdefault(peer[0], set()).add(peer)

    def one(pod: PodInfo, mine: frozenset[Endpoint]) -> _Drain:
        return lambda deadline: drain(_inside(world, pod), opened_from(mine), deadline=deadline)

    return [one(pods[ip], frozenset(mine)) for ip, mine in own.items() if ip in pods]


def _drain_all(drains: list[_Drain], deadline: float) -> Drained:
    """All pods at once: each may have to wait for requests under way."""
    total = Drained()
    if drains:
        with ThreadPoolExecutor(max_workers=min(16, len(drains)), thread_name_prefix="drain") as pool:
            for future in [pool.submit(one, deadline) for one in drains]:
                with contextlib.suppress(SubstrateError):  # the pod went, and its connections with it
                    total = total + future.result()
    return total
