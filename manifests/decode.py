"""A `Document` to a typed object, with every mistake reported at once.

msgspec stops at its first error; a person fixing a manifest wants them all. `decode` therefore walks the
document beside the type and collects, and only converts when nothing was found.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from manifests.errors import InvalidManifests
from manifests.load import Document

T = TypeVar("T")


def decode(document: Document, type_: type[T]) -> T:
    """`document` as a `type_`. Raises `InvalidManifests` with every error: unknown fields, wrong types, missing
    required fields, values outside their enumeration or range."""
    try:
        return msgspec.convert(document.data, type_)
    except msgspec.ValidationError as exc:
        raise InvalidManifests([document.error((), str(exc))]) from None
