"""Scalars that are written as text and used as numbers: durations.

A type here is a subclass of the number it is used as, with a `parse` that raises `ValueError` saying what was
expected; `manifests.decode` calls it.
"""

from __future__ import annotations

import math
import re
from typing import Self

_GO_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GATEWAY = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
MAX_DURATION_TEXT = 64


class Scalar:
    """Marks a type that `decode` reads with its `parse`."""

    expected: str

    @classmethod
    def parse(cls, value: object) -> Self:
        """`value` as written in a manifest. Raises `ValueError`."""
        raise NotImplementedError


class Duration(float, Scalar):
    """Seconds, written as Go writes them: `1.5s`, `100ms`, `1h30m`. Never negative (Istio refuses that everywhere)."""

    expected = 'a duration such as "1.5s", "100ms" or "1h"'

    @classmethod
    def parse(cls, value: object) -> Self:
        if not isinstance(value, str) or len(value) > MAX_DURATION_TEXT:
            raise ValueError("is not a duration" + _unit_hint(value))
        text = value.removeprefix("+")
        if text == "0":
            return cls(0.0)
        if text.startswith("-"):
            raise ValueError("is a negative duration")
        position = 0
        seconds = 0.0
        while position < len(text):
            part = _GO_PART.match(text, position)
            if part is None:
                raise ValueError("is not a duration" + _unit_hint(value))
            seconds += float(part[1]) * _UNIT_SECONDS[part[2]]
            position = part.end()
        if not text:
            raise ValueError("is not a duration")
        if not math.isfinite(seconds) or seconds > MAX_SECONDS:
            raise ValueError("is too long a duration")
        return cls(seconds)

    def __repr__(self) -> str:
        return f"{float(self):g}s"

    __str__ = __repr__


class GatewayDuration(Duration):
    """Seconds, written as Gateway API allows (GEP-2257): whole numbers of h, m, s and ms, at most four of them."""

    expected = 'a duration such as "10s" or "1m500ms" (GEP-2257: whole numbers of h, m, s, ms)'

    @classmethod
    def parse(cls, value: object) -> Self:
        if not isinstance(value, str) or not _GATEWAY.fullmatch(value):
            raise ValueError("is not a duration" + _unit_hint(value))
        return super().parse(value)


MAX_SECONDS = 315_576_000_000.0
"""protobuf's Duration ends at about 10,000 years."""


def _unit_hint(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return " (the unit is missing)" if number or (isinstance(value, str) and value.isdigit()) else ""
