"""The rules of incremental xDS, one test each. Numbers are those of the checklist in the specification's order."""

from __future__ import annotations

from xds_build import ack, delta, held, nack, res, sent

from mesh.resource import CLUSTER, ENDPOINT
from mesh.xds.subscription import Outcome
from mesh.xds.wire import Request

A, B, C = res("a"), res("b"), res("c")


def test_nonces_die_with_the_stream_and_versions_do_not() -> None:  # 2
    first = delta()
    push = first.push(held(A))
    assert push is not None
    second = delta(initial_versions={"a": "1"})
    assert second.receive(Request(type_url=CLUSTER, nonce=push.nonce)) is Outcome.SUBSCRIBED
    assert second.push(held(A)) is None


def test_a_nack_is_its_error_detail_and_nothing_else() -> None:  # 3
    sub = delta()
    push = sub.push(held(A))
    assert push is not None
    # An old version with the right nonce and no error is an ACK.
    assert sub.receive(Request(type_url=CLUSTER, nonce=push.nonce, version="older")) is Outcome.ACK
    push = sub.push(held(res("a", "2")))
    assert nack(sub, push, "no") is Outcome.NACK


def test_a_stale_nonce_is_no_ack_but_its_subscriptions_count() -> None:  # 4
    sub = delta(ENDPOINT, subscribe=("a",))
    a, b = res("a", type_url=ENDPOINT), res("b", type_url=ENDPOINT)
    ack(sub, sub.push(held(a, b)))
    push = sub.push(held(res("a", "2", ENDPOINT), b))
    stale = Request(type_url=ENDPOINT, nonce="stale", subscribe=("b",))
    assert sub.receive(stale) is Outcome.STALE
    assert sub.in_flight is not None
    ack(sub, push)
    assert sent(sub.push(held(res("a", "2", ENDPOINT), b))) == {"b": "1"}


def test_a_spontaneous_request_is_no_ack() -> None:  # 5
    sub = delta(ENDPOINT, subscribe=("a",))
    push = sub.push(held(res("a", type_url=ENDPOINT)))
    assert sub.receive(Request(type_url=ENDPOINT, subscribe=("b",))) is Outcome.SUBSCRIBED
    assert sub.in_flight is not None
    assert sub.acked == {}
    assert ack(sub, push) is Outcome.ACK


def test_an_empty_first_subscription_is_everything() -> None:  # 6
    sub = delta()
    assert sent(sub.push(held(A, B))) == {"a": "1", "b": "1"}


def test_an_empty_first_subscription_to_endpoints_is_nothing() -> None:  # 6
    sub = delta(ENDPOINT)
    assert sub.push(held(res("a", type_url=ENDPOINT))) is None


def test_the_legacy_wildcard_survives_subscribing_to_a_name() -> None:  # 6
    sub = delta()
    ack(sub, sub.push(held(A)))
    sub.receive(Request(type_url=CLUSTER, subscribe=("a",)))
    ack(sub, sub.push(held(A)))
    assert sent(sub.push(held(A, B))) == {"b": "1"}


def test_a_name_first_is_no_wildcard() -> None:  # 6
    sub = delta(subscribe=("a",))
    assert sent(sub.push(held(A, B))) == {"a": "1"}


def test_unsubscribing_the_wildcard_leaves_the_names() -> None:  # 6
    sub = delta(subscribe=("*", "a"))
    ack(sub, sub.push(held(A, B)))
    sub.receive(Request(type_url=CLUSTER, unsubscribe=("*",)))
    assert sub.push(held(A, res("b", "2"))) is None
    assert sent(sub.push(held(res("a", "2"), res("b", "2")))) == {"a": "2"}


def test_only_differences_are_sent_and_removals_are_said() -> None:  # 9
    sub = delta()
    ack(sub, sub.push(held(A, B, C)))
    push = sub.push(held(A, res("b", "2")), removals={"c"})
    assert push is not None
    assert sent(push) == {"b": "2"}
    assert push.removed == ("c",)


