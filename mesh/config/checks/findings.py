"""Where checks put what they find, and what they may know of the world around an object."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from manifests import Document, ManifestError
from manifests.load import FieldPath


class Findings:
    """Errors and warnings of one document; paths are given from the object's root."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.errors: list[ManifestError] = []
        self.warnings: list[ManifestError] = []

    def error(self, path: FieldPath, message: str, *, value: object = "", expected: str = "") -> None:
        self.errors.append(self.document.error(path, message, value=value, expected=expected))

    def warn(self, path: FieldPath, message: str, *, value: object = "", expected: str = "") -> None:
        self.warnings.append(self.document.error(path, message, value=value, expected=expected))

    def wrote(self, path: FieldPath) -> bool:
        """Whether the field is in the manifest, whatever its value: what tells empty from absent."""
        return path in self.document.lines


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known besides the objects themselves."""

    hosts: Mapping[str, frozenset[int]] | None = None
    """Services of the cluster, name to ports; None when nobody knows."""
    strict: frozenset[str] | None = None
    """Objects whose references to unknown Services are errors; None means all."""
    complete: bool = True
    """The objects are all there are; if not, one that is missing may just not have been given."""
    domain: str = "cluster.local"

    def is_strict(self, ref: str) -> bool:
        return self.strict is None or ref in self.strict
