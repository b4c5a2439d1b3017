"""AuthorizationPolicy."""

from __future__ import annotations

from harness.conformance.checks import check
from harness.conformance.fleet import token
from harness.conformance.lab import Lab


def policy(name: str, spec: str) -> str:
    """A policy on the pods of `server`; `spec` is YAML, unindented, without the selector."""
    body = "\n".join(f"  {line}" for line in spec.strip("\n").splitlines())
    return f"""
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: $NS}}
spec:
  selector: {{matchLabels: {{app: server}}}}
{body}
"""


@check(
    "A1",
    "an ALLOW policy without rules denies everything",
    feature="AuthorizationPolicy",
    mutants=("drop-authorization",),
)
def test_empty_allow(lab: Lab) -> None:
    lab.apply(policy("nothing", "action: ALLOW"))
    lab.until(lambda: lab.status() == 403, "everything is denied")
    name = token()
    results = lab.call(count=20, instruct={"token": name}) + lab.call(client="stranger", count=5)
    assert {r.status for r in results} == {403}
    assert sum(lab.fleet.attempts(name).values()) == 0, "a denied request never reaches the app"


@check("A2", "DENY beats ALLOW", feature="AuthorizationPolicy", mutants=("drop-deny",))
def test_deny_beats_allow(lab: Lab) -> None:
    lab.apply(
        policy("allow", "action: ALLOW\nrules: [{}]")
        + policy("deny", "action: DENY\nrules: [{to: [{operation: {paths: [/denied]}}]}]")
    )
    lab.until(lambda: lab.status("/denied") == 403, "/denied is denied")
    assert {path: lab.status(path) for path in ("/denied", "/allowed")} == {"/denied": 403, "/allowed": 200}


@check(
    "A6",
    "sources: principal, namespace, service account, trust domain",
    feature="AuthorizationPolicy",
    mutants=("any-principal",),
)
def test_sources(lab: Lab) -> None:
    domain, ns, other = lab.mesh.ca.trust_domain, lab.fleet.namespace, lab.fleet.namespaces[1]

    def verdicts(source: str) -> tuple[int, int]:
        lab.apply(policy("source", f"action: ALLOW\nrules: [{{from: [{{source: {source}}}]}}]"))
        expected = (200, 403)
        lab.until(lambda: (lab.status(), lab.status(client="stranger")) == expected, f"{source} tells them apart")
        return lab.status(), lab.status(client="stranger")

    for source in (
        f'{{principals: ["{domain}/ns/{ns}/sa/client"]}}',
        '{principals: ["*/sa/client"]}',
        f'{{notPrincipals: ["{domain}/ns/{other}/sa/stranger"]}}',
        f'{{namespaces: ["{ns}"]}}',
        f'{{notNamespaces: ["{other}"]}}',
        f'{{serviceAccounts: ["{ns}/client"]}}',
    ):
        assert verdicts(source) == (200, 403), source
    lab.apply(policy("source", 'action: ALLOW\nrules: [{from: [{source: {principals: ["elsewhere.example/*"]}}]}]'))
    lab.until(lambda: lab.status() == 403, "another trust domain is not this one")
    assert (lab.status(), lab.status(client="stranger")) == (403, 403)


@check(
    "A8",
    "operations: method, path, host, port, and their negations",
    feature="AuthorizationPolicy",
    mutants=("any-permission",),
)
def test_operations(lab: Lab) -> None:
    host = lab.fleet.host("server")

    def allowed(operation: str, cases: dict[tuple[str, str, int], int]) -> None:
        lab.apply(policy("operation", f"action: ALLOW\nrules: [{{to: [{{operation: {operation}}}]}}]"))

        def seen() -> dict[tuple[str, str, int], int]:
            return {(m, p, port): lab.status(p, method=m, port=port) for m, p, port in cases}

        lab.until(lambda: seen() == cases, f"{operation} takes effect")
        assert seen() == cases

    allowed("{methods: [GET]}", {("GET", "/", 8080): 200, ("POST", "/", 8080): 403})
    allowed("{notMethods: [GET]}", {("GET", "/", 8080): 403, ("POST", "/", 8080): 200})
    allowed(
        "{paths: [/one, /two/*]}",
        {
            ("GET", "/one", 8080): 200,
            ("GET", "/one?q=1", 8080): 200,
            ("GET", "/two/x", 8080): 200,
            ("GET", "/onex", 8080): 403,
            ("GET", "/", 8080): 403,
        },
    )
    allowed("{notPaths: [/one]}", {("GET", "/one", 8080): 403, ("GET", "/other", 8080): 200})
    allowed('{ports: ["8080"]}', {("GET", "/", 8080): 200, ("GET", "/", 8090): 403})
    allowed('{notPorts: ["8080"]}', {("GET", "/", 8080): 403, ("GET", "/", 8090): 200})
    allowed(f'{{hosts: ["{host}", "{host}:*"]}}', {("GET", "/", 8080): 200})
    allowed('{hosts: ["elsewhere.example"]}', {("GET", "/", 8080): 403})
    allowed('{notHosts: ["elsewhere.example"]}', {("GET", "/", 8080): 200})
