"""Judging mesh configuration: every object by itself, then all of them together. Pure; every mistake at once.

`inspect` looks at one object and depends on nothing else, so its result is kept as long as the object is unchanged.
`validate_set` looks at what objects mean to each other: references, duplicates, conflicts. An error refuses the whole
set; a warning is something that is legal and probably not meant.

A reference to a *Service* depends on the cluster, which changes without asking us: it is an error only for objects
that are being changed (`strict`), a warning for the rest, so that a Service that is deleted never makes configuration
that ran yesterday invalid today.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from manifests import Document, InvalidManifests, ManifestError
from mesh.config.checks import check_object, check_set
from mesh.config.checks.findings import Findings, Known
from mesh.config.decode import decode_partly, key_of
from mesh.config.snapshot import Config
from mesh.registry.types import Registry


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One object, decoded as far as it could be, and what is wrong with it by itself."""

    document: Document
    ref: str
    """`Kind/namespace/name`"""
    config: Config[Any] | None
    """None when it could not be decoded."""
    errors: tuple[ManifestError, ...] = ()
    warnings: tuple[ManifestError, ...] = ()


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    entries: tuple[Entry, ...]
    errors: tuple[ManifestError, ...]
    warnings: tuple[ManifestError, ...]

    def raise_errors(self) -> None:
        """Raise `InvalidManifests` when there is an error."""
        if self.errors:
            raise InvalidManifests(self.errors)


def inspect(document: Document) -> Entry:
    """One object by itself."""
    ref = key_of(document)
    config, errors = decode_partly(document)
    if config is None:
        return Entry(document=document, ref=ref, config=None, errors=tuple(errors))
    findings = Findings(document)
    check_object(config, findings)
    # What was left out must not be complained about a second time.
    left_out = [error.field for error in errors]
    further = [error for error in findings.errors if not _touches(error.field, left_out)]
    return Entry(
        document=document,
        ref=ref,
        config=config if not errors else None,
        errors=(*errors, *further),
        warnings=tuple(warning for warning in findings.warnings if not _touches(warning.field, left_out)),
    )


def _touches(field: str, others: Iterable[str]) -> bool:
    """Whether `field` is one of `others`, lies in one, or holds one."""
    return any(field.startswith(other) or other.startswith(field) for other in others)


def validate_set(
    entries: Iterable[Entry],
    *,
    hosts: Mapping[str, frozenset[int]] | None = None,
    strict: Collection[str] | None = None,
    complete: bool = True,
) -> Validation:
    """All of `entries` together.

    `hosts` are the Services of the cluster, name to ports; None when nobody knows, and then references to them are not
    judged. `strict` are the objects (`Kind/namespace/name`) for which a reference to an unknown Service is an error
    rather than a warning; None means all. Unless the set is `complete`, a missing DestinationRule or Gateway is a
    warning too: it may just not have been given.
    """
    entries = tuple(entries)
    errors = [error for entry in entries for error in entry.errors]
    warnings = [warning for entry in entries for warning in entry.warnings]
    decoded = [(entry.config, entry.document) for entry in entries if entry.config is not None]
    # What could not be decoded may be just what the others refer to.
    complete = complete and len(decoded) == len(entries)
    known = Known(hosts=hosts, strict=None if strict is None else frozenset(strict), complete=complete)
    findings = check_set(decoded, known)
    return Validation(
        entries=entries,
        errors=tuple(sorted({*errors, *findings.errors})),
        warnings=tuple(sorted({*warnings, *findings.warnings})),
    )


def validate(
    documents: Iterable[Document],
    *,
    hosts: Mapping[str, frozenset[int]] | None = None,
    strict: Collection[str] | None = None,
    complete: bool = True,
) -> Validation:
    """`inspect` each, then `validate_set`."""
    entries = (inspect(document) for document in documents)
    return validate_set(entries, hosts=hosts, strict=strict, complete=complete)


def known_hosts(registry: Registry) -> dict[str, frozenset[int]]:
    """The `hosts` of `validate_set`: the cluster's own Services. What a ServiceEntry declares is not among them: it
    comes and goes with the very set that is judged."""
    return {
        name: frozenset(port.number for port in service.ports)
        for name, service in registry.services.items()
        if service.resolution == "endpoints"
    }