def test_removals_wait_until_they_are_allowed() -> None:
    sub = delta()
    ack(sub, sub.push(held(A, B)))
    assert sub.push(held(A)) is None
    assert sub.removable(held(A)) == {"b"}
    push = sub.push(held(A), removals={"b"})
    assert push is not None
    assert push.removed == ("b",)


def test_no_name_twice_in_a_response() -> None:  # 10
    sub = delta(subscribe=("*", "a", "a"))
    push = sub.push(held(A))
    assert push is not None
    assert [r.name for r in push.resources] == ["a"]


def test_a_newly_requested_name_is_sent_even_if_unchanged() -> None:  # 11
    sub = delta()
    ack(sub, sub.push(held(A)))
    sub.receive(Request(type_url=CLUSTER, subscribe=("a",)))
    assert sent(sub.push(held(A))) == {"a": "1"}


def test_a_resubscription_is_answered() -> None:  # 11
    sub = delta(ENDPOINT, subscribe=("a",))
    a = res("a", type_url=ENDPOINT)
    ack(sub, sub.push(held(a)))
    sub.receive(Request(type_url=ENDPOINT, subscribe=("a",)))
    assert sent(sub.push(held(a))) == {"a": "1"}


def test_an_unknown_name_is_said_to_be_unknown_and_pushed_when_it_appears() -> None:  # 12
    sub = delta(ENDPOINT, subscribe=("a",))
    push = sub.push({})
    assert push is not None
    assert push.resources == ()
    assert push.removed == ("a",)
    ack(sub, push)
    assert sub.push({}) is None
    assert sent(sub.push(held(res("a", type_url=ENDPOINT)))) == {"a": "1"}


def test_unsubscribing_a_name_under_the_wildcard_is_answered() -> None:  # 13
    sub = delta(subscribe=("*", "a", "x"))
    ack(sub, sub.push(held(A)))
    sub.receive(Request(type_url=CLUSTER, unsubscribe=("a", "x")))
    push = sub.push(held(A))
    assert sent(push) == {"a": "1"}
    assert push is not None
    assert push.removed == ("x",)


def test_other_unsubscriptions_need_no_answer_and_phantoms_are_ignored() -> None:  # 13
    sub = delta(ENDPOINT, subscribe=("a",))
    a = res("a", type_url=ENDPOINT)
    ack(sub, sub.push(held(a)))
    sub.receive(Request(type_url=ENDPOINT, unsubscribe=("a", "never")))
    assert sub.push(held(res("a", "2", ENDPOINT))) is None


def test_unchanged_bytes_are_not_pushed_and_an_ack_triggers_nothing() -> None:  # 14
    sub = delta()
    ack(sub, sub.push(held(A)))
    assert sub.push(held(A)) is None
    assert sub.push(held(res("a"))) is None, "the same version in another object is the same resource"


def test_one_response_at_a_time() -> None:
    sub = delta()
    push = sub.push(held(A))
    assert sub.push(held(A, B)) is None
    ack(sub, push)
    assert sent(sub.push(held(A, B))) == {"b": "1"}


def test_a_reconnecting_client_is_sent_differences_and_removals_only() -> None:  # 15
    sub = delta(initial_versions={"a": "1", "b": "1", "gone": "1"})
    assert sent(sub.push(held(A, res("b", "2"), C))) == {"b": "2", "c": "1"}
    assert sub.removable(held(A, B, C)) == {"gone"}


def test_a_reconnecting_client_with_nothing_new_is_sent_nothing() -> None:  # 15
    sub = delta(initial_versions={"a": "1", "b": "1"})
    assert sub.push(held(A, B)) is None
    assert not sub.pending(held(A, B))


