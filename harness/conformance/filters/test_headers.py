"""Headers and rewrites: judged by what the backend saw and what the client got, exactly."""

from __future__ import annotations

from harness.conformance.checks import check
from harness.conformance.lab import Lab
from harness.conformance.routing.manifests import backend, http_route, to, virtual_service
from harness.workloads.echo.protocol import Echo


def _seen(lab: Lab, path: str = "/", **how: object) -> Echo:
    """What the backend saw of one call."""
    result = lab.get(path, **how)
    assert result.echo is not None, (
        f"no backend answered {path}: status {result.status}, {result.error} {result.detail}"
    )
    return result.echo


@check(
    "F1",
    "request headers are set, added and removed",
    feature="VirtualService",
    mutants=("drop-request-headers-to-add", "drop-request-headers-to-remove"),
)
def test_request_headers(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- headers:
    request:
      set: {{x-set: new, x-fresh: made}}
      add: {{x-add: more}}
      remove: [x-remove]
  route: {to("v1")}
"""
        )
    )
    lab.until(lambda: _seen(lab).all("x-fresh") == ["made"], "a header is set")
    sent = [("x-set", "old"), ("x-add", "first"), ("x-remove", "secret"), ("X-Keep", "kept")]
    seen = _seen(lab, headers=sent)
    assert seen.all("x-set") == ["new"], "set replaces"
    assert ",".join(seen.all("x-add")).replace(" ", "") == "first,more", "add appends"
    assert seen.all("x-remove") == []
    assert seen.all("x-keep") == ["kept"], "others are untouched"


@check(
    "F2",
    "response headers are set, added and removed",
    feature="VirtualService",
    mutants=("drop-response-headers-to-add", "drop-response-headers-to-remove"),
)
def test_response_headers(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- headers:
    response:
      set: {{x-set: new, x-fresh: made}}
      add: {{x-add: more}}
      remove: [x-remove]
  route: {to("v1")}
"""
        )
    )
    lab.until(lambda: lab.get().all("x-fresh") == ["made"], "a response header is set")
    told = [
        ("x-echo-header", f"{name}: {value}")
        for name, value in (("x-set", "old"), ("x-add", "first"), ("x-remove", "secret"), ("x-keep", "kept"))
    ]
    got = lab.get(headers=told)
    assert got.all("x-set") == ["new"]
    assert ",".join(got.all("x-add")).replace(" ", "") == "first,more"
    assert got.all("x-remove") == []
    assert got.all("x-keep") == ["kept"]


@check("F4", "the backend sees the rewritten authority", feature="VirtualService", mutants=("drop-host-rewrite",))
def test_authority_rewrite(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{uri: {{prefix: /rewritten}}}}]
  rewrite: {{authority: elsewhere.example}}
  route: {to("v1")}
- route: {to("v1")}
"""
        )
    )
    lab.until(lambda: _seen(lab, "/rewritten").header("host") == "elsewhere.example", "the authority is rewritten")
    assert _seen(lab, "/rewritten/x").header("host") == "elsewhere.example"
    assert _seen(lab, "/plain").header("host") != "elsewhere.example"


@check(
    "F5",
    "the backend sees exactly the rewritten path: prefix, whole, stripped",
    feature="VirtualService",
    mutants=("drop-path-rewrite",),
)
def test_path_rewrite(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{uri: {{prefix: /old/}}}}]
  rewrite: {{uri: /new/}}
  route: {to("v1")}
- match: [{{uri: {{exact: /one}}}}]
  rewrite: {{uri: /other}}
  route: {to("v1")}
- match: [{{uri: {{prefix: /strip/}}}}]
  rewrite: {{uri: /}}
  route: {to("v1")}
- route: {to("v1")}
"""
        )
    )
    lab.until(lambda: _seen(lab, "/one").path == "/other", "an exact path is rewritten")
    expected = {
        "/old/x": "/new/x",
        "/old/x/y?q=1&r=%2f": "/new/x/y?q=1&r=%2f",
        "/one?q=1": "/other?q=1",
        "/strip/x": "/x",
        "/strip/": "/",
        "/untouched/a%20b?c=d": "/untouched/a%20b?c=d",
    }
    assert {path: _seen(lab, path).path for path in expected} == expected


