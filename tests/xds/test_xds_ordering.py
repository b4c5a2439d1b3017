"""Make before break: what is sent before what, and what waits for which ACK."""

from __future__ import annotations

from xds_build import answer, cluster, endpoints, held, listener, route, subscribe

from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SHORT_NAMES, ResourceSet
from mesh.xds.ordering import Planner, Timing
from mesh.xds.wire import Push

TIMING = Timing(ack_deadline=5.0, linger=0.5, expect_subscription=2.0)


def view(*names: str, version: str = "1", routes: tuple[str, ...] | None = None) -> ResourceSet:
    """Clusters `names` with endpoints, one listener, one route to the clusters in `routes` (all by default)."""
    to = names if routes is None else routes
    return {
        CLUSTER: held(*(cluster(name, version) for name in names)),
        ENDPOINT: held(*(endpoints(name) for name in names)),
        LISTENER: held(listener("in", routes=["r"])),
        ROUTE: held(route("r", "-".join(to), to)),
    }


def types(pushes: list[Push]) -> list[str]:
    return [SHORT_NAMES[push.type_url] for push in pushes]


def settled(target: ResourceSet) -> Planner:
    """A proxy that runs `target`, connected the way Envoy does it."""
    planner = Planner(delta=True, timing=TIMING)
    subscribe(planner, CLUSTER)
    answer(planner, planner.plan(target, 0.0))
    subscribe(planner, ENDPOINT, *target[ENDPOINT])
    answer(planner, planner.plan(target, 0.0))
    subscribe(planner, LISTENER)
    answer(planner, planner.plan(target, 0.0))
    subscribe(planner, ROUTE, *target[ROUTE])
    answer(planner, planner.plan(target, 0.0))
    assert planner.plan(target, 0.0) == []
    assert planner.converged(target, 0.0)
    return planner


def test_clusters_and_endpoints_go_together_then_listeners_then_routes() -> None:  # 16, 20
    planner = settled(view("a"))
    target = dict(view("a", "b"))
    target[LISTENER] = held(listener("in", "2", ["r"]))
    first = planner.plan(target, 1.0)
    assert types(first) == ["CDS", "EDS"]
    assert [r.name for r in first[1].resources] == ["b"]
    assert planner.plan(target, 1.0) == []
    answer(planner, first)
    second = planner.plan(target, 1.0)
    assert types(second) == ["LDS"]
    answer(planner, second)
    assert types(planner.plan(target, 1.0)) == ["RDS"]


def test_a_changed_clusters_endpoints_are_sent_with_it() -> None:  # 19
    planner = settled(view("a"))
    pushes = planner.plan(view("a", version="2"), 1.0)
    assert types(pushes) == ["CDS", "EDS"]
    assert [r.name for r in pushes[1].resources] == ["a"]


def test_routes_wait_for_the_cluster_ack_and_not_longer_than_the_deadline() -> None:  # 21
    planner = settled(view("a"))
    target = view("a", "b")
    pushes = planner.plan(target, 1.0)
    answer(planner, [push for push in pushes if push.type_url == ENDPOINT])
    assert planner.plan(target, 3.0) == []
    assert planner.wake_at == 1.0 + TIMING.ack_deadline
    assert types(planner.plan(target, 6.0)) == ["RDS"]
    assert not planner.converged(target, 6.0)


def test_a_cluster_is_removed_after_the_routes_that_used_it_and_a_while_later() -> None:  # 16
    planner = settled(view("a", "b"))
    target = view("b")
    pushes = planner.plan(target, 1.0)
    assert types(pushes) == ["RDS"]
    answer(planner, pushes)
    assert planner.plan(target, 1.0) == []
    assert planner.converged(target, 1.0), "a removal changes no request"
    assert not planner.clean(target)
    assert planner.wake_at == 1.0 + TIMING.linger
    pushes = planner.plan(target, 1.6)
    assert types(pushes) == ["CDS"]
    assert pushes[0].removed == ("a",)
    answer(planner, pushes)
    planner.plan(target, 1.7)
    assert planner.clean(target) or planner.subscriptions[ENDPOINT].in_flight is not None


def test_a_cluster_that_a_kept_route_uses_is_not_removed() -> None:
    planner = settled(view("a", "b"))
    target = view("b")
    pushes = planner.plan(target, 1.0)
    answer(planner, pushes, error="r: no")
    for now in (1.0, 2.0, 60.0):
        assert planner.plan(target, now) == []
    assert "a" in planner.subscriptions[CLUSTER].known
    assert planner.converged(target, 60.0)
    assert [refusal.resource.name for refusal in planner.refusals()] == ["r"]


