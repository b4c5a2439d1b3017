"""In which order a proxy is given a new state: make before break, each step gated on its ACK of the one before.

    secrets    whenever they change: a cluster or listener may be waiting for them
    clusters   new and changed ones, and right behind them, without waiting, the endpoints they need: a changed cluster
               warms until it has endpoints again, and its ACK is withheld as long (measured on Envoy 1.40)
    listeners  when clusters and endpoints are ACKed
    routes     when listeners are ACKed: routes do not warm, so a route to a cluster that is not there answers 503
    removals   of clusters and endpoints, when routes are ACKed and no route or listener the proxy holds refers to them,
               and `linger` seconds later, since a request that was routed just before still has to find its cluster

A gate opens after `ack_deadline` seconds even without an ACK, so that one proxy that cannot warm a cluster is still
given everything else. A resource that refers to a cluster the proxy refused is held back, since the proxy would accept
it and then fail its requests; the last accepted one stays. No I/O; the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from envoy.config.endpoint.v3 import endpoint_pb2

from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Resource, ResourceSet, resource
from mesh.xds.subscription import DeltaSubscription, Held, Outcome, Refusal, SotwSubscription, Subscription
from mesh.xds.wire import Push, Request

TYPES = (SECRET, CLUSTER, ENDPOINT, LISTENER, ROUTE)
NOTHING: Held = {}


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    ack_deadline: float = 5.0
    linger: float = 0.25
    expect_subscription: float = 2.0
    """How long a name that a listener or cluster refers to may go without being asked for before it is no longer
    waited for."""


class Planner:
    """One stream's subscriptions and what to send next."""

    def __init__(self, *, delta: bool, timing: Timing | None = None) -> None:
        self.subscriptions: dict[str, Subscription] = {
            type_url: DeltaSubscription(type_url) if delta else SotwSubscription(type_url) for type_url in TYPES
        }
        self.timing = timing or Timing()
        self.held: dict[str, str] = {}
        """Resource name to why it is held back though the proxy never saw it."""
        self._sent_at: dict[str, float] = {}
        self._break_from: float | None = None
        self._incomplete_since: float | None = None
        self.wake_at: float | None = None
        """When `plan` should be called again though nothing happened."""

    def receive(self, request: Request) -> Outcome:
        return self.subscriptions[request.type_url].receive(request)

    def plan(self, target: ResourceSet, now: float) -> list[Push]:
        """The responses to send now, in order."""
        self.wake_at = None
        subs = self.subscriptions
        blocked = self._blocked(target)
        pushes: list[Push] = []

        self._push(pushes, SECRET, target.get(SECRET, NOTHING), now, remove_all=True)

        clusters = target.get(CLUSTER, NOTHING)
        push = self._push(pushes, CLUSTER, clusters, now)
        if push is not None:
            subs[ENDPOINT].resend(name for r in push.resources for t, name in r.references if t == ENDPOINT)
        endpoints = self._endpoints(target)
        self._push(pushes, ENDPOINT, endpoints, now)
        if not (self._passable(CLUSTER, clusters, now) and self._passable(ENDPOINT, endpoints, now)):
            self._break_from = None
            return pushes

        listeners = target.get(LISTENER, NOTHING)
        self._push(pushes, LISTENER, listeners, now, blocked=blocked, remove_all=True)
        if not self._passable(LISTENER, listeners, now, blocked):
            self._break_from = None
            return pushes

        routes = target.get(ROUTE, NOTHING)
        self._push(pushes, ROUTE, routes, now, blocked=blocked)
        if not self._passable(ROUTE, routes, now, blocked):
            self._break_from = None
            return pushes

        self._break(pushes, target, endpoints, now)
        return pushes

    def converged(self, target: ResourceSet, now: float) -> bool:
        """The proxy has answered for everything in `target`: accepted, or refused and kept its last good one.
        Removals, which change no request, may still be to come."""
        if not any(sub.started for sub in self.subscriptions.values()):
            return False
        blocked = self._blocked(target)
        for type_url, sub in self.subscriptions.items():
            held = self._endpoints(target) if type_url == ENDPOINT else target.get(type_url, NOTHING)
            if sub.started and sub.pending(held, blocked if type_url in (LISTENER, ROUTE) else frozenset()):
                self._incomplete_since = None
                return False
        if self._expected(target):
            if self._incomplete_since is None:
                self._incomplete_since = now
            due = self._incomplete_since + self.timing.expect_subscription
            if now < due:
                self._wake(due)
                return False
        else:
            self._incomplete_since = None
        return True

    def clean(self, target: ResourceSet) -> bool:
        """Converged, and nothing that `target` lacks is left on the proxy."""
        for type_url, sub in self.subscriptions.items():
            gone = sub.removable(target.get(type_url, NOTHING)) if sub.started else set()
            if gone and gone - self._in_use(type_url) - _needed_endpoints(type_url, target):
                return False
        return True

    def refusals(self) -> list[Refusal]:
        return [refusal for sub in self.subscriptions.values() for refusal in sub.refused.values()]

    # === steps ===

    def _push(
        self,
        pushes: list[Push],
        type_url: str,
        target: Held,
        now: float,
        *,
        blocked: frozenset[str] = frozenset(),
        removals: frozenset[str] = frozenset(),
        remove_all: bool = False,
    ) -> Push | None:
        sub = self.subscriptions[type_url]
        if remove_all:
            removals = frozenset(sub.removable(target))
        push = sub.push(target, blocked=blocked, removals=removals)
        if push is not None:
            pushes.append(push)
            self._sent_at[type_url] = now
        return push

    def _passable(self, type_url: str, target: Held, now: float, blocked: frozenset[str] = frozenset()) -> bool:
        """Everything of this type is ACKed, or has been waited for long enough."""
        sub = self.subscriptions[type_url]
        if not sub.started or not sub.pending(target, blocked):
            return True
        overdue_at = self._sent_at.get(type_url, now) + self.timing.ack_deadline
        if sub.in_flight is not None and now >= overdue_at:
            return True
        self._wake(overdue_at)
        return False

    def _break(self, pushes: list[Push], target: ResourceSet, endpoints: Held, now: float) -> None:
        goes: dict[str, frozenset[str]] = {}
        held = {ROUTE: target.get(ROUTE, NOTHING), CLUSTER: target.get(CLUSTER, NOTHING), ENDPOINT: endpoints}
        for type_url, there in held.items():
            gone = self.subscriptions[type_url].removable(there)
            if gone := gone - self._in_use(type_url) if gone else gone:
                goes[type_url] = frozenset(gone)
        if not goes:
            self._break_from = None
            return
        if self._break_from is None:
            self._break_from = now + self.timing.linger
        if now < self._break_from:
            self._wake(self._break_from)
            return
        for type_url, names in goes.items():
            self._push(pushes, type_url, held[type_url], now, removals=names)

    def _in_use(self, type_url: str) -> set[str]:
        """Names of this type that something the proxy holds still refers to."""
        holders = {CLUSTER: (LISTENER, ROUTE), ENDPOINT: (CLUSTER,), ROUTE: (LISTENER,), SECRET: (CLUSTER, LISTENER)}
        used: set[str] = set()
        for holder in holders.get(type_url, ()):
            for held in self.subscriptions[holder].known.values():
                used.update(name for kind, name in held.references if kind == type_url)
        return used

    def _blocked(self, target: ResourceSet) -> frozenset[str]:
        """Listeners and routes that need a cluster the proxy refused and has no earlier version of."""
        sub = self.subscriptions[CLUSTER]
        bad = {name for name in sub.refused if name not in sub.acked}
        self.held = {}
        if not bad:
            return frozenset()
        for type_url in (LISTENER, ROUTE):
            for name, r in target.get(type_url, NOTHING).items():
                needs = sorted(ref for kind, ref in r.references if kind == CLUSTER and ref in bad)
                if needs:
                    self.held[name] = f"held back: it needs cluster {needs[0]}, which the proxy refused"
        return frozenset(self.held)

    def _endpoints(self, target: ResourceSet) -> Held:
        """The view's endpoints; a cluster that lost its assignment gets an empty one, because removing an assignment
        leaves its hosts in place (measured on Envoy 1.40)."""
        endpoints = target.get(ENDPOINT, NOTHING)
        sub = self.subscriptions[ENDPOINT]
        lost = sub.removable(endpoints)
        if not lost:
            return endpoints
        lost &= _needed_endpoints(ENDPOINT, target)
        return {**endpoints, **{name: _empty_assignment(name) for name in lost}} if lost else endpoints

    def _expected(self, target: ResourceSet) -> bool:
        """Whether the proxy has yet to ask for something: listeners, which follow its clusters when it starts, or what
        the resources it accepted refer to."""
        clusters, listeners = self.subscriptions[CLUSTER], self.subscriptions[LISTENER]
        if clusters.wildcard and not listeners.started and target.get(LISTENER):
            return True
        for holder, type_url in ((LISTENER, ROUTE), (CLUSTER, ENDPOINT)):
            sub = self.subscriptions[type_url]
            if sub.wildcard or not self.subscriptions[holder].wildcard:
                continue
            there = target.get(type_url, NOTHING)
            for held in self.subscriptions[holder].acked.values():
                if any(k == type_url and n not in sub.names and n in there for k, n in held.references):
                    return True
        return False

    def _wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


def _needed_endpoints(type_url: str, target: ResourceSet) -> set[str]:
    if type_url != ENDPOINT:
        return set()
    return {name for r in target.get(CLUSTER, NOTHING).values() for kind, name in r.references if kind == ENDPOINT}


_EMPTY: dict[str, Resource] = {}


def _empty_assignment(name: str) -> Resource:
    if name not in _EMPTY:
        _EMPTY[name] = resource(name, ENDPOINT, endpoint_pb2.ClusterLoadAssignment(cluster_name=name))
    return _EMPTY[name]


def with_secrets(view: ResourceSet, secrets: Mapping[str, Resource]) -> ResourceSet:
    """A view's resources and one identity's secrets: everything one stream is served."""
    return {**view, SECRET: secrets}
