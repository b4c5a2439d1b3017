"""What clients get and backends see when real Envoys run compiled configuration: routes, filters, resilience."""

from __future__ import annotations

import time

import pytest
from conftest import Mesh, ask

pytestmark = pytest.mark.privileged


def virtual_service(http: str, extra: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: echo, namespace: bookinfo}}
spec:
  hosts: [echo]
  http:
{http}
{extra}
"""


SUBSETS = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: bookinfo}
spec:
  host: echo
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""


def http_route(rules: str, port: int = 80) -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: echo, namespace: bookinfo}}
spec:
  parentRefs: [{{group: "", kind: Service, name: echo, port: {port}}}]
  rules:
{rules}
"""


V1, V2 = "10.244.0.3", "10.244.0.4"


def test_the_backend_sees_what_the_client_sent_and_who_it_is(mesh: Mesh) -> None:
    forged = {
        "x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/evil/sa/evil",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-custom": "kept",
    }
    answer = mesh.get("/a/b?c=d", forged)
    assert answer.status == 200
    assert answer.seen["path"] == "/a/b?c=d"
    assert answer.seen["peer"] == "127.0.0.6"
    received = answer.received
    certificate = received.pop("x-forwarded-client-cert")
    assert certificate.endswith("URI=spiffe://cluster.local/ns/bookinfo/sa/bookinfo-client")
    assert "evil" not in certificate
    assert len(received.pop("x-request-id")) == 36
    assert received == {"host": "echo", "x-custom": "kept", "x-forwarded-proto": "http"}
    assert answer.headers["server"].startswith("BaseHTTP")
    assert not [name for name in answer.headers if name.startswith("x-envoy")]


def test_a_request_id_is_kept_as_it_is(mesh: Mesh) -> None:
    identifier = "11111111-2222-9333-8444-555555555555"
    assert mesh.get(headers={"x-request-id": identifier}).received["x-request-id"] == identifier


def test_first_match_wins_and_no_match_is_404(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - match: [{uri: {prefix: /a}, headers: {x-v: {exact: "2"}}}, {uri: {exact: /only}}]
    route: [{destination: {host: echo, subset: v2}}]
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: echo, subset: v1}}]
  - match: [{withoutHeaders: {x-bot: {exact: "yes"}}, queryParams: {q: {regex: "[0-9]+"}}, method: {exact: POST}}]
    route: [{destination: {host: echo, subset: v2}}]
""")
        + SUBSETS
    )
    assert mesh.get("/a", {"x-v": "2"}).seen["address"] == V2
    assert mesh.get("/a", {"x-v": "22"}).seen["address"] == V1
    assert mesh.get("/only").seen["address"] == V2
    assert mesh.get("/only/more").status == 404
    assert mesh.get("/x?q=12", method="POST").seen["address"] == V2
    assert mesh.get("/x?q=12").status == 404
    assert mesh.get("/x?q=1a", method="POST").status == 404
    assert mesh.get("/x?q=1", {"x-bot": "yes"}, method="POST").status == 404
    assert mesh.get("/x?q=1", {"x-bot": "no"}, method="POST").status == 200


def test_http_route_precedence_and_whole_segments(mesh: Mesh) -> None:
    mesh.apply(
        http_route("""
  - matches: [{path: {value: /v2}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: rule, value: segments}]}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /v2/long}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: rule, value: longer}]}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /v2}, headers: [{name: a, value: b}]}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: rule, value: header}]}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /v2}, method: GET, queryParams: [{name: m, value: "1"}]}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: rule, value: method}]}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {type: Exact, value: /v2/long/exact}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: rule, value: exact}]}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /broken}}]
    backendRefs: [{name: nowhere, port: 80}]
