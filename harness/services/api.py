"""Companion servers (Toxiproxy now; Redis, Prometheus, Jaeger, OPA ... later): a local process by default, a container
by testcontainers where an engine runs and the user asks for it."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Companion(Protocol):
    """A companion server, running while entered. Leaves nothing behind on exit."""

    name: str

    @property
    def address(self) -> tuple[str, int]:
        """Where its API listens, host and port, as seen from where it was started."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class CompanionMissing(Exception):
    """The server cannot run here. The message lists what was looked for, where, and the command that fixes it."""