def test_restated_names_with_versions_are_not_sent_again() -> None:  # 15
    a, b = res("a", type_url=ENDPOINT), res("b", type_url=ENDPOINT)
    sub = delta(ENDPOINT, subscribe=("a", "b"), initial_versions={"a": "1"})
    assert sent(sub.push(held(a, b))) == {"b": "1"}


def test_the_first_wildcard_response_comes_even_when_it_is_empty() -> None:
    push = delta().push({})
    assert push is not None
    assert push.resources == ()


def test_a_changed_clusters_endpoints_are_sent_again_unasked() -> None:  # 19, 20
    sub = delta(ENDPOINT, subscribe=("a",))
    a, b = res("a", type_url=ENDPOINT), res("b", type_url=ENDPOINT)
    ack(sub, sub.push(held(a, b)))
    sub.resend(["a", "b"])
    assert sent(sub.push(held(a, b))) == {"a": "1", "b": "1"}
    sub.receive(Request(type_url=ENDPOINT, subscribe=("b",)))
    sub.receive(Request(type_url=ENDPOINT, nonce=sub.in_flight.nonce if sub.in_flight else ""))
    assert sent(sub.push(held(a, b))) == {"b": "1"}, "the subscription that follows is answered too"


# --- refused resources (22)


def test_the_named_culprit_is_left_out_and_the_rest_is_sent_again() -> None:
    sub = delta()
    assert nack(sub, sub.push(held(A, B, C)), "Error adding/updating cluster(s) b: bad idea") is Outcome.NACK
    push = sub.push(held(A, B, C))
    assert sent(push) == {"a": "1", "c": "1"}
    ack(sub, push)
    assert sub.push(held(A, B, C)) is None, "a refused version is not sent again"
    assert sub.refused["b"].resource.origins == ("Test/ns/b",)


def test_the_last_good_version_of_a_refused_resource_stays() -> None:
    sub = delta()
    ack(sub, sub.push(held(A, B)))
    bad = res("b", "2")
    nack(sub, sub.push(held(A, bad)), "b is wrong")
    assert sub.push(held(A, bad)) is None
    assert sub.acked["b"].version == "1"
    assert sub.removable(held(A, bad)) == set()


def test_a_corrected_version_is_tried() -> None:
    sub = delta()
    nack(sub, sub.push(held(A)), "a is wrong")
    assert sub.push(held(A)) is None
    assert sent(sub.push(held(res("a", "2")))) == {"a": "2"}
    assert not sub.refused


def test_an_unnamed_culprit_is_found_by_halving_without_a_loop() -> None:
    sub = delta()
    names = [f"c{i:02}" for i in range(20)]
    target = held(*(res(name) for name in names))
    bad = {"c03", "c17"}
    pushes = 0
    while (push := sub.push(target)) is not None:
        pushes += 1
        assert pushes < 60, "no resend loop"
        if bad & {r.name for r in push.resources}:
            nack(sub, push, "Proto constraint validation failed")
        else:
            ack(sub, push)
    assert set(sub.acked) == set(names) - bad
    assert set(sub.refused) == bad
    assert not sub.pending(target)


def test_a_name_that_is_part_of_another_is_not_taken_for_it() -> None:
    sub = delta()
    short, long = res("outbound|80||a"), res("outbound|80||a.b")
    nack(sub, sub.push(held(short, long)), "Error adding/updating cluster(s) outbound|80||a.b: nonsense")
    assert set(sub.refused) == {"outbound|80||a.b"}


def test_a_refused_removal_is_not_repeated() -> None:
    sub = delta()
    ack(sub, sub.push(held(A, B)))
    nack(sub, sub.push(held(A), removals={"b"}), "cannot remove")
    assert sub.push(held(A), removals={"b"}) is None


def test_a_refused_resource_that_is_gone_is_forgotten() -> None:
    sub = delta()
    nack(sub, sub.push(held(A, B)), "a is wrong")
    ack(sub, sub.push(held(A, B)))
    assert sub.push(held(B)) is None
    assert not sub.refused
