"""VirtualService: Istio's rules for hosts, matches, destinations, redirects, rewrites, faults, retries and mirrors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from manifests.load import FieldPath
from manifests.metadata import guess_for
from mesh.config.checks import values
from mesh.config.checks.findings import Findings
from mesh.config.snapshot import Config
from mesh.config.types import VirtualService
from mesh.config.types import istio_networking as istio

MESH_GATEWAY = "mesh"
MAX_DIRECT_BODY = 4096
"""Bytes; Envoy's `max_direct_response_body_size_bytes`."""

RETRY_CONDITIONS = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)
"""Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`; status codes may be given too."""

GRPC_STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def check(config: Config[VirtualService], findings: Findings) -> None:
    spec = config.spec
    _hosts(spec, findings)
    values.check_export_to(findings, ("spec", "exportTo"), spec.export_to)
    for index, gateway in enumerate(spec.gateways):
        if not gateway:
            findings.error(("spec", "gateways", index), "is empty", expected='"mesh" or the name of a Gateway')
    if not spec.http and not spec.tls and not spec.tcp:
        findings.error(("spec",), "routes nothing", expected="at least one of http, tls, tcp")
    for index, route in enumerate(spec.http):
        _http_route(findings, ("spec", "http", index), route)
    _unreachable(findings, spec.http)
    for index, tcp in enumerate(spec.tcp):
        path: FieldPath = ("spec", "tcp", index)
        _destinations(findings, (*path, "route"), tcp.route)
        for number, match in enumerate(tcp.match):
            _source(findings, (*path, "match", number), match.source_labels)


def _hosts(spec: VirtualService, findings: Findings) -> None:
    if not spec.hosts:
        findings.error(("spec", "hosts"), "is empty", expected="at least one host")
    for index, host in enumerate(spec.hosts):
        path: FieldPath = ("spec", "hosts", index)
        values.check_host(findings, path, host, address=True)
        if host in spec.hosts[:index]:
            findings.error(path, "is listed twice", value=host)
        if host == "*" and (not spec.gateways or MESH_GATEWAY in spec.gateways):
            findings.error(path, "would claim every host of the mesh", value="*", expected="a host, or *.<domain>")


def _http_route(findings: Findings, path: FieldPath, route: istio.HTTPRoute) -> None:
    actions = [
        name
        for name, given in (
            ("route", bool(route.route)),
            ("redirect", route.redirect is not None),
            ("directResponse", route.direct_response is not None),
            ("delegate", route.delegate is not None),
        )
        if given
    ]
    if not actions:
        findings.error(path, "does nothing", expected="one of route, redirect, directResponse")
    for action in actions[1:]:
        findings.error((*path, action), f"is given beside {actions[0]}", expected=f"only one of {', '.join(actions)}")
    if route.rewrite is not None and route.redirect is not None:
        findings.error((*path, "rewrite"), "is given beside redirect", expected="redirect.uri and redirect.authority")
    if not route.route:
        for name, given in (
            ("mirror", route.mirror),
            ("mirrors", route.mirrors or None),
            ("timeout", route.timeout),
            ("retries", route.retries),
        ):
            if given is not None:
                findings.error((*path, name), "means nothing without route")
        if route.rewrite is not None and route.redirect is None:
            findings.error((*path, "rewrite"), "means nothing without route")
    for index, match in enumerate(route.match):
        _http_match(findings, (*path, "match", index), match)
    _destinations(findings, (*path, "route"), route.route, required=False)
    for index, destination in enumerate(route.route):
        values.check_headers(findings, (*path, "route", index, "headers"), destination.headers)
    values.check_headers(findings, (*path, "headers"), route.headers)
    values.check_duration(findings, (*path, "timeout"), route.timeout, zero="no timeout")
    _redirect(findings, (*path, "redirect"), route.redirect)
    _direct_response(findings, (*path, "directResponse"), route.direct_response)
    _rewrite(findings, (*path, "rewrite"), route.rewrite)
    _fault(findings, (*path, "fault"), route.fault)
    _retries(findings, (*path, "retries"), route.retries, route.timeout)
    _mirrors(findings, path, route)


