"""The single values that several kinds share: host names, header names, regular expressions, addresses, durations.

Every function puts what is wrong into `findings` at `path`, and says nothing when all is well.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

import re2

from manifests.load import FieldPath
from manifests.metadata import is_dns_label, is_label_key, is_label_value
from mesh.config.checks.findings import Findings
from mesh.config.types.istio_networking import HeaderOperations, Headers, StringMatch

MAX_REGEX_LENGTH = 1024
"""Istio's limit."""
MAX_REGEX_PROGRAM = 32_768
"""RE2 instructions; Istio's `re2.max_program_size.error_level`."""

_HOST_LABEL = re.compile(r"[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\uffff]*")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")

HEADER_FIELDS = frozenset({"uri", "scheme", "method", "authority"})
"""Istio: these are fields of the match of their own; as header names they mean nothing."""

_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_host(text: str, *, wildcard: bool = True) -> bool:
    """A DNS name (a trailing dot is not allowed), or one whose first label is `*`."""
    if not text or len(text) > 253:
        return False
    if wildcard and text == "*":
        return True
    if wildcard and text.startswith("*."):
        text = text[2:]
    return all(_HOST_LABEL.fullmatch(label) for label in text.split("."))


def is_authority(text: str) -> bool:
    """A host with or without a port."""
    host, colon, port = text.partition(":")
    return (is_host(host, wildcard=False)) and (not colon or (port.isascii() and port.isdigit() and len(port) <= 5))


def check_host(findings: Findings, path: FieldPath, host: str, *, wildcard: bool = True, address: bool = False) -> None:
    if address and is_ip(host):
        return
    if is_host(host, wildcard=wildcard):
        return
    if "*" in host and not wildcard:
        message = "is a wildcard, which names no single host"
    elif "*" in host:
        message = "is not a valid wildcard: only a whole first label may be *"
    else:
        message = "is not a valid host name"
    expected = 'such as "reviews" or "reviews.bookinfo.svc.cluster.local"'
    findings.error(path, message, value=host or '""', expected=expected)


def check_regex(findings: Findings, path: FieldPath, pattern: str) -> None:
    """RE2, the engine of Envoy: no look-around, no back-references, and a bounded program."""
    if not pattern:
        findings.error(path, "is an empty regular expression", expected="an RE2 expression")
        return
    if len(pattern) > MAX_REGEX_LENGTH:
        findings.error(
            path, f"is a regular expression of {len(pattern)} characters", expected=f"at most {MAX_REGEX_LENGTH}"
        )
        return
    try:
        compiled: Any = re2.compile(pattern, _RE2_OPTIONS)
    except re2.error as exc:
        reason = exc.args[0].decode(errors="replace") if exc.args and isinstance(exc.args[0], bytes) else str(exc)
        hint = ""
        if "(?=" in pattern or "(?!" in pattern or "(?<" in pattern:
            hint = " without look-around, which RE2 does not have"
        findings.error(
            path, f"is not a valid regular expression: {reason}", value=pattern, expected=f"RE2 syntax{hint}"
        )
        return
    if compiled.programsize > MAX_REGEX_PROGRAM:
        findings.error(
            path,
            f"compiles to {compiled.programsize} instructions, which is too expensive",
            value=pattern,
            expected=f"at most {MAX_REGEX_PROGRAM}",
        )


def check_string_match(findings: Findings, path: FieldPath, match: StringMatch, *, presence: bool = False) -> None:
    """Exactly one of exact, prefix and regex; none only where `presence` is a meaning."""
    given = [name for name in ("exact", "prefix", "regex") if getattr(match, name) is not None]
    if len(given) > 1:
        findings.error((*path, given[1]), f"is given beside {given[0]}", expected="exactly one of exact, prefix, regex")
    if not given and not presence:
        findings.error(path, "says nothing", expected="exactly one of exact, prefix, regex")
    if match.regex is not None:
        check_regex(findings, (*path, "regex"), match.regex)
    if match.prefix == "":
        findings.error((*path, "prefix"), "is empty, so it would match everything", expected="at least one character")