""")
    )
    assert mesh.get("/v2").headers["rule"] == "segments"
    assert mesh.get("/v2/x").headers["rule"] == "segments"
    assert mesh.get("/v2example").status == 404
    assert mesh.get("/v2/long/x", {"a": "b"}).headers["rule"] == "longer"
    assert mesh.get("/v2", {"a": "b"}).headers["rule"] == "header"
    assert mesh.get("/v2?m=1", {"a": "b"}).headers["rule"] == "method"
    assert mesh.get("/v2/long/exact").headers["rule"] == "exact"
    assert mesh.get("/broken").status == 500
    assert mesh.get("/v2", port=8080).headers.get("rule") is None, "the route is bound to port 80"


def test_a_missing_subset_fails_for_its_own_share_only(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - match: [{uri: {prefix: /half}}]
    route:
    - {destination: {host: echo, subset: v1}, weight: 50}
    - {destination: {host: echo, subset: gone}, weight: 50}
  - match: [{uri: {prefix: /gone}}]
    route: [{destination: {host: echo, subset: gone}}]
  - route: [{destination: {host: echo, subset: v2}}]
""")
        + SUBSETS
    )
    statuses = [mesh.get("/half").status for _ in range(60)]
    assert set(statuses) == {200, 503}
    assert mesh.get("/gone").status == 503
    assert mesh.get("/other").seen["address"] == V2


def test_weights_and_weight_zero(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - match: [{uri: {prefix: /zero}}]
    route:
    - {destination: {host: echo, subset: v1}, weight: 100}
    - {destination: {host: echo, subset: v2}, weight: 0}
  - route:
    - {destination: {host: echo, subset: v1}, weight: 50, headers: {request: {set: {x-only: v1}}}}
    - {destination: {host: echo, subset: v2}, weight: 50}
""")
        + SUBSETS
    )
    assert {mesh.get("/zero").seen["address"] for _ in range(40)} == {V1}
    answers = [mesh.get("/both") for _ in range(60)]
    assert {answer.seen["address"] for answer in answers} == {V1, V2}
    assert all((answer.received.get("x-only") == "v1") == (answer.seen["address"] == V1) for answer in answers)


@pytest.mark.parametrize(
    ("sent", "saw"),
    [
        ("/strip", "/"),
        ("/strip/", "/"),
        ("/strip/x?q=1", "/x?q=1"),
        ("/prefix/x", "/new/x"),
        ("/prefix", "/new"),
        ("/full/a/b?q", "/whole?q"),
        ("/host", "/host"),
    ],
)
def test_http_route_rewrites(mesh: Mesh, sent: str, saw: str) -> None:
    mesh.apply(
        http_route("""
  - matches: [{path: {value: /strip}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /prefix}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /whole}}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /host}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: other.example}}]
    backendRefs: [{name: echo, port: 80}]
""")
    )
    answer = mesh.get(sent)
    assert answer.seen["path"] == saw
    assert answer.received["host"] == ("other.example" if sent == "/host" else "echo")


def test_virtual_service_rewrites_and_headers(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - match: [{uri: {prefix: /strip}}]
    rewrite: {uri: /, authority: rewritten.example}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /api/v1/}}]
    rewrite: {uri: /v2/}
    route: [{destination: {host: echo}}]
  - match: [{uri: {exact: /exact}}]
    rewrite: {uri: /other}
    route: [{destination: {host: echo}}]
  - route: [{destination: {host: echo}, headers: {request: {set: {host: by-header.example}}}}]
    headers:
      request: {set: {x-set: "50%"}, add: {x-add: b}, remove: [x-remove]}
      response: {set: {x-answer: "1"}, add: {x-more: "2"}, remove: [x-gone]}
""")
    )
    answer = mesh.get("/strip/a?b")
    assert (answer.seen["path"], answer.received["host"]) == ("/a?b", "rewritten.example")
    assert mesh.get("/api/v1/x").seen["path"] == "/v2/x"
    assert mesh.get("/exact?q=1").seen["path"] == "/other?q=1"
    answer = mesh.get("/", {"x-set": "old", "x-add": "a", "x-remove": "r"})
    assert answer.received["host"] == "by-header.example"
    assert [value for name, value in answer.seen["headers"] if name == "x-set"] == ["50%"]
    assert ",".join(value for name, value in answer.seen["headers"] if name == "x-add") == "a,b"
    assert "x-remove" not in answer.received
    assert (answer.headers["x-answer"], answer.headers["x-more"]) == ("1", "2")
    assert "x-gone" not in answer.headers


