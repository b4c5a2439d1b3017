"""Progress on stderr: what is being done, and how long each part took. Quiet lines when stderr is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

Say = Callable[[str], None]


class Progress:
    """One per run. `phase` wraps a part of it; inside, the yielded function replaces the line being shown."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._began = time.monotonic()
        self.timings: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[Say]:
        began = time.monotonic()
        outcome = "[green]done[/]"
        if not self._console.is_terminal:
            self._print(began, f"{escape(name)} ...")
        try:
            with self._console.status(escape(name)) as status:
                yield lambda text: status.update(f"{escape(name)}: {escape(text)}")
        except BaseException:
            outcome = "[red]not finished[/]"
            raise
        finally:
            took = time.monotonic() - began
            self.timings[name] = round(took, 2)
            self._print(time.monotonic(), f"{escape(name)}: {outcome} in {took:.1f} s")

    def note(self, text: str) -> None:
        self._print(time.monotonic(), escape(text))

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def _print(self, now: float, text: str) -> None:
        self._console.print(f"[dim]{now - self._began:6.1f} s[/]  {text}")
