"""Gateway API `gateway.networking.k8s.io/v1`: HTTPRoute, attached to Services (GAMMA).

Names, defaults and limits are those of the CRD.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from manifests.kube import Kube, Port
from manifests.scalars import GatewayDuration

Name = Annotated[str, Meta(min_length=1, max_length=253)]
Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]


class ParentReference(Kube, frozen=True, kw_only=True):
    name: Name
    group: str = "gateway.networking.k8s.io"
    """Empty for a Service."""
    kind: str = "Gateway"
    namespace: str = ""
    section_name: str = ""
    port: Port | None = None


class HTTPPathMatch(Kube, frozen=True, kw_only=True):
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: Annotated[str, Meta(max_length=1024)] = "/"


class HTTPHeaderMatch(Kube, frozen=True, kw_only=True):
    name: Name
    value: Annotated[str, Meta(min_length=1, max_length=4096)]
    type: Literal["Exact", "RegularExpression"] = "Exact"


class HTTPQueryParamMatch(Kube, frozen=True, kw_only=True):
    name: Name
    value: Annotated[str, Meta(min_length=1, max_length=1024)]
    type: Literal["Exact", "RegularExpression"] = "Exact"


class HTTPRouteMatch(Kube, frozen=True, kw_only=True):
    path: HTTPPathMatch = HTTPPathMatch()
    headers: tuple[HTTPHeaderMatch, ...] = ()
    query_params: tuple[HTTPQueryParamMatch, ...] = ()
    method: Method | None = None


class HTTPHeader(Kube, frozen=True, kw_only=True):
    name: Name
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class HTTPHeaderFilter(Kube, frozen=True, kw_only=True):
    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[str, ...] = ()


class HTTPPathModifier(Kube, frozen=True, kw_only=True):
    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: Annotated[str, Meta(max_length=1024)] | None = None
    replace_prefix_match: Annotated[str, Meta(max_length=1024)] | None = None


class HTTPRequestRedirectFilter(Kube, frozen=True, kw_only=True):
    scheme: Literal["http", "https"] | None = None
    hostname: str = ""
    path: HTTPPathModifier | None = None
    port: Port | None = None
    status_code: Literal[301, 302, 303, 307, 308] = 302


class HTTPURLRewriteFilter(Kube, frozen=True, kw_only=True):
    hostname: str = ""
    path: HTTPPathModifier | None = None


class BackendObjectReference(Kube, frozen=True, kw_only=True):
    name: Name
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: Port | None = None


class Fraction(Kube, frozen=True, kw_only=True):
    numerator: Annotated[int, Meta(ge=0)]
    denominator: Annotated[int, Meta(ge=1)] = 100


class HTTPRequestMirrorFilter(Kube, frozen=True, kw_only=True):
    backend_ref: BackendObjectReference
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    fraction: Fraction | None = None


class HTTPRouteFilter(Kube, frozen=True, kw_only=True):
    """The field named by `type`, and no other, is set."""

    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite"]
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    request_redirect: HTTPRequestRedirectFilter | None = None
    url_rewrite: HTTPURLRewriteFilter | None = None


class HTTPBackendRef(Kube, frozen=True, kw_only=True):
    name: Name
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: Port | None = None
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    filters: tuple[HTTPRouteFilter, ...] = ()


class HTTPRouteTimeouts(Kube, frozen=True, kw_only=True):
    """Zero is "no timeout"."""

    request: GatewayDuration | None = None
    backend_request: GatewayDuration | None = None


class HTTPRouteRule(Kube, frozen=True, kw_only=True):
    name: str = ""
    matches: tuple[HTTPRouteMatch, ...] = (HTTPRouteMatch(),)
    filters: tuple[HTTPRouteFilter, ...] = ()
    backend_refs: tuple[HTTPBackendRef, ...] = ()
    timeouts: HTTPRouteTimeouts | None = None


class HTTPRoute(Kube, frozen=True, kw_only=True):
    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRouteRule, ...] = (HTTPRouteRule(),)
