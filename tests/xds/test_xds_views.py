"""Views: compiled once per generation, shared while they do not change. And when a burst of changes is acted on."""

from __future__ import annotations

import asyncio

from xds_build import cluster, endpoints, held

from mesh.resource import CLUSTER, ENDPOINT, ResourceSet
from mesh.view import ViewKey, view_key
from mesh.xds.scheduler import MAX_SECONDS, QUIET_SECONDS, Debouncer, fire_at
from mesh.xds.views import Views, digest

A, B = view_key("a", {}, "x"), view_key("b", {}, "x")


def test_a_view_is_compiled_once_per_generation() -> None:
    compiled: list[ViewKey] = []

    def compile_(view: ViewKey) -> ResourceSet:
        compiled.append(view)
        return {CLUSTER: held(cluster("c"))}

    views = Views()
    views.publish(compile_)
    for _ in range(3):
        views.get(A)
    assert compiled == [A]
    views.publish(compile_)
    views.get(A)
    assert compiled == [A, A]


def test_what_did_not_change_keeps_its_identity_across_generations_and_views() -> None:
    views = Views()
    views.publish(lambda view: {CLUSTER: held(cluster("c"), cluster("d"))})
    first = views.get(A).resources
    views.publish(lambda view: {CLUSTER: held(cluster("c"), cluster("d"))})
    assert views.get(A).resources[CLUSTER] is first[CLUSTER]
    assert views.get(B).resources[CLUSTER]["c"] is first[CLUSTER]["c"]
    views.publish(lambda view: {CLUSTER: held(cluster("c"), cluster("d", "2"))})
    changed = views.get(A).resources[CLUSTER]
    assert changed is not first[CLUSTER]
    assert changed["c"] is first[CLUSTER]["c"]


def test_a_view_that_cannot_be_compiled_keeps_what_it_had() -> None:
    def broken(view: ViewKey) -> ResourceSet:
        raise ValueError("no")

    views = Views()
    views.publish(lambda view: {CLUSTER: held(cluster("c"))})
    views.get(A)
    views.publish(broken)
    view = views.get(A)
    assert list(view.resources[CLUSTER]) == ["c"]
    assert "no" in view.error


def test_a_digest_depends_on_versions_and_not_on_order() -> None:
    one = {CLUSTER: held(cluster("c"), cluster("d"))}
    other = {CLUSTER: held(cluster("d"), cluster("c"))}
    assert digest({A: one, B: one}) == digest({B: other, A: other})
    assert digest({A: one}) != digest({A: {CLUSTER: held(cluster("c"), cluster("d", "2"))}})
    assert digest({A: one}) != digest({B: one})
    assert digest({A: one}) != digest({A: None})
    moved = {**one, ENDPOINT: held(endpoints("c", "2"))}
    assert digest({A: one}) == digest({A: moved}), "where pods are is no configuration"


def test_a_lone_change_is_acted_on_at_once_and_a_burst_when_it_is_quiet() -> None:
    assert fire_at(first=5.0, last=5.0, previous=None) == 5.0
    assert fire_at(first=5.0, last=5.0, previous=1.0) == 5.0
    assert fire_at(first=5.0, last=5.0, previous=4.999) == 5.0 + QUIET_SECONDS
    assert fire_at(first=5.0, last=5.1, previous=4.999) == 5.1 + QUIET_SECONDS


def test_a_burst_that_never_ends_is_acted_on_at_the_limit() -> None:
    assert fire_at(first=5.0, last=99.0, previous=4.999) == 5.0 + MAX_SECONDS


def test_a_hundred_changes_are_few_actions_and_the_last_one_is_seen() -> None:
    async def body() -> None:
        seen: list[int] = []
        state = 0
        last = asyncio.Event()

        def act() -> None:
            seen.append(state)
            if state == 99:
                last.set()

        debouncer = Debouncer(act)
        for state in range(100):  # noqa: B007 - read by act
            debouncer.notify()
            await asyncio.sleep(0)
        await asyncio.wait_for(last.wait(), 5)
        assert len(seen) < 20

    asyncio.run(body())
