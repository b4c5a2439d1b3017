"""Rules as text, and names as edges."""

from __future__ import annotations

import pytest

from chaos.redirect import CHAIN, Rule, balanced, render, render_removal
from chaos.targets import EdgeSpec, Workload, parse_edge

PROXY = ("10.244.0.1", 40000)
ONE, TWO, THREE = ("10.244.0.5", 9080), ("10.244.0.6", 9080), ("10.244.0.7", 9080)
SERVICE = ("10.96.0.9", 80)


def test_a_rule_matches_one_pod_and_one_destination() -> None:
    rule = Rule(interface="mp0-4", source="10.244.0.4", destination=ONE, to=PROXY, label="x")
    assert rule.text() == (
        f"-A {CHAIN} -i mp0-4 -s 10.244.0.4/32 -d 10.244.0.5/32 -p tcp -m tcp --dport 9080"
        ' -m comment --comment "x" -j DNAT --to-destination 10.244.0.1:40000'
    )


def test_a_service_keeps_its_balance() -> None:
    rules = balanced("mp0-4", "10.244.0.4", SERVICE, [(ONE, None, ""), (TWO, PROXY, "x"), (THREE, None, "")])
    assert [(rule.to, rule.label) for rule in rules] == [(ONE, ""), (PROXY, "x"), (THREE, "")]
    taken, left = [], 1.0
    for rule in rules:
        taken.append(left * rule.probability)
        left -= taken[-1]
    assert taken == pytest.approx([1 / 3] * 3)
    assert left == pytest.approx(0)


def test_a_service_without_a_fault_has_no_rules() -> None:
    assert balanced("mp0-4", "10.244.0.4", SERVICE, [(ONE, None, ""), (TWO, None, "")]) == []


def test_there_is_one_jump_however_often_it_is_rendered() -> None:
    assert render([], jumps=0).count("PREROUTING") == 1
    assert "PREROUTING" not in render([], jumps=1)
    assert render([], jumps=3).count("-D PREROUTING") == 2
    assert render_removal(jumps=2).count("-D PREROUTING") == 2


@pytest.mark.parametrize(
    ("text", "edge"),
    [
        ("reviews->ratings", EdgeSpec(source=Workload("ns", "reviews"), destination=Workload("ns", "ratings"))),
        ("reviews-v2 -> ratings", EdgeSpec(source=Workload("ns", "reviews-v2"), destination=Workload("ns", "ratings"))),
        ("a/b->c/d:80", EdgeSpec(source=Workload("a", "b"), destination=Workload("c", "d"), port=80)),
    ],
)
def test_edges_as_they_are_written(text: str, edge: EdgeSpec) -> None:
    assert parse_edge(text, "ns") == edge
    assert parse_edge(str(edge), "other") == edge


@pytest.mark.parametrize("text", ["", "reviews", "->ratings", "a->b->c", "A->b", "a->b:99999", "a->b:http", "a;x->b"])
def test_what_is_not_an_edge(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_edge(text)
