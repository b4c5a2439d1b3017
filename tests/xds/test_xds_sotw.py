"""The rules of state-of-the-world xDS, one test each."""

from __future__ import annotations

from xds_build import ack, held, nack, res, sent, sotw

from mesh.resource import CLUSTER, ENDPOINT, LISTENER
from mesh.xds.subscription import Outcome
from mesh.xds.wire import Request

A, B = res("a"), res("b")
EA, EB = res("a", type_url=ENDPOINT), res("b", type_url=ENDPOINT)


def test_a_stale_nonce_is_answered_with_nothing() -> None:  # 4
    sub = sotw(ENDPOINT, ("a",))
    first = sub.push(held(EA, EB))
    ack(sub, first, ("a",))
    sub.push(held(res("a", "2", ENDPOINT), EB))
    assert first is not None
    late = Request(type_url=ENDPOINT, nonce=first.nonce, names=("a", "b"))
    assert sub.receive(late) is Outcome.STALE
    assert sub.names == {"a"}
    assert sub.in_flight is not None


def test_empty_first_is_everything_and_after_a_name_nothing() -> None:  # 6
    sub = sotw()
    push = sub.push(held(A, B))
    assert sent(push) == {"a": "1", "b": "1"}
    ack(sub, push, ("a",))
    push = sub.push(held(A, B))
    assert sent(push) == {"a": "1"}
    ack(sub, push, ())
    assert sub.wanted(held(A, B)) == {}


def test_named_listeners_are_a_full_set_of_their_names() -> None:  # 7, proxyless gRPC
    la, lb = res("a", type_url=LISTENER), res("b", type_url=LISTENER)
    sub = sotw(LISTENER, ("a",))
    assert sent(sub.push(held(la, lb))) == {"a": "1"}


def test_a_full_set_is_sent_whole_and_absence_deletes() -> None:  # 7
    sub = sotw()
    ack(sub, sub.push(held(A, B)))
    assert sent(sub.push(held(A, res("b", "2")))) == {"a": "1", "b": "2"}
    sub = sotw()
    ack(sub, sub.push(held(A, B)))
    push = sub.push(held(A), removals={"b"})
    assert sent(push) == {"a": "1"}


def test_what_may_not_be_removed_yet_stays_in_the_full_set() -> None:  # 7, make before break
    sub = sotw()
    ack(sub, sub.push(held(A)))
    push = sub.push(held(B))
    assert sent(push) == {"a": "1", "b": "1"}
    ack(sub, push)
    assert sent(sub.push(held(B), removals={"a"})) == {"b": "1"}


def test_an_empty_full_set_is_said() -> None:  # 7
    sub = sotw()
    push = sub.push({})
    assert push is not None
    assert push.resources == ()
    ack(sub, push)
    assert sub.push({}) is None
    ack(sub, sub.push(held(A)))
    push = sub.push({}, removals={"a"})
    assert push is not None
    assert push.resources == ()


def test_endpoints_may_come_in_part_and_absence_never_deletes() -> None:  # 8
    sub = sotw(ENDPOINT, ("a", "b"))
    ack(sub, sub.push(held(EA, EB)), ("a", "b"))
    push = sub.push(held(EA, res("b", "2", ENDPOINT)))
    assert sent(push) == {"b": "2"}
    ack(sub, push, ("a", "b"))
    assert sub.push(held(EA), removals={"b"}) is None


def test_a_newly_requested_name_is_sent() -> None:  # 11
    sub = sotw(ENDPOINT, ("a",))
    ack(sub, sub.push(held(EA, EB)), ("a",))
    assert sub.in_flight is None
    sub.receive(Request(type_url=ENDPOINT, nonce="1", names=("a", "b")))
    assert sent(sub.push(held(EA, EB))) == {"b": "1"}


def test_an_unknown_name_is_met_with_silence_until_it_appears() -> None:  # 12
    sub = sotw(ENDPOINT, ("a",))
    assert sub.push({}) is None
    assert sent(sub.push(held(EA))) == {"a": "1"}


def test_nothing_unchanged_is_pushed() -> None:  # 14
    sub = sotw()
    ack(sub, sub.push(held(A)))
    assert sub.push(held(A)) is None


def test_a_reconnecting_client_that_has_the_set_is_not_sent_it() -> None:  # 15
    sub = sotw()
    push = sub.push(held(A, B))
    assert push is not None
    again = sotw(version=push.version)
    assert again.push(held(A, B)) is None
    assert sent(again.push(held(A, res("b", "2")))) == {"a": "1", "b": "2"}


def test_the_identical_name_list_after_a_changed_cluster_is_an_ack_and_endpoints_come_anyway() -> None:  # 19
    sub = sotw(ENDPOINT, ("a",))
    ack(sub, sub.push(held(EA)), ("a",))
    sub.resend(["a"])
    assert sent(sub.push(held(EA))) == {"a": "1"}


def test_a_refused_resource_is_left_out_and_its_last_good_version_kept() -> None:  # 22
    sub = sotw()
    ack(sub, sub.push(held(A, B)))
    target = held(res("a", "2"), res("b", "2"))
    assert nack(sub, sub.push(target), "Error adding/updating cluster(s) b: no") is Outcome.NACK
    push = sub.push(target)
    assert sent(push) == {"a": "2", "b": "1"}
    ack(sub, push)
    assert sub.push(target) is None


def test_an_unnamed_culprit_is_found_by_halving() -> None:  # 22
    sub = sotw()
    names = [f"c{i}" for i in range(8)]
    target = held(*(res(name) for name in names))
    for _ in range(30):
        push = sub.push(target)
        if push is None:
            break
        if "c5" in sent(push):
            nack(sub, push, "constraint violated")
        else:
            ack(sub, push)
    assert set(sub.refused) == {"c5"}
    assert set(sub.acked) == set(names) - {"c5"}


def test_other_types_than_clusters_and_listeners_have_no_wildcard() -> None:
    assert sotw(ENDPOINT).push(held(EA)) is None
    assert sotw(CLUSTER).wildcard