def _http_match(findings: Findings, path: FieldPath, match: istio.HTTPMatchRequest) -> None:
    if _without_names(match) == _without_names(istio.HTTPMatchRequest()):
        findings.error(path, "says nothing", expected="at least one condition, or no match at all for every request")
    for name in ("uri", "scheme", "method", "authority"):
        value: istio.StringMatch | None = getattr(match, name)
        if value is not None:
            values.check_string_match(findings, (*path, name), value)
    if match.uri is not None:
        for kind in ("exact", "prefix"):
            text = getattr(match.uri, kind)
            if text and not text.startswith("/"):
                findings.error((*path, "uri", kind), "can match no path", value=text, expected='a path, beginning "/"')
        if match.uri.regex is not None and match.ignore_uri_case:
            findings.error((*path, "ignoreUriCase"), "has no effect on a regex", expected="(?i) in the regex")
    elif match.ignore_uri_case:
        findings.error((*path, "ignoreUriCase"), "means nothing without uri")
    for name, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for header, value in headers.items():
            where: FieldPath = (*path, name, header)
            if header in values.HEADER_FIELDS:
                findings.error(where, "is no header", value=header, expected=f"the field {header} of the match")
            else:
                values.check_header_name(findings, where, header)
            values.check_string_match(findings, where, value, presence=True)
    for parameter, value in match.query_params.items():
        where = (*path, "queryParams", parameter)
        if not parameter:
            findings.error(where, "is an empty parameter name")
        if value.prefix is not None:
            findings.error((*where, "prefix"), "is not possible for a query parameter", expected="exact or regex")
        values.check_string_match(findings, where, value, presence=True)
    _source(findings, path, match.source_labels)


def _source(findings: Findings, path: FieldPath, labels: dict[str, str]) -> None:
    values.check_labels(findings, (*path, "sourceLabels"), labels)


def _destinations(
    findings: Findings,
    path: FieldPath,
    destinations: Sequence[istio.HTTPRouteDestination | istio.RouteDestination],
    *,
    required: bool = True,
) -> None:
    if required and not destinations:
        findings.error(path, "is empty", expected="at least one destination")
    for index, entry in enumerate(destinations):
        _destination(findings, (*path, index, "destination"), entry.destination)
    if len(destinations) < 2:
        return
    total = sum(entry.weight or 0 for entry in destinations)
    if total == 0:
        findings.error(path, "has destinations whose weights add up to 0, so nobody gets a request", expected="weights")
    elif total > 2**32 - 1:
        findings.error(path, "has weights that add up to too much", value=total, expected="at most 4294967295")
    for index, entry in enumerate(destinations):
        if entry.weight is None and total:
            findings.warn((*path, index), "has no weight, which counts as 0: it gets no request")


def _destination(findings: Findings, path: FieldPath, destination: istio.Destination) -> None:
    values.check_host(findings, (*path, "host"), destination.host, wildcard=False, address=True)


def _redirect(findings: Findings, path: FieldPath, redirect: istio.HTTPRedirect | None) -> None:
    if redirect is None:
        return
    if redirect == istio.HTTPRedirect():
        findings.error(path, "says nothing", expected="at least one of uri, authority, scheme, port, redirectCode")
    if redirect.port is not None and redirect.derive_port is not None:
        findings.error((*path, "derivePort"), "is given beside port", expected="one of the two")
    if redirect.scheme not in ("", "http", "https"):
        findings.error((*path, "scheme"), "is not a scheme", value=redirect.scheme, expected="http or https")
    if redirect.uri and not redirect.uri.startswith("/") and redirect.uri != "%PREFIX()%":
        findings.error((*path, "uri"), "is not a path", value=redirect.uri, expected='a path, beginning "/"')
    if redirect.uri == "%PREFIX()%":
        findings.error((*path, "uri"), "is not supported by this mesh yet", value=redirect.uri)
    if redirect.authority and not values.is_authority(redirect.authority):
        findings.error((*path, "authority"), "is not a host", value=redirect.authority, expected="host or host:port")


def _direct_response(findings: Findings, path: FieldPath, response: istio.HTTPDirectResponse | None) -> None:
    if response is None or response.body is None:
        return
    if response.body.string is None and response.body.bytes is None:
        findings.error((*path, "body"), "says nothing", expected="string")
    size = len((response.body.string or "").encode())
    if size > MAX_DIRECT_BODY:
        findings.error((*path, "body", "string"), f"has {size} bytes", expected=f"at most {MAX_DIRECT_BODY}")


def _rewrite(findings: Findings, path: FieldPath, rewrite: istio.HTTPRewrite | None) -> None:
    if rewrite is None:
        return
    if not (rewrite.uri or rewrite.authority or rewrite.uri_regex_rewrite):
        findings.error(path, "says nothing", expected="uri or authority")
    if rewrite.uri and not rewrite.uri.startswith("/"):
        findings.error((*path, "uri"), "is not a path", value=rewrite.uri, expected='a path, beginning "/"')
    if rewrite.authority and not values.is_authority(rewrite.authority):
        findings.error((*path, "authority"), "is not a host", value=rewrite.authority, expected="host or host:port")


