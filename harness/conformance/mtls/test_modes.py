"""PeerAuthentication: what a workload accepts, and which policy wins."""

from __future__ import annotations

from harness.conformance.checks import check
from harness.conformance.lab import Lab

XFCC = "x-forwarded-client-cert"


def peer_authentication(
    mode: str, *, name: str = "mode", namespace: str = "$NS", app: str = "", version: str = ""
) -> str:
    labels = ", ".join(f"{k}: {v}" for k, v in (("app", app), ("version", version)) if v)
    selector = f"  selector: {{matchLabels: {{{labels}}}}}\n" if labels else ""
    return f"""
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec:
{selector}  mtls: {{mode: {mode}}}
"""


def _identified(lab: Lab, to: str = "server") -> bool:
    """Whether a call from `client` arrives with its verified identity."""
    result = lab.get(to=to)
    seen = result.echo.header(XFCC) if result.echo else None
    return f"URI=spiffe://{lab.mesh.ca.trust_domain}/ns/{lab.fleet.namespace}/sa/client" in (seen or "")


def _plaintext_status(lab: Lab, to: str = "server") -> int:
    return lab.status(client="outside", to=to, new_connection=True)


@check(
    "M1",
    "STRICT accepts a client of the mesh, by its identity",
    feature="PeerAuthentication",
    mutants=("inbound-refuses-mesh", "hide-peer-identity"),
)
def test_strict_accepts_the_mesh(lab: Lab) -> None:
    lab.apply(peer_authentication("STRICT"))
    lab.until(lambda: _plaintext_status(lab) == 0, "plaintext is refused")
    assert _identified(lab)
    assert {r.status for r in lab.call(count=30)} == {200}


@check(
    "M2",
    "STRICT resets plaintext: no HTTP answer at all",
    feature="PeerAuthentication",
    mutants=("inbound-takes-plaintext",),
)
def test_strict_resets_plaintext(lab: Lab) -> None:
    lab.apply(peer_authentication("STRICT"))
    lab.until(lambda: _plaintext_status(lab) == 0, "plaintext is refused")
    results = lab.call(client="outside", to="server", count=10, new_connection=True)
    assert {(r.status, r.body) for r in results} == {(0, b"")}
    assert {r.error for r in results} <= {"reset", "closed"}, "refused at once, not left hanging"
    assert lab.status() == 200, "the server itself is alive"


@check(
    "M3",
    "PERMISSIVE takes both",
    feature="PeerAuthentication",
    mutants=("inbound-refuses-plaintext", "inbound-refuses-mesh"),
)
def test_permissive_takes_both(lab: Lab) -> None:
    lab.apply(peer_authentication("PERMISSIVE"))
    lab.until(lambda: _plaintext_status(lab) == 200, "plaintext is accepted")
    assert {r.status for r in lab.call(client="outside", count=10, new_connection=True)} == {200}
    assert _identified(lab), "the mesh's own calls stay mutual TLS"


@check("M4", "DISABLE is plaintext", feature="PeerAuthentication", mutants=("inbound-refuses-plaintext",))
def test_disable_is_plaintext(lab: Lab) -> None:
    lab.apply(peer_authentication("DISABLE"))
    lab.until(lambda: _plaintext_status(lab) == 200, "plaintext is accepted")
    lab.until(lambda: not _identified(lab), "the mesh's own calls are plaintext too")
    result = lab.get()
    assert result.status == 200
    assert result.echo is not None
    assert result.echo.header(XFCC) is None


@check(
    "M6",
    "a workload's policy beats its namespace's, which beats the mesh's",
    feature="PeerAuthentication",
    mutants=("inbound-takes-plaintext", "inbound-refuses-plaintext"),
)
def test_precedence(lab: Lab) -> None:
    def plaintext() -> dict[str, bool]:
        return {version: _plaintext_status(lab, f"server-{version}") == 200 for version in ("v1", "v2")}

    workload = peer_authentication("STRICT", name="workload", app="server", version="v1")
    namespace = peer_authentication("PERMISSIVE", name="namespace")
    lab.apply(workload + namespace)
    lab.until(lambda: plaintext() == {"v1": False, "v2": True}, "v1 strict by its own policy, v2 by its namespace's")
    lab.apply(peer_authentication("PERMISSIVE", name="workload", app="server", version="v1"))
    lab.apply(peer_authentication("STRICT", name="namespace"))
    lab.until(lambda: plaintext() == {"v1": True, "v2": False}, "v1 permissive by its own policy, v2 strict")
    lab.delete(workload)
    lab.until(lambda: plaintext() == {"v1": False, "v2": False}, "both by the namespace's policy")
    assert {r.status for r in lab.call(count=10)} == {200}
