"""Small resources and clients for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource
from mesh.xds.ordering import Planner
from mesh.xds.subscription import DeltaSubscription, Outcome, SotwSubscription, Subscription
from mesh.xds.wire import Push, Request


def res(name: str, version: str = "1", type_url: str = CLUSTER, refs: Iterable[tuple[str, str]] = ()) -> Resource:
    return Resource(
        name=name,
        type_url=type_url,
        body=f"{name}@{version}".encode(),
        version=version,
        origins=(f"Test/ns/{name}",),
        references=tuple(refs),
    )


def held(*resources: Resource) -> dict[str, Resource]:
    return {r.name: r for r in resources}


def cluster(name: str, version: str = "1") -> Resource:
    return res(name, version, CLUSTER, [(ENDPOINT, name)])


def endpoints(name: str, version: str = "1") -> Resource:
    return res(name, version, ENDPOINT)


def listener(name: str, version: str = "1", routes: Iterable[str] = ()) -> Resource:
    return res(name, version, LISTENER, [(ROUTE, r) for r in routes])


def route(name: str, version: str = "1", clusters: Iterable[str] = ()) -> Resource:
    return res(name, version, ROUTE, [(CLUSTER, c) for c in clusters])


def delta(type_url: str = CLUSTER, **request: object) -> DeltaSubscription:
    """A subscription that has received its first request."""
    sub = DeltaSubscription(type_url)
    sub.receive(Request(type_url=type_url, **request))  # type: ignore[arg-type]
    return sub


def sotw(type_url: str = CLUSTER, names: tuple[str, ...] = (), version: str = "") -> SotwSubscription:
    sub = SotwSubscription(type_url)
    sub.receive(Request(type_url=type_url, names=names, version=version))
    return sub


def sent(push: Push | None) -> dict[str, str]:
    """Name to version of what was pushed."""
    assert push is not None, "nothing was pushed"
    return {r.name: r.version for r in push.resources}


def ack(sub: Subscription, push: Push | None, names: tuple[str, ...] = ()) -> Outcome:
    assert push is not None, "nothing was pushed"
    return sub.receive(Request(type_url=push.type_url, nonce=push.nonce, version=push.version, names=names))


def nack(sub: Subscription, push: Push | None, error: str, names: tuple[str, ...] = ()) -> Outcome:
    assert push is not None, "nothing was pushed"
    return sub.receive(Request(type_url=push.type_url, nonce=push.nonce, error=error, names=names))


def subscribe(planner: Planner, type_url: str, *names: str) -> None:
    planner.receive(Request(type_url=type_url, subscribe=names))


def answer(planner: Planner, pushes: list[Push], error: str | None = None) -> None:
    """The proxy answers every one of `pushes`."""
    for push in pushes:
        planner.receive(Request(type_url=push.type_url, nonce=push.nonce, error=error))
