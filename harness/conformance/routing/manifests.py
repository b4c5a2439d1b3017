"""Manifests several routing checks share. `$NS` is the fleet's namespace."""

from __future__ import annotations

SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: $NS}
spec:
  host: server.$NS.svc.cluster.local
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
"""


def virtual_service(http: str, name: str = "server") -> str:
    """SUBSETS and a VirtualService for `server` whose `http` list is `http` (YAML, unindented)."""
    body = "\n".join(f"  {line}" for line in http.strip("\n").splitlines())
    return f"""{SUBSETS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: $NS}}
spec:
  hosts: [server.$NS.svc.cluster.local]
  http:
{body}
"""


def to(version: str) -> str:
    """A route list with one destination, for a `route:` key."""
    return f"[{{destination: {{host: server.$NS.svc.cluster.local, subset: {version}}}}}]"


def split(match: str) -> str:
    """A VirtualService that sends what `match` (one or more YAML flow mappings) says to v2 and the rest to v1."""
    return virtual_service(
        f"""
- match: [{match}]
  route: {to("v2")}
- route: {to("v1")}
"""
    )


def http_route(rules: str, name: str = "server") -> str:
    """An HTTPRoute bound to the Service `server`, port 8080, whose `rules` list is `rules` (YAML, unindented)."""
    body = "\n".join(f"  {line}" for line in rules.strip("\n").splitlines())
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: $NS}}
spec:
  parentRefs: [{{group: "", kind: Service, name: server, port: 8080}}]
  rules:
{body}
"""


def backend(version: str) -> str:
    """A backendRefs list with one Service."""
    return f"[{{name: server-{version}, port: 8080}}]"
