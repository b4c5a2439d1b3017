"""What is wrong with a manifest, in a shape a person and a program can both use."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

MAX_VALUE_SHOWN = 120
"""Characters of an offending value that are shown; a longer one is cut, so an error stays readable."""


class ManifestError(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One mistake in one field.

    `line` is 1-based; 0 means the file as a whole. `field` is a path such as `spec.http[0].route[1].weight`,
    empty for the document as a whole. `value` is the offending value as written, cut to a readable length.
    """

    file: str
    line: int
    field: str
    message: str
    value: str = ""
    expected: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        parts = [where]
        if self.field:
            parts.append(self.field)
        text = ": ".join(parts) + f": {self.message}"
        if self.value:
            text += f" (value: {self.value})"
        if self.expected:
            text += f"; expected {self.expected}"
        return text


class InvalidManifests(Exception):
    """Raised once with every error found, in file and line order. Nothing was changed."""

    def __init__(self, errors: Iterable[ManifestError]) -> None:
        self.errors: tuple[ManifestError, ...] = tuple(sorted(errors))
        if not self.errors:
            raise ValueError("InvalidManifests needs at least one error")
        super().__init__("\n".join(str(error) for error in self.errors))


def shown(value: object) -> str:
    """`value` as it is shown in an error: short, one line, never a whole document."""
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= MAX_VALUE_SHOWN else text[: MAX_VALUE_SHOWN - 1] + "…"
