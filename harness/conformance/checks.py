"""What a check is: a pytest test that carries an id, a feature, a profile, and the mutants that must break it.

    @check("R2", "exact path match", feature="VirtualService", mutants=("exact-to-prefix",))
    def test_exact_path(lab: Lab) -> None: ...

Ids are those of the catalogue in `docs/checks.md`: the letter is the area. A check that no mutant can break is not a
check, so `mutants` may not be empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest

AREAS = {
    "R": "routing",
    "F": "filters",
    "E": "resilience",
    "M": "mutual TLS",
    "A": "authorization",
    "J": "JWT",
    "T": "telemetry",
    "C": "control plane",
}
"""First letter of an id to the area's name."""

PROFILES = ("core", "extended")
"""`core` is what every mesh must do; `extended` (which includes core) what a mesh may claim."""

F = TypeVar("F", bound=Callable[..., Any])


class Check(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    title: str
    feature: str
    profile: str
    mutants: tuple[str, ...]
    without_mesh: bool = False
    """Whether the behaviour also holds where there is no mesh at all (reaching a service, say)."""

    @property
    def area(self) -> str:
        return AREAS[self.id[0]]


def check(
    id: str,
    title: str,
    *,
    feature: str,
    mutants: tuple[str, ...],
    profile: str = "core",
    without_mesh: bool = False,
) -> Callable[[F], F]:
    """Mark a test function as the check `id`."""
    if id[:1] not in AREAS or not id[1:].isdigit():
        raise ValueError(f"check id {id!r}: expected one of {''.join(AREAS)} and a number")
    if profile not in PROFILES:
        raise ValueError(f"check {id}: profile {profile!r}, expected one of {PROFILES}")
    if not mutants:
        raise ValueError(f"check {id}: names no mutant that breaks it, so nothing shows that it can fail")
    spec = Check(
        id=id, title=title, feature=feature, profile=profile, mutants=tuple(mutants), without_mesh=without_mesh
    )
    return pytest.mark.check(spec)


def of(item: pytest.Item) -> Check | None:
    """The check that `item` is; None for a test that is none."""
    mark = item.get_closest_marker("check")
    return mark.args[0] if mark else None
