"""A `Document` to a typed object, with every mistake reported at once.

msgspec stops at its first error; a person fixing a manifest wants them all. `decode` therefore walks the
document beside the type and collects, and only converts when nothing was found.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from manifests.errors import InvalidManifests
from manifests.load import Document
from manifests.scalars import Scalar

T = TypeVar("T")


def decode(document: Document, type_: type[T]) -> T:
    """`document` as a `type_`. Raises `InvalidManifests` with every error: unknown fields, wrong types, missing
    required fields, values outside their enumeration or range."""
    try:
        return msgspec.convert(document.data, type_, dec_hook=read_scalar, str_keys=True)
    except msgspec.ValidationError as exc:
        raise InvalidManifests([document.error((), str(exc))]) from None


def read_scalar(type_: type, value: object) -> object:
    """msgspec's hook for the types of `manifests.scalars`."""
    if issubclass(type_, Scalar):
        return type_.parse(value)
    raise NotImplementedError(f"no way to read a {type_.__name__}")