@pytest.mark.parametrize(
    ("port", "path", "status", "location"),
    [
        (80, "/host", 302, "http://example.org/host"),
        (8080, "/host", 302, "http://example.org:8080/host"),
        (8080, "/scheme?q=1", 301, "https://echo/scheme?q=1"),
        (80, "/scheme", 301, "https://echo/scheme"),
        (80, "/port", 307, "http://echo:8443/port"),
        (80, "/prefix/x", 308, "http://echo/new/x"),
        (80, "/full/x", 303, "http://echo/whole"),
    ],
)
def test_http_route_redirects_are_exact(mesh: Mesh, port: int, path: str, status: int, location: str) -> None:
    mesh.apply(
        http_route(
            """
  - matches: [{path: {value: /host}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]
  - matches: [{path: {value: /scheme}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
  - matches: [{path: {value: /port}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 8443, statusCode: 307}}]
  - matches: [{path: {value: /prefix}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308}
  - matches: [{path: {value: /full}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /whole}, statusCode: 303}
""",
            port,
        )
    )
    answer = mesh.get(path, port=port)
    assert (answer.status, answer.headers["location"]) == (status, location)


def test_virtual_service_redirect(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - match: [{uri: {prefix: /a}}]
    redirect: {uri: /b, authority: other.example:81, redirectCode: 302}
  - match: [{uri: {prefix: /derive}}]
    redirect: {scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}
""")
    )
    answer = mesh.get("/a/x?q")
    assert (answer.status, answer.headers["location"]) == (302, "http://other.example:81/b?q")
    assert mesh.get("/derive", port=8080).headers["location"] == "https://echo/derive"


def test_a_mirror_gets_every_request_once(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - route: [{destination: {host: echo, subset: v1}}]
    mirror: {host: echo, subset: v2}
""")
        + SUBSETS
    )
    for _ in range(10):
        assert mesh.get("/mirrored").seen["address"] == V1
    end = time.monotonic() + 5
    while mesh.count(f"{V2}/mirrored") < 10 and time.monotonic() < end:
        time.sleep(0.02)
    assert (mesh.count(f"{V1}/mirrored"), mesh.count(f"{V2}/mirrored")) == (10, 10)


def test_faults_hold_for_their_match_only(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - match: [{uri: {prefix: /abort}}]
    fault: {abort: {httpStatus: 418}}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /grpc}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED}}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /delay}}]
    fault: {delay: {fixedDelay: 300ms}}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /half}}]
    fault: {abort: {httpStatus: 503, percentage: {value: 50}}}
    route: [{destination: {host: echo}}]
  - route: [{destination: {host: echo}}]
""")
    )
    assert mesh.get("/abort").status == 418
    answer = mesh.get("/grpc", {"content-type": "application/grpc", "te": "trailers"}, method="POST")
    assert (answer.status, answer.headers["grpc-status"]) == (200, "8")
    begun = time.monotonic()
    assert mesh.get("/delay").status == 200
    assert time.monotonic() - begun >= 0.275
    assert {mesh.get("/half").status for _ in range(50)} == {200, 503}
    assert mesh.get("/other").status == 200


def test_timeouts_and_retries(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - match: [{uri: {prefix: /slow/3}}]
    timeout: 500ms
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /status/500}}]
    retries: {attempts: 3, retryOn: 5xx}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /status/409}}]
    retries: {attempts: 1, retryOn: "409"}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /status/502}}]
    retries: {attempts: 0}
    route: [{destination: {host: echo}}]
  - match: [{uri: {prefix: /flaky}}]
    retries: {attempts: 1, retryOn: 5xx}
    route: [{destination: {host: echo}}]
  - route: [{destination: {host: echo}}]
""")
    )
    begun = time.monotonic()
    assert mesh.get("/slow/3").status == 504
    assert 0.475 <= time.monotonic() - begun < 2.5
    assert (mesh.get("/status/500").status, mesh.count("/status/500")) == (500, 4)
    assert (mesh.get("/status/409").status, mesh.count("/status/409")) == (409, 2)
    assert (mesh.get("/status/502").status, mesh.count("/status/502")) == (502, 1)
    assert (mesh.get("/status/503").status, mesh.count("/status/503")) == (503, 1), "no answer is retried by default"
    failed = [mesh.get(f"/flaky/{V1}").status for _ in range(40)].count(503)
    assert failed <= 5, f"a retry goes to another host (picked up to 5 times, so 1 in 64 may miss it): {failed} of 40"


