"""How a string, and a label selector, is matched: the vocabulary every policy and route shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec


class StringMatch(msgspec.Struct, frozen=True, kw_only=True):
    """`regex` matches in full. `present` matches any value, the empty one too."""

    kind: Literal["exact", "prefix", "suffix", "regex", "present"]
    value: str = ""
    ignore_case: bool = False


PRESENT = StringMatch(kind="present")


def exact(value: str) -> StringMatch:
    return StringMatch(kind="exact", value=value)


def wildcard(pattern: str) -> StringMatch:
    """As AuthorizationPolicy writes strings: `abc` exact, `abc*` prefix, `*abc` suffix, `*` present and not empty."""
    if pattern == "*":
        return StringMatch(kind="regex", value=".+")
    if pattern.startswith("*"):
        return StringMatch(kind="suffix", value=pattern[1:])
    if pattern.endswith("*"):
        return StringMatch(kind="prefix", value=pattern[:-1])
    return StringMatch(kind="exact", value=pattern)


def selects(selector: Mapping[str, str] | None, labels: Mapping[str, str]) -> bool:
    """Whether every label the selector wants is there. A selector without labels selects everything."""
    return all(labels.get(key) == value for key, value in (selector or {}).items())
