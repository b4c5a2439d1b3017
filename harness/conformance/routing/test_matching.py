"""What a route matches: path, header, query parameter, method."""

from __future__ import annotations

from harness.conformance.checks import check
from harness.conformance.lab import Lab
from harness.conformance.routing.manifests import backend, http_route, split, to, virtual_service


@check(
    "R1",
    "a meshed client reaches a service without any configuration",
    feature="Mesh",
    mutants=("drop-service-routes",),
    without_mesh=True,
)
def test_baseline(lab: Lab) -> None:
    results = lab.call(count=60, new_connection=True)
    assert {r.status for r in results} == {200}
    assert {r.echo.instance.version for r in results if r.echo} == {"v1", "v2", "v3"}


@check("R2", "an exact path matches that path alone", feature="VirtualService", mutants=("exact-to-prefix",))
def test_exact_path(lab: Lab) -> None:
    lab.apply(split("{uri: {exact: /exact}}"))
    lab.until(lambda: lab.version("/exact") == "v2", "/exact goes to v2")
    expected = {"/exact": "v2", "/exact?q=1": "v2", "/exact/": "v1", "/exactly": "v1", "/EXACT": "v1", "/": "v1"}
    assert {path: lab.version(path) for path in expected} == expected


@check(
    "R3",
    "a path prefix matches whole segments: /v2 matches /v2/x, not /v2example",
    feature="HTTPRoute",
    mutants=("segments-to-plain-prefix",),
)
def test_prefix_is_segment_wise(lab: Lab) -> None:
    lab.apply(
        http_route(
            f"""
- matches: [{{path: {{type: PathPrefix, value: /v2}}}}]
  backendRefs: {backend("v2")}
- backendRefs: {backend("v1")}
"""
        )
    )
    lab.until(lambda: lab.version("/v2") == "v2", "/v2 goes to v2")
    expected = {"/v2": "v2", "/v2/": "v2", "/v2/x": "v2", "/v2?q=1": "v2", "/v2example": "v1", "/": "v1", "/x/v2": "v1"}
    assert {path: lab.version(path) for path in expected} == expected


@check("R4", "a path regex matches the whole path", feature="VirtualService", mutants=("regex-unanchored",))
def test_regex_is_a_full_match(lab: Lab) -> None:
    lab.apply(split("{uri: {regex: '/r[0-9]+'}}"))
    lab.until(lambda: lab.version("/r1") == "v2", "/r1 goes to v2")
    expected = {"/r1": "v2", "/r12": "v2", "/r12?q=1": "v2", "/r": "v1", "/r12/x": "v1", "/x/r12": "v1", "/r1x": "v1"}
    assert {path: lab.version(path) for path in expected} == expected


@check(
    "R5",
    "headers of one match are ANDed, matches are ORed",
    feature="VirtualService",
    mutants=("forget-one-header", "ignore-headers"),
)
def test_header_exact(lab: Lab) -> None:
    lab.apply(split("{headers: {x-one: {exact: a}, x-two: {exact: b}}}, {headers: {x-three: {exact: c}}}"))
    one, two, three = ("x-one", "a"), ("x-two", "b"), ("x-three", "c")
    lab.until(lambda: lab.version(headers=[one, two]) == "v2", "both headers go to v2")
    cases = [
        ([one, two], "v2"),
        ([three], "v2"),
        ([one, two, three], "v2"),
        ([one], "v1"),
        ([two], "v1"),
        ([], "v1"),
        ([("x-one", "A"), two], "v1"),
        ([("X-Three", "c")], "v2"),
        ([("x-three", "cc")], "v1"),
    ]
    assert [(h, lab.version(headers=h)) for h, _ in cases] == cases


@check(
    "R6", "headers match by regex, prefix, presence and absence", feature="VirtualService", mutants=("ignore-headers",)
)
def test_header_kinds(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{headers: {{x-regex: {{regex: 'a+b'}}}}}}]
  route: {to("v2")}
- match: [{{headers: {{x-prefix: {{prefix: pre-}}}}}}]
  route: {to("v2")}
- match: [{{headers: {{x-present: {{}}}}}}]
  route: {to("v2")}
- match: [{{uri: {{prefix: /absent}}, withoutHeaders: {{x-no: {{}}}}}}]
  route: {to("v2")}