def check_header_name(
    findings: Findings, path: FieldPath, name: str, *, write: bool = False, host: bool = False
) -> None:
    """`write`: the header is to be changed, so pseudo-headers and Host are not allowed; `host`: but Host is."""
    if not name:
        findings.error(path, "is an empty header name")
    elif host and name.lower() in ("host", ":authority"):
        return
    elif write and (name.startswith(":") or name.lower() == "host"):
        findings.error(path, "cannot be changed as a header", value=name, expected="rewrite.authority or rewrite.uri")
    elif not _TOKEN.fullmatch(name.removeprefix(":")):
        findings.error(path, "is not a valid header name", value=name, expected="letters, digits and !#$%&'*+-.^_`|~")


def check_header_value(findings: Findings, path: FieldPath, value: str) -> None:
    if not _HEADER_VALUE.fullmatch(value):
        findings.error(path, "is not a valid header value", value=repr(value), expected="no control characters")


def check_method(findings: Findings, path: FieldPath, method: str) -> None:
    if not _METHOD.fullmatch(method):
        findings.error(path, "is not an HTTP method", value=method or '""', expected='upper case, such as "GET"')


def check_headers(findings: Findings, path: FieldPath, headers: Headers | None) -> None:
    """Header changes of a route or of one of its destinations."""
    if headers is None:
        return
    for side in ("request", "response"):
        operations: HeaderOperations | None = getattr(headers, side)
        if operations is None:
            continue
        for name in ("set", "add"):
            for header, value in getattr(operations, name).items():
                host = side == "request" and name == "set"  # Istio takes it for a rewrite of the authority.
                check_header_name(findings, (*path, side, name, header), header, write=True, host=host)
                check_header_value(findings, (*path, side, name, header), value)
        for index, header in enumerate(operations.remove):
            check_header_name(findings, (*path, side, "remove", index), header, write=True)
        both = {h.lower() for h in operations.set} & {h.lower() for h in operations.remove}
        for header in sorted(both):
            findings.warn((*path, side), f"sets and removes {header}", expected="one of the two")


def check_cidr(findings: Findings, path: FieldPath, text: str) -> None:
    """An address or a prefix, as Istio's ipBlocks."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        findings.error(path, "is not an IP address or CIDR", value=text or '""', expected='such as "10.0.0.0/8"')
        return
    if "/" in text and str(network.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
        findings.warn(path, f"has host bits set; it means {network}", value=text)


def check_labels(findings: Findings, path: FieldPath, labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        if not is_label_key(key):
            findings.error((*path, key), "is not a valid label key", value=key or '""')
        if not is_label_value(value):
            findings.error((*path, key), "is not a valid label value", value=value)


def check_duration(
    findings: Findings, path: FieldPath, seconds: float | None, *, zero: str = "", least: float = 0.001
) -> None:
    """At least 1 ms, Istio's precision. `zero` says what 0 means where it is allowed."""
    if seconds is None or seconds >= least or (seconds == 0 and zero):
        return
    expected = f"at least {least:g}s" + (f", or 0s for {zero}" if zero else "")
    findings.error(path, "is too short", value=str(seconds), expected=expected)


def check_export_to(findings: Findings, path: FieldPath, export_to: Iterable[str]) -> None:
    targets = tuple(export_to)
    for index, target in enumerate(targets):
        if target not in ("*", ".", "~") and not is_dns_label(target):
            findings.error(
                (*path, index), "is not a namespace", value=target or '""', expected='".", "*", "~" or a namespace'
            )
        if target in targets[:index]:
            findings.error((*path, index), "is listed twice", value=target)
    if len(targets) > 1:
        for sole in ("*", "~"):
            if sole in targets:
                findings.error((*path, targets.index(sole)), "stands alone", value=sole, expected="no other entry")
