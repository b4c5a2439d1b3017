"""Kubernetes quantities: `100m`, `1.5`, `64Mi`."""

from __future__ import annotations

import re
from typing import Final

_SUFFIXES: Final = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
_QUANTITY: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def quantity(value: str | int | float) -> float:
    """`value` as a plain number. Raises `ValueError`."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a quantity such as 100m, 1.5 or 64Mi")
    return float(match.group(1)) * _SUFFIXES[match.group(2) or ""]