- route: {to("v1")}
"""
        )
    )
    lab.until(lambda: lab.version(headers=[("x-present", "1")]) == "v2", "a present header goes to v2")
    cases = [
        ("/", [("x-regex", "aab")], "v2"),
        ("/", [("x-regex", "aabc")], "v1"),
        ("/", [("x-prefix", "pre-1")], "v2"),
        ("/", [("x-prefix", "a-pre-1")], "v1"),
        ("/", [("x-present", "anything")], "v2"),
        ("/absent", [], "v2"),
        ("/absent", [("x-no", "1")], "v1"),
        ("/", [], "v1"),
    ]
    assert [(p, h, lab.version(p, headers=h)) for p, h, _ in cases] == cases


@check("R7", "query parameters match exactly and by regex", feature="VirtualService", mutants=("ignore-query",))
def test_query_parameters(lab: Lab) -> None:
    lab.apply(split("{queryParams: {q: {exact: one}}}, {queryParams: {r: {regex: '[0-9]+'}}}"))
    lab.until(lambda: lab.version("/?q=one") == "v2", "?q=one goes to v2")
    expected = {
        "/?q=one": "v2",
        "/?x=1&q=one": "v2",
        "/?r=12": "v2",
        "/?q=two": "v1",
        "/?q=onetwo": "v1",
        "/?r=12a": "v1",
        "/?r=": "v1",
        "/": "v1",
    }
    assert {path: lab.version(path) for path in expected} == expected


@check("R8", "a method matches that method alone", feature="VirtualService", mutants=("ignore-method",))
def test_method(lab: Lab) -> None:
    lab.apply(split("{method: {exact: POST}}"))
    lab.until(lambda: lab.version(method="POST") == "v2", "POST goes to v2")
    expected = {"POST": "v2", "GET": "v1", "PUT": "v1", "DELETE": "v1", "PATCH": "v1"}
    assert {method: lab.version(method=method) for method in expected} == expected


@check(
    "R12",
    "precedence: VirtualService by order; HTTPRoute exact, then longest prefix, method, headers, parameters",
    feature="VirtualService",
    mutants=("reverse-precedence",),
)
def test_virtual_service_takes_the_first_match(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{uri: {{prefix: /a}}}}]
  route: {to("v1")}
- match: [{{uri: {{exact: /a/b}}}}]
  route: {to("v2")}
- route: {to("v3")}
"""
        )
    )
    lab.until(lambda: lab.version("/z") == "v3", "the rest goes to v3")
    expected = {"/a": "v1", "/a/b": "v1", "/ab": "v1", "/b": "v3"}
    assert {path: lab.version(path) for path in expected} == expected


@check(
    "R12",
    "precedence: HTTPRoute exact, then longest prefix, method, headers, parameters",
    feature="HTTPRoute",
    mutants=("reverse-precedence",),
)
def test_http_route_takes_the_most_specific(lab: Lab) -> None:
    lab.apply(
        http_route(
            f"""
- matches: [{{path: {{type: PathPrefix, value: /a}}}}]
  backendRefs: {backend("v1")}
- matches: [{{path: {{type: PathPrefix, value: /a/b}}}}]
  backendRefs: {backend("v2")}
- matches: [{{path: {{type: Exact, value: /a/b/c}}}}]
  backendRefs: {backend("v3")}
- matches: [{{path: {{type: PathPrefix, value: /m}}, headers: [{{name: x-one, value: a}}]}}]
  backendRefs: {backend("v2")}
- matches: [{{path: {{type: PathPrefix, value: /m}}, method: GET}}]
  backendRefs: {backend("v1")}
- matches: [{{path: {{type: PathPrefix, value: /h}}, queryParams: [{{name: q, value: a}}]}}]
  backendRefs: {backend("v1")}
- matches: [{{path: {{type: PathPrefix, value: /h}}, headers: [{{name: x-one, value: a}}]}}]
  backendRefs: {backend("v3")}
- matches: [{{path: {{type: PathPrefix, value: /h}}}}]
  backendRefs: {backend("v2")}
"""
        )
    )
    lab.until(lambda: lab.version("/a/b/c") == "v3", "the exact path goes to v3")
    expected = {"/a": "v1", "/a/x": "v1", "/a/b": "v2", "/a/b/x": "v2", "/a/b/c": "v3", "/a/b/c/d": "v2"}
    assert {path: lab.version(path) for path in expected} == expected
    one = [("x-one", "a")]
    assert lab.version("/m", headers=one) == "v1", "a method outranks headers"
    assert lab.version("/m", headers=one, method="POST") == "v2"
    assert lab.version("/h?q=a", headers=one) == "v3", "headers outrank query parameters"
    assert lab.version("/h?q=a") == "v1"
    assert lab.version("/h") == "v2"


@check(
    "R13",
    "what no rule matches gets 404, never the parent service",
    feature="VirtualService",
    mutants=("fall-back-to-service",),
)
def test_no_match_is_404(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{uri: {{exact: /only}}}}]
  route: {to("v1")}
"""
        )
    )
    lab.until(lambda: lab.status("/other") == 404, "an unmatched path gets 404")
    assert lab.version("/only") == "v1"
    assert [lab.status(path) for path in ("/other", "/", "/only/")] == [404, 404, 404]


@check(
    "R13",
    "what no rule of an HTTPRoute matches gets 404, never the parent service",
    feature="HTTPRoute",
    mutants=("fall-back-to-service",),
)
def test_no_match_is_404_for_http_route(lab: Lab) -> None:
    lab.apply(
        http_route(
            f"""
- matches: [{{path: {{type: Exact, value: /only}}}}]
  backendRefs: {backend("v1")}
"""
        )
    )
    lab.until(lambda: lab.status("/other") == 404, "an unmatched path gets 404")
    assert lab.version("/only") == "v1"
    assert [lab.status(path) for path in ("/other", "/", "/only/")] == [404, 404, 404]
