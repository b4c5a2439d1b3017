"""What makes an object of a known shape wrong, one module per family of kinds. Pure.

`check_object` sees one object; `check_set` sees all of them. Rules are Istio's and Gateway API's, with their
own words where they have good ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mesh.config.checks.findings import Findings, Known
from mesh.config.checks.references import check_set
from mesh.config.snapshot import Config

_CHECKS: Mapping[str, Callable[[Config[Any], Findings], None]] = {}


def check_object(config: Config[Any], findings: Findings) -> None:
    """What is wrong with one object by itself."""
    check = _CHECKS.get(config.kind)
    if check is not None:
        check(config, findings)


__all__ = ["Findings", "Known", "check_object", "check_set"]
