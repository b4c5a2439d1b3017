"""What one client wants of one resource type, what it has, and what it is to be sent next. No I/O, no clock.

A stream has one `Subscription` per type. `receive` takes a request; `push` compares what the client has with what the
view holds now and returns the next response, or None. Invariants:

* One response at a time: while one is un-ACKed, `push` returns None, and later changes are merged into the next one.
* `known` is what the client has once everything sent is accepted; `acked` is what it has accepted. A resource is sent
  when its version differs from `known`, or when the protocol demands an answer (`due`), and never otherwise.
* A refused resource (NACK) is remembered by name *and version*: that version is never sent again on this stream, the
  last accepted one is kept, and the rest of the refused response is sent again. When the client does not say which
  resource it refused, the response is halved until it is found.

The rules are those of the xDS protocol specification (envoy `docs/root/api-docs/xds_protocol.rst`); `DeltaSubscription`
and `SotwSubscription` differ only in how a request is read and in what a response must hold.
"""

from __future__ import annotations

import enum
import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Set

import msgspec

from mesh.resource import CLUSTER, LISTENER, Resource
from mesh.xds.wire import Push, Request

WILDCARD = "*"
WILDCARD_TYPES = frozenset({CLUSTER, LISTENER})
"""Types for which an empty first subscription means everything."""

MAX_ERROR = 2000
"""Characters of a proxy's error that are kept."""

Held = Mapping[str, Resource]


class Outcome(enum.Enum):
    SUBSCRIBED = "subscribed"
    ACK = "ack"
    NACK = "nack"
    STALE = "stale"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A resource the client would not take."""

    resource: Resource
    error: str


class InFlight(msgspec.Struct, kw_only=True):
    """The response that has not been answered yet."""

    nonce: str
    known: Held
    """What the client has if it accepts."""
    sent: tuple[Resource, ...]
    """Resources in it that the client had not accepted before."""
    answered: frozenset[str]
    """Names that were due an answer; due again when it is refused."""


def set_version(resources: Iterable[Resource]) -> str:
    """One version for a set of resources, independent of order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, version in sorted((r.name, r.version) for r in resources):
        digest.update(f"{name}\0{version}\0".encode())
    return digest.hexdigest()