def _fault(findings: Findings, path: FieldPath, fault: istio.HTTPFaultInjection | None) -> None:
    if fault is None:
        return
    if fault.delay is None and fault.abort is None:
        findings.error(path, "says nothing", expected="delay or abort")
    if fault.delay is not None:
        values.check_duration(findings, (*path, "delay", "fixedDelay"), fault.delay.fixed_delay)
    if fault.abort is not None:
        given = [n for n in ("http_status", "grpc_status") if getattr(fault.abort, n) is not None]
        if len(given) != 1:
            message = "has no status" if not given else "has two statuses"
            findings.error((*path, "abort"), message, expected="exactly one of httpStatus, grpcStatus")
        status = fault.abort.grpc_status
        if status is not None and not _is_grpc_status(status):
            findings.error(
                (*path, "abort", "grpcStatus"),
                "is not a gRPC status",
                value=status or '""',
                expected='such as "UNAVAILABLE" or "14"',
            )


def _is_grpc_status(text: str) -> bool:
    text = text.strip()
    if text.isascii() and text.isdigit():
        return len(text) <= 2 and int(text) < len(GRPC_STATUSES)
    return text.upper() in GRPC_STATUSES


def _retries(findings: Findings, path: FieldPath, retries: istio.HTTPRetry | None, timeout: float | None) -> None:
    if retries is None:
        return
    if retries.attempts == 0 and (retries.per_try_timeout is not None or retries.retry_on):
        findings.error(
            path, "configures retries that attempts: 0 switches off", expected="attempts above 0, or only it"
        )
    values.check_duration(findings, (*path, "perTryTimeout"), retries.per_try_timeout, zero="the route's timeout")
    if timeout and retries.per_try_timeout and retries.per_try_timeout > timeout:
        findings.warn(
            (*path, "perTryTimeout"),
            "is longer than the timeout of the route, so it never ends a try",
            value=str(retries.per_try_timeout),
        )
    for condition in retries.retry_on.split(",") if retries.retry_on else ():
        condition = condition.strip()
        status = condition.isascii() and condition.isdigit() and 100 <= int(condition[:9]) <= 599
        if not status and condition not in RETRY_CONDITIONS:
            findings.error(
                (*path, "retryOn"),
                f'contains "{condition}", which is no retry condition{_guess(condition, RETRY_CONDITIONS)}',
                value=retries.retry_on,
                expected='conditions of Envoy or status codes, such as "5xx,reset,503"',
            )


def _guess(text: str, known: Iterable[str]) -> str:
    guess = guess_for(text, sorted(known))
    return f'; did you mean "{guess}"?' if guess else ""


def _mirrors(findings: Findings, path: FieldPath, route: istio.HTTPRoute) -> None:
    if route.mirror is not None and route.mirrors:
        findings.error((*path, "mirror"), "is given beside mirrors", expected="one of the two")
    if route.mirror is None and route.mirror_percentage is not None:
        findings.error((*path, "mirrorPercentage"), "means nothing without mirror")
    if route.mirror is not None:
        _destination(findings, (*path, "mirror"), route.mirror)
    for index, mirror in enumerate(route.mirrors):
        _destination(findings, (*path, "mirrors", index, "destination"), mirror.destination)


def _unreachable(findings: Findings, routes: Sequence[istio.HTTPRoute]) -> None:
    """Rules are tried in order, so one behind a rule that takes everything is never tried."""
    seen: dict[str, int] = {}
    catch_all: int | None = None
    for index, route in enumerate(routes):
        path: FieldPath = ("spec", "http", index)
        if catch_all is not None:
            findings.warn(path, f"is never reached: http[{catch_all}] takes every request")
            continue
        if not route.match or any(_takes_everything(match) for match in route.match):
            catch_all = index
        for number, match in enumerate(route.match):
            bare = _without_names(match)
            first = seen.setdefault(bare, index)
            if first != index:
                findings.warn((*path, "match", number), f"is never reached: http[{first}] has the same match")


def _takes_everything(match: istio.HTTPMatchRequest) -> bool:
    bare = _without_names(match)
    return bare in (
        _without_names(istio.HTTPMatchRequest(uri=istio.StringMatch(prefix="/"))),
        _without_names(istio.HTTPMatchRequest(uri=istio.StringMatch(prefix="/"), ignore_uri_case=True)),
    )


def _without_names(match: istio.HTTPMatchRequest) -> str:
    """The conditions alone, comparable."""
    bare = msgspec.structs.replace(match, name="", stat_prefix="")
    return msgspec.json.encode(bare, order="deterministic").decode()