@check(
    "F5",
    "HTTPRoute rewrites: ReplacePrefixMatch, also to /, and ReplaceFullPath",
    feature="HTTPRoute",
    mutants=("drop-path-rewrite",),
)
def test_path_rewrite_http_route(lab: Lab) -> None:
    def rule(prefix: str, kind: str, field: str, value: str) -> str:
        return f"""
- matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]
  filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: {kind}, {field}: {value}}}}}}}]
  backendRefs: {backend("v1")}
"""

    lab.apply(
        http_route(
            rule("/prefix/one", "ReplacePrefixMatch", "replacePrefixMatch", "/one")
            + rule("/strip", "ReplacePrefixMatch", "replacePrefixMatch", "/")
            + rule("/full", "ReplaceFullPath", "replaceFullPath", "/whole")
        )
    )
    lab.until(lambda: _seen(lab, "/prefix/one").path == "/one", "a prefix is replaced")
    expected = {
        "/prefix/one/two": "/one/two",
        "/prefix/one?q=1": "/one?q=1",
        "/strip": "/",
        "/strip/": "/",
        "/strip/x": "/x",
        "/strip/x?q=1": "/x?q=1",
        "/full": "/whole",
        "/full/x?q=1": "/whole?q=1",
    }
    assert {path: _seen(lab, path).path for path in expected} == expected


@check("F6", "a redirect answers with the code asked for", feature="VirtualService", mutants=("redirect-always-301",))
def test_redirect_codes(lab: Lab) -> None:
    codes = (301, 302, 303, 307, 308)
    lab.apply(
        virtual_service(
            "".join(
                f"""
- match: [{{uri: {{exact: /{code}}}}}]
  redirect: {{uri: /there, redirectCode: {code}}}
"""
                for code in codes
            )
            + f"\n- route: {to('v1')}\n"
        )
    )
    lab.until(lambda: lab.status("/302") == 302, "a redirect")
    assert [lab.status(f"/{code}") for code in codes] == list(codes)


@check(
    "F7",
    "a redirect's Location is exact: scheme, host, port, path",
    feature="HTTPRoute",
    mutants=("drop-redirect-location",),
)
def test_redirect_location(lab: Lab) -> None:
    def rule(path: str, redirect: str) -> str:
        return f"""
- matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
  filters: [{{type: RequestRedirect, requestRedirect: {redirect}}}]
"""

    lab.apply(
        http_route(
            rule("/host", "{hostname: example.org, statusCode: 302}")
            + rule("/https", "{scheme: https, hostname: example.org, statusCode: 302}")
            + rule("/port", "{hostname: example.org, port: 8443, statusCode: 302}")
            + rule("/default-port", "{scheme: http, hostname: example.org, port: 80, statusCode: 302}")
            + rule(
                "/whole",
                "{hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 302}",
            )
            + rule(
                "/old",
                "{hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 302}",
            )
        )
    )
    lab.until(lambda: lab.status("/host") == 302, "a redirect")
    # Gateway API, HTTPRequestRedirectFilter.port: with a scheme, its well-known port, which Location leaves out; with
    # neither port nor scheme, the listener's port.
    expected = {
        "/host/x?q=1": "http://example.org:8080/host/x?q=1",
        "/https/x": "https://example.org/https/x",
        "/port/x": "http://example.org:8443/port/x",
        "/default-port": "http://example.org/default-port",
        "/whole/x": "http://example.org:8080/new",
        "/old/x": "http://example.org:8080/new/x",
    }
    assert {path: lab.get(path).header("location") for path in expected} == expected


@check(
    "F7", "a VirtualService redirect's Location is exact", feature="VirtualService", mutants=("drop-redirect-location",)
)
def test_redirect_location_virtual_service(lab: Lab) -> None:
    lab.apply(
        virtual_service(
            f"""
- match: [{{uri: {{exact: /a}}}}]
  redirect: {{uri: /b, authority: example.org}}
- match: [{{uri: {{exact: /c}}}}]
  redirect: {{uri: /d, authority: example.org, scheme: https, port: 8443}}
- route: {to("v1")}
"""
        )
    )
    lab.until(lambda: lab.status("/a") == 301, "a redirect")
    expected = {"/a": "http://example.org/b", "/c": "https://example.org:8443/d"}
    assert {path: lab.get(path).header("location") for path in expected} == expected
