"""Mirroring: the copy arrives, once, and the client never notices."""

from __future__ import annotations

from collections import Counter

from harness.conformance.checks import check
from harness.conformance.fleet import token
from harness.conformance.lab import Lab, version_of
from harness.conformance.routing.manifests import to, virtual_service


@check(
    "F8",
    "every request is mirrored once; the answer is the primary's",
    feature="VirtualService",
    mutants=("drop-mirrors",),
)
def test_mirror(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- route: {to("v1")}
  mirror: {{host: server.$NS.svc.cluster.local, subset: v2}}
  mirrorPercentage: {{value: 100}}
"""
        )
    )

    def mirrored() -> bool:
        name = token()
        lab.get(instruct={"token": name})
        return bool(lab.until(lambda: lab.fleet.attempts(name)["v2"], "a copy", budget=1.0))

    lab.until(mirrored, "a request is mirrored")
    name, n = token(), 100
    answers = Counter(version_of(r) for r in lab.call("server", "/mirror?q=%20", count=n, instruct={"token": name}))
    assert answers == {"v1": n}
    lab.until(lambda: lab.fleet.attempts(name)["v2"] >= n, f"{n} copies")
    assert lab.fleet.attempts(name) == {"v1": n, "v2": n, "v3": 0}
    copies = lab.received(name)["v2"]
    assert {r.echo.path for r in copies} == {"/mirror?q=%20"}