class Subscription:
    """The half that both variants share."""

    full_state = False
    """Every response holds the whole set; what is absent from it is deleted (state of the world, LDS and CDS)."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        self.known: Held = {}
        self.acked: Held = {}
        self.due: set[str] = set()
        """Names the client must be answered about, changed or not."""
        self.answer_due = False
        """A response is due even if it is empty (the first of a wildcard: the client waits for it)."""
        self.in_flight: InFlight | None = None
        self.refused: dict[str, Refusal] = {}
        self.started = False
        self._trials: deque[frozenset[str]] = deque()
        self._idle: Held | None = None
        """The target for which nothing was left to do, until the client speaks again."""
        self._count = 0

    # === what the client says ===

    def receive(self, request: Request) -> Outcome:
        raise NotImplementedError

    def resend(self, names: Iterable[str]) -> None:
        """Send these with the next response, changed or not: a changed cluster warms until its endpoints are sent
        again, and the client does not ask for them."""
        if self.started:
            self.due.update(names)
            self._idle = None

    def _answered(self, request: Request) -> Outcome | None:
        """ACK or NACK, or None when the request answers nothing."""
        flight = self.in_flight
        if flight is None or not request.nonce:
            return None
        if request.nonce != flight.nonce:
            return Outcome.STALE
        self.in_flight = None
        if request.error is None:
            self.acked = flight.known
            self._trial_passed(flight)
            return Outcome.ACK
        self._nack(flight, request.error[:MAX_ERROR])
        return Outcome.NACK

    def _trial_passed(self, flight: InFlight) -> None:
        if self._trials and any(resource.name in self._trials[0] for resource in flight.sent):
            self._trials.popleft()

    def _nack(self, flight: InFlight, error: str) -> None:
        if not flight.sent:
            # Nothing in it that could be left out (a removal, or an answer): repeating it would end as it did now.
            self.acked = flight.known
            return
        self.known = self.acked
        self.due |= flight.answered
        self._trial_passed(flight)
        culprits = [r for r in flight.sent if _mentions(error, r.name)]
        if not culprits and len(flight.sent) == 1:
            culprits = list(flight.sent)
        if culprits:
            for culprit in culprits:
                self.refused[culprit.name] = Refusal(resource=culprit, error=error)
                self.due.discard(culprit.name)
            return
        names = sorted(r.name for r in flight.sent)
        middle = len(names) // 2
        self._trials.extendleft([frozenset(names[middle:]), frozenset(names[:middle])])

    # === what it is to be sent ===

    def wanted(self, target: Held) -> Held:
        """The part of `target` this client subscribed to, with refused versions replaced by the last accepted."""
        wanted = target if self.wildcard else {n: target[n] for n in self.names | self.due if n in target}
        if self.refused:
            wanted = dict(wanted)
            for name, refusal in list(self.refused.items()):
                current = wanted.get(name)
                if current is None or current.version != refusal.resource.version:
                    del self.refused[name]
                elif name in self.acked:
                    wanted[name] = self.acked[name]
                else:
                    del wanted[name]
        return wanted

    def pending(self, target: Held, blocked: Set[str] = frozenset()) -> bool:
        """Whether something is unanswered or still to be sent, removals aside."""
        if self.in_flight is not None or self.answer_due:
            return True
        if self._idle is target:
            return False
        wanted = self.wanted(target)
        if any(_differs(self.known.get(n), r) for n, r in wanted.items() if n not in blocked):
            return True
        return bool(self.due - blocked - self.refused.keys() - (self.known.keys() - wanted.keys()))

    def removable(self, target: Held) -> set[str]:
        """Names the client has and wants that the view no longer holds."""
        if self._idle is target:
            return set()
        return {n for n in self.known if n not in target and (self.wildcard or n in self.names)}

    def push(self, target: Held, *, blocked: Set[str] = frozenset(), removals: Set[str] = frozenset()) -> Push | None:
        """The next response, if one is due. `blocked` names wait (what they refer to was refused); only the names in
        `removals` are removed."""
        if not self.started or self.in_flight is not None or self._idle is target:
            return None
        wanted = self.wanted(target)
        news = {n: r for n, r in wanted.items() if n not in blocked and _differs(self.known.get(n), r)}
        changed = self._trial(news) if news else news
        removed = self.removable(target) & removals
        # A name due an answer and not among the changed is sent again, or said not to exist. One that waits for its
        # trial, or is blocked, stays due; one that the client will lose is answered by its removal.
        again = {n: wanted[n] for n in self.due if n in wanted and not _differs(self.known.get(n), wanted[n])}
        again = {n: r for n, r in again.items() if r.body}
        absent = {n for n in self.due if n not in wanted and n not in self.known and n not in self.refused}
        waiting = self.due & (news.keys() - changed.keys() | blocked)
        answered = frozenset(self.due & (again.keys() | changed.keys()))
        self.due = {n for n in waiting if n not in answered}
        resources, gone = self._content(changed, again, removed, absent, wanted)
        if not (resources or gone or self.answer_due or (self.full_state and removed)):
            self._commit(removed)
            if not (self.due or self.removable(target) or blocked):
                self._idle = target
            return None
        known: Held = (
            {n: r for n, r in self.known.items() if n not in removed} | changed if changed or removed else self.known
        )
        if len(known) == len(wanted) and not any(_differs(known.get(n), r) for n, r in wanted.items()):
            known = wanted  # shared by every client of the view
        self._count += 1
        self.answer_due = False
        self.known = known
        self.in_flight = InFlight(
            nonce=f"{self._count:x}", known=known, sent=tuple(changed.values()), answered=answered
        )
        return Push(
            type_url=self.type_url,
            nonce=self.in_flight.nonce,
            version=set_version(known.values()),
            resources=resources,
            removed=gone,
        )

    def _commit(self, removed: Set[str]) -> None:
        """A removal this variant cannot say: the client keeps it until it no longer asks."""
        if removed:
            self.known = self.acked = {n: r for n, r in self.known.items() if n not in removed}

    def _trial(self, changed: dict[str, Resource]) -> dict[str, Resource]:
        """While looking for a culprit, only one half at a time."""
        while self._trials:
            part = {n: r for n, r in changed.items() if n in self._trials[0]}
            if part:
                return part
            self._trials.popleft()
        return changed

    def _content(
        self, changed: Held, again: Held, removed: Set[str], absent: Set[str], wanted: Held
    ) -> tuple[tuple[Resource, ...], tuple[str, ...]]:
        """Resources and removed names of the response."""
        raise NotImplementedError

    def _drop(self, names: Iterable[str]) -> None:
        """The client no longer has these."""
        gone = set(names)
        self.due -= gone
        if gone & self.known.keys():
            self.known = {n: r for n, r in self.known.items() if n not in gone}
        if gone & self.acked.keys():
            self.acked = {n: r for n, r in self.acked.items() if n not in gone}
        if self.in_flight is not None and gone & self.in_flight.known.keys():
            self.in_flight.known = {n: r for n, r in self.in_flight.known.items() if n not in gone}


class DeltaSubscription(Subscription):
    """Incremental: responses hold differences only."""

    def receive(self, request: Request) -> Outcome:
        # A stale nonce is no ACK, but its (un)subscriptions count all the same; so do those of a spontaneous request.
        self._idle = None
        outcome = self._answered(request)
        first = not self.started
        self.started = True
        if first:
            self._begin(request)
        else:
            self._subscribe(request.subscribe, {})
        self._unsubscribe(request.unsubscribe)
        return outcome or Outcome.SUBSCRIBED

    def _begin(self, request: Request) -> None:
        if not request.subscribe and self.type_url in WILDCARD_TYPES:
            self.wildcard = True
        self._subscribe(request.subscribe, request.initial_versions)
        had = {
            name: _placeholder(self.type_url, name, version)
            for name, version in request.initial_versions.items()
            if self.wildcard or name in self.names
        }
        self.known = self.acked = had
        self.answer_due = self.wildcard and not had

    def _subscribe(self, names: tuple[str, ...], had: Mapping[str, str]) -> None:
        for name in names:
            if name == WILDCARD:
                if self.wildcard:
                    self.due.update(self.known)
                self.wildcard = True
                self.answer_due = not had
                continue
            self.names.add(name)
            if name not in had:
                self.due.add(name)

    def _unsubscribe(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name == WILDCARD:
                if self.wildcard:
                    self.wildcard = False
                    self._drop([n for n in self.known if n not in self.names])
            elif name in self.names:
                self.names.discard(name)
                if self.wildcard:
                    self.due.add(name)
                else:
                    self._drop([name])
            elif self.wildcard and name in self.known:
                # Never subscribed by name, yet held through the wildcard: the client has dropped it, so say what holds.
                self.due.add(name)
            else:
                self._drop([name])

    def _content(
        self, changed: Held, again: Held, removed: Set[str], absent: Set[str], wanted: Held
    ) -> tuple[tuple[Resource, ...], tuple[str, ...]]:
        return _sorted({**again, **changed}), tuple(sorted(removed | absent))


class SotwSubscription(Subscription):
    """State of the world: LDS and CDS responses hold everything, the others what is new."""

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self.full_state = type_url in WILDCARD_TYPES
        self._named = False
        self._last_nonce = ""
        self._claimed = ""
        """The version a reconnecting client says it has, until it is compared with what it would be sent."""

    def receive(self, request: Request) -> Outcome:
        if self.started and request.nonce != self._last_nonce:
            return Outcome.STALE
        self._idle = None
        outcome = self._answered(request)
        if not self.started:
            self.started = True
            self._claimed = request.version if self.full_state else ""
            self._subscribe(request.names)
            # Even an empty full set must be said: the client waits for it.
            self.answer_due = self.full_state
        else:
            self._subscribe(request.names)
        return outcome or Outcome.SUBSCRIBED

    def _subscribe(self, names: tuple[str, ...]) -> None:
        wanted = set(names)
        self._named = self._named or bool(wanted)
        wildcard = WILDCARD in wanted or (self.type_url in WILDCARD_TYPES and not self._named)
        wanted.discard(WILDCARD)
        if self.wildcard and not wildcard:
            self._drop([n for n in self.known if n not in wanted])
        self.wildcard = wildcard
        gone = self.names - wanted
        new = wanted - self.names
        self.names = wanted
        if not wildcard:
            self._drop(gone)
        self.due |= new

    def resend(self, names: Iterable[str]) -> None:
        super().resend(self.names.intersection(names))

    def push(self, target: Held, *, blocked: Set[str] = frozenset(), removals: Set[str] = frozenset()) -> Push | None:
        if self._claimed and self.in_flight is None:
            wanted = self.wanted(target)
            if set_version(wanted.values()) == self._claimed:
                self.known = self.acked = wanted
                self.due.clear()
                self.answer_due = False
            self._claimed = ""
        push = super().push(target, blocked=blocked, removals=removals)
        if push is not None:
            self._last_nonce = push.nonce
        return push

    def _content(
        self, changed: Held, again: Held, removed: Set[str], absent: Set[str], wanted: Held
    ) -> tuple[tuple[Resource, ...], tuple[str, ...]]:
        # Names that do not exist are passed over in silence, and absence deletes in a full set only.
        if not self.full_state:
            return _sorted({**again, **changed}), ()
        if not (changed or again or removed or self.answer_due):
            return (), ()
        return _sorted({n: r for n, r in {**self.known, **changed}.items() if n not in removed}), ()


def _placeholder(type_url: str, name: str, version: str) -> Resource:
    """What a reconnecting client has from before: its version is known, its bytes are not."""
    return Resource(name=name, type_url=type_url, body=b"", version=version)


def _sorted(resources: Held) -> tuple[Resource, ...]:
    return tuple(resources[name] for name in sorted(resources))


def _differs(had: Resource | None, now: Resource) -> bool:
    return had is not now and (had is None or had.version != now.version)


def _mentions(text: str, name: str) -> bool:
    """Whether `text` names `name`, as a word of its own and not as part of a longer name."""
    start = text.find(name)
    while start >= 0:
        end = start + len(name)
        before = text[start - 1] if start else " "
        after = text[end : end + 2] + "  "
        inner = after[0] in "_|-:/" and after[1].isalnum()
        if not (before.isalnum() or before in "_|-./") and not (
            after[0].isalnum() or inner or (after[0] == "." and after[1].isalnum())
        ):
            return True
        start = text.find(name, start + 1)
    return False