def test_http_route_timeouts(mesh: Mesh) -> None:
    mesh.apply(
        http_route("""
  - matches: [{path: {value: /slow/2}}]
    timeouts: {request: 500ms, backendRequest: 300ms}
    backendRefs: [{name: echo, port: 80}]
""")
    )
    begun = time.monotonic()
    assert mesh.get("/slow/2").status == 504
    assert 0.275 <= time.monotonic() - begun < 1.9, "the backend request timed out, not the request"


def test_ejection_and_return(mesh: Mesh) -> None:
    mesh.apply(
        virtual_service("""
  - retries: {attempts: 0}
    route: [{destination: {host: echo}}]
""")
        + """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: bookinfo}
spec:
  host: echo
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 3, interval: 200ms, baseEjectionTime: 4s, maxEjectionPercent: 100}
"""
    )
    statuses = [mesh.get(f"/flaky/{V2}").status for _ in range(12)]
    assert statuses.count(503) == 3
    assert statuses[-6:] == [200] * 6
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if {mesh.get("/back").seen["address"] for _ in range(4)} == {V1, V2}:
            break
    else:
        pytest.fail("the ejected host never came back")


def test_round_robin_is_even(mesh: Mesh) -> None:
    mesh.apply("""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: bookinfo}
spec: {host: echo, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
""")
    seen = [mesh.get("/even").seen["address"] for _ in range(40)]
    assert abs(seen.count(V1) - 20) <= 1


@pytest.mark.parametrize(
    ("policy", "request_"),
    [
        ("{httpHeaderName: x-user}", {"headers": {"x-user": "alice"}}),
        ("{httpQueryParameterName: user}", {"path": "/?user=alice"}),
        ("{useSourceIp: true}", {}),
        ("{httpHeaderName: x-user, maglev: {}}", {"headers": {"x-user": "alice"}}),
    ],
)
def test_consistent_hash_sticks(mesh: Mesh, policy: str, request_: dict[str, object]) -> None:
    mesh.apply(f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: echo, namespace: bookinfo}}
spec: {{host: echo, trafficPolicy: {{loadBalancer: {{consistentHash: {policy}}}}}}}
""")
    assert len({mesh.get(**request_).seen["address"] for _ in range(12)}) == 1  # type: ignore[arg-type]


def test_overflow_is_refused_and_flagged(mesh: Mesh) -> None:
    mesh.apply("""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: bookinfo}
spec:
  host: echo
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}
""")
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda _: mesh.get("/slow/0.5").status, range(6)))
    assert statuses.count(503) >= 2
    assert statuses.count(200) >= 1
    assert '"response_flags":"UO"' in mesh.logs["client"].read_text()


def test_a_route_change_holds_on_an_open_connection(mesh: Mesh) -> None:
    connection = mesh.connection()
    try:
        assert ask(connection, "GET", "/", {"host": "echo"}).status == 200
        mesh.apply(virtual_service("  - directResponse: {status: 418, body: {string: teapot}}"))
        answer = ask(connection, "GET", "/", {"host": "echo"})
        assert (answer.status, answer.body) == (418, "teapot")
    finally:
        connection.close()