def test_a_cluster_that_comes_back_while_it_lingers_is_never_removed() -> None:
    planner = settled(view("a", "b"))
    answer(planner, planner.plan(view("b"), 1.0))
    assert planner.plan(view("b"), 1.2) == []
    back = planner.plan(view("a", "b"), 1.3)
    assert types(back) == ["RDS"]
    answer(planner, back)
    assert planner.plan(view("a", "b"), 60.0) == []


def test_a_route_to_a_refused_cluster_is_held_back() -> None:  # 24
    planner = settled(view("a"))
    target = view("a", "b")
    pushes = planner.plan(target, 1.0)
    answer(planner, pushes[:1], error="Error adding/updating cluster(s) b: no")
    answer(planner, pushes[1:])
    assert planner.plan(target, 1.0) == []
    assert "cluster b" in planner.held["r"]
    assert planner.converged(target, 1.0)
    fixed = dict(view("a", "b"))
    fixed[CLUSTER] = held(cluster("a"), cluster("b", "2"))
    answer(planner, planner.plan(fixed, 2.0))
    assert types(planner.plan(fixed, 2.0)) == ["RDS"]


def test_a_cluster_that_loses_its_endpoints_is_emptied_not_forgotten() -> None:  # 23
    planner = settled(view("a"))
    target = dict(view("a"))
    target[ENDPOINT] = {}
    pushes = planner.plan(target, 1.0)
    assert types(pushes) == ["EDS"]
    assert [r.name for r in pushes[0].resources] == ["a"]
    assert pushes[0].resources[0].version != "1"
    assert pushes[0].removed == ()
    answer(planner, pushes)
    assert planner.plan(target, 60.0) == []
    assert planner.clean(target)


def test_a_route_is_waited_for_until_the_proxy_asks_for_it() -> None:
    planner = settled(view("a"))
    target = dict(view("a"))
    target[LISTENER] = held(listener("in", "2", ["r", "new"]))
    target[ROUTE] = {**target[ROUTE], **held(route("new", "1", ["a"]))}
    answer(planner, planner.plan(target, 1.0))
    assert not planner.converged(target, 1.0)
    subscribe(planner, ROUTE, "new")
    answer(planner, planner.plan(target, 1.1))
    assert planner.converged(target, 1.1)


def test_a_route_that_is_never_asked_for_is_not_waited_for_for_ever() -> None:
    planner = settled(view("a"))
    target = dict(view("a"))
    target[LISTENER] = held(listener("in", "2", ["r", "new"]))
    target[ROUTE] = {**target[ROUTE], **held(route("new", "1", ["a"]))}
    answer(planner, planner.plan(target, 1.0))
    assert not planner.converged(target, 1.0)
    assert planner.converged(target, 1.0 + TIMING.expect_subscription)


def test_a_proxy_that_has_said_nothing_or_not_all_is_waited_for() -> None:
    planner = Planner(delta=True, timing=TIMING)
    target = view("a")
    assert not planner.converged(target, 0.0)
    subscribe(planner, CLUSTER)
    answer(planner, planner.plan(target, 0.0))
    subscribe(planner, ENDPOINT, "a")
    answer(planner, planner.plan(target, 0.0))
    assert not planner.converged(target, 0.0), "it has not asked for listeners yet"
    subscribe(planner, LISTENER)
    answer(planner, planner.plan(target, 0.0))
    assert not planner.converged(target, 0.0), "it has not asked for the listener's route yet"
    subscribe(planner, ROUTE, "r")
    assert not planner.converged(target, 0.0)
    answer(planner, planner.plan(target, 0.0))
    assert planner.converged(target, 0.0)


def test_state_of_the_world_makes_before_it_breaks_too() -> None:
    planner = Planner(delta=False, timing=TIMING)
    subscribe(planner, CLUSTER)
    answer(planner, planner.plan(view("a"), 0.0))
    target = dict(view("b"))
    pushes = planner.plan(target, 1.0)
    assert [r.name for r in pushes[0].resources] == ["a", "b"]
    answer(planner, pushes)
    assert planner.plan(target, 1.0) == []
    pushes = planner.plan(target, 1.6)
    assert [r.name for r in pushes[0].resources] == ["b"]


def test_nothing_is_sent_again_to_a_proxy_that_comes_back() -> None:  # 15, 25
    from mesh.xds.wire import Request

    target = view("a", "b")
    planner = Planner(delta=True, timing=TIMING)
    for type_url in (CLUSTER, LISTENER, ROUTE):
        versions = {name: r.version for name, r in target[type_url].items()}
        names = tuple(versions) if type_url == ROUTE else ()
        planner.receive(Request(type_url=type_url, subscribe=names, initial_versions=versions))
    assert planner.plan(target, 0.0) == []
