"""What Kubernetes demands of names and labels (DNS-1123, qualified names), and why an object is of no known kind.

Pure; every function returns the errors it found.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator

from manifests.errors import ManifestError
from manifests.load import Document, FieldPath

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

MAX_SUBDOMAIN = 253


def is_dns_label(text: str) -> bool:
    """RFC 1123 label: at most 63 of a-z, 0-9 and `-`."""
    return _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """RFC 1123 subdomain: labels joined by dots, at most 253 characters."""
    return len(text) <= MAX_SUBDOMAIN and _SUBDOMAIN.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    return (not slash or is_dns_subdomain(prefix)) and _QUALIFIED.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    return _LABEL_VALUE.fullmatch(text) is not None


def metadata_errors(
    document: Document, path: FieldPath = ("metadata",), *, named: bool = True
) -> Iterator[ManifestError]:
    """Names and labels of the ObjectMeta at `path`. `named` is false for a pod template, which needs no name."""
    metadata: object = document.data
    for part in path:
        metadata = metadata.get(part) if isinstance(metadata, dict) and isinstance(part, str) else None
    if not isinstance(metadata, dict):
        return
    name = metadata.get("name")
    if named and name in (None, ""):
        yield document.error((*path, "name"), "is missing", expected="the object's name")
    elif isinstance(name, str) and name and not is_dns_subdomain(name):
        yield document.error(
            (*path, "name"),
            "is not a valid name",
            value=name,
            expected='lower-case letters, digits, "-" and ".", at most 253, such as "reviews-v1"',
        )
    namespace = metadata.get("namespace")
    if isinstance(namespace, str) and namespace and not is_dns_label(namespace):
        yield document.error(
            (*path, "namespace"),
            "is not a valid namespace",
            value=namespace,
            expected='lower-case letters, digits and "-", at most 63',
        )
    labels = metadata.get("labels")
    if isinstance(labels, dict):
        yield from label_errors(document, (*path, "labels"), labels)
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict):
        for key in annotations:
            if isinstance(key, str) and not is_label_key(key):
                yield document.error((*path, "annotations", key), "is not a valid annotation key", value=key)


def label_errors(document: Document, path: FieldPath, labels: dict[str, object]) -> Iterator[ManifestError]:
    """Keys and values of the label map at `path`; a value that is not text is left to `decode`."""
    for key, value in labels.items():
        if not is_label_key(key):
            yield document.error(
                (*path, key), "is not a valid label key", value=key, expected='such as "app" or "example.com/app"'
            )
        if isinstance(value, str) and not is_label_value(value):
            yield document.error(
                (*path, key),
                "is not a valid label value",
                value=value,
                expected='at most 63 letters, digits, "-", "_" and ".", beginning and ending with a letter or digit',
            )


def kind_error(document: Document, known: Iterable[tuple[str, str]]) -> ManifestError:
    """Why `document` is of no `known` (apiVersion, kind)."""
    known = list(known)
    for field in ("apiVersion", "kind"):
        if not isinstance(document.data.get(field), str) or not document.data[field]:
            return document.error((field,), "is missing", expected="apiVersion and kind, both text")
    kind, api_version = document.kind, document.api_version
    versions = sorted({version for version, name in known if name == kind})
    if versions:
        return document.error(
            ("apiVersion",),
            f"is not an apiVersion of {kind} that is supported here",
            value=api_version,
            expected=" or ".join(versions),
        )
    kinds = sorted({name for _, name in known})
    guess = guess_for(kind, kinds)
    return document.error(
        ("kind",),
        "is not a kind that is supported here" + (f'; did you mean "{guess}"?' if guess else ""),
        value=kind,
        expected="one of " + ", ".join(kinds),
    )


def guess_for(text: str, known: Collection[str]) -> str:
    """The one of `known` that was probably meant by `text`; empty when none is close."""
    for candidate in known:
        if candidate.lower() == text.lower().replace("_", "").replace("-", ""):
            return candidate
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.7)
    return close[0] if close else ""
