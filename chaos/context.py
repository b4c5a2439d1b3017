"""What the functions of an experiment file act on: the game day in progress.

An experiment file names functions and their arguments, nothing else; which world, and which traffic, they learn here.
The functions are therefore importable, and checkable by the Chaos Toolkit, without a world.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from chaos.session import Fault
from chaos.targets import EdgeSpec, Workload, parse_edge, parse_workload
from harness.substrate.api import PodInfo
from loadtests.spec import Second


class GameDay(Protocol):
    """What a function of an experiment may do and see."""

    namespace: str

    def inject(self, fault: Fault) -> None:
        """Make it so. Raises `NotInjected`."""

    def heal(self) -> None:
        """Undo every fault."""

    def traffic(self, window: float) -> list[Second]:
        """The load's last `window` seconds, oldest first."""

    def pods(self, workload: Workload) -> list[PodInfo]: ...


class NoGameDay(Exception):
    """A function of an experiment was called outside of one."""


_current: ContextVar[GameDay | None] = ContextVar("game day", default=None)


def current() -> GameDay:
    """The game day in progress."""
    game_day = _current.get()
    if game_day is None:
        raise NoGameDay("experiments are run with: meshproof gameday FILE (the Chaos Toolkit can validate them only)")
    return game_day


@contextlib.contextmanager
def during(game_day: GameDay) -> Iterator[None]:
    """`game_day` is the current one inside."""
    token = _current.set(game_day)
    try:
        yield
    finally:
        _current.reset(token)


def edge(text: str) -> EdgeSpec:
    return parse_edge(text, current().namespace)


def workload(text: str) -> Workload:
    return parse_workload(text, current().namespace)
