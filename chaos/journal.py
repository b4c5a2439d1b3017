"""What happened in a game day, in order: one JSON object a line, flushed as it happens, never rewritten."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

JOURNAL = "journal.ndjson"


class Journal:
    """Use as a context manager. Times are seconds since it was opened."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.origin_ns = time.monotonic_ns()
        self._file = path.open("ab", buffering=0)

    def note(self, event: str, **details: Any) -> None:
        """Append one event."""
        line = {"t_s": round(self.now(), 3), "event": event, **details}
        self._file.write(msgspec.json.encode(line, enc_hook=str) + b"\n")

    def now(self) -> float:
        return (time.monotonic_ns() - self.origin_ns) / 1e9

    def at(self, ns: int) -> float:
        """A CLOCK_MONOTONIC time as seconds of this journal."""
        return (ns - self.origin_ns) / 1e9

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
