"""What became of every object: accepted and in force, or refused and why. Pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from manifests import Document, ManifestError
from mesh.config.snapshot import Config, ConfigSnapshot
from mesh.config.validate import Validation


class ObjectStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`accepted`: the object as written is in force. When not, `reason` is one of

    * `Invalid`: it has the `errors`; what was in force before (if anything) still is
    * `Held`: nothing is wrong with it, but another object of the folder is invalid, and a set is taken whole
    """

    accepted: bool
    reason: str
    errors: tuple[ManifestError, ...] = ()
    warnings: tuple[ManifestError, ...] = ()
    observed_generation: int = 0
    """Generation that is in force; 0 for none."""


class ConfigStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`objects` by `Kind/namespace/name`. `errors` are all there are, also those of files that hold no object."""

    objects: Mapping[str, ObjectStatus]
    errors: tuple[ManifestError, ...] = ()
    warnings: tuple[ManifestError, ...] = ()
    digest: str = ""
    """Of the snapshot in force."""

    @property
    def ok(self) -> bool:
        return not self.errors


def status_of(
    validation: Validation, in_force: ConfigSnapshot, other_errors: Iterable[ManifestError] = ()
) -> ConfigStatus:
    """The status when `validation` was the judgement of the folder and `in_force` is what the mesh runs now."""
    errors = tuple(sorted({*validation.errors, *other_errors}))
    objects: dict[str, ObjectStatus] = {}
    for entry in validation.entries:
        own = tuple(error for error in validation.errors if _concerns(error, entry.document))
        current = in_force.by_ref.get(entry.ref)
        runs = not own and current is not None and entry.config is not None and _same(current, entry.config)
        objects[entry.ref] = ObjectStatus(
            accepted=runs,
            reason="Accepted" if runs else ("Invalid" if own else "Held"),
            errors=own,
            warnings=tuple(warning for warning in validation.warnings if _concerns(warning, entry.document)),
            observed_generation=current.meta.generation if current else 0,
        )
    return ConfigStatus(objects=objects, errors=errors, warnings=validation.warnings, digest=in_force.digest)


def _same(one: Config[Any], other: Config[Any]) -> bool:
    return (
        one.spec == other.spec
        and one.meta.labels == other.meta.labels
        and one.meta.annotations == other.meta.annotations
    )


def _concerns(finding: ManifestError, document: Document) -> bool:
    """Whether the finding lies in the lines of `document`, which is not the only one of its file."""
    last = max(document.lines.values(), default=document.line)
    return finding.file == document.file and document.line <= finding.line <= last
