"""What objects mean to each other: duplicates, conflicts, and references that lead nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from manifests import Document, ManifestError
from mesh.config.checks.findings import Findings, Known
from mesh.config.snapshot import Config

Item = tuple[Config[Any], Findings]


class SetFindings:
    def __init__(self, items: Sequence[Item]) -> None:
        self.errors: list[ManifestError] = [error for _, findings in items for error in findings.errors]
        self.warnings: list[ManifestError] = [warning for _, findings in items for warning in findings.warnings]


def check_set(objects: Iterable[tuple[Config[Any], Document]], known: Known) -> SetFindings:
    """All objects together."""
    items: list[Item] = [(config, Findings(document)) for config, document in objects]
    _duplicates(items)
    return SetFindings(items)


def _duplicates(items: Sequence[Item]) -> None:
    first: dict[str, Config[Any]] = {}
    for config, findings in items:
        other = first.setdefault(config.ref, config)
        if other is not config:
            findings.error(
                ("metadata", "name"),
                f"is a second {config.kind} of this name in namespace {config.namespace}; the first is at "
                f"{other.meta.file}:{other.meta.line}",
                value=config.name,
                expected="one object per kind, namespace and name",
            )
