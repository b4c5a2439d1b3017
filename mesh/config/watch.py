"""What changed in a folder, told by the kernel (inotify): no polling, and nothing is missed.

Events are batched the way a control plane wants it: the first at once, then whatever came until the folder was quiet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from inotify_simple import INotify, flags

QUIET_SECONDS = 0.010
"""A burst has ended when nothing happened for this long."""
MAX_DELAY_SECONDS = 0.250
"""A burst that does not end is cut here."""

_EVENTS = flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.DELETE_SELF | flags.MOVE_SELF
_GONE = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT


class FolderGone(Exception):
    """The watched folder was removed or renamed."""


class FolderWatch:
    """Watches from the moment it is made, so that a listing made after it misses nothing. Close it, or use `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inotify = INotify(nonblocking=True)
        self._names: set[str] = set()
        self._lost = False
        self._gone = False
        self._last_event = 0.0
        try:
            self._inotify.add_watch(folder, _EVENTS)
        except OSError:
            self._inotify.close()
            raise

    def close(self) -> None:
        self._inotify.close()

    def __enter__(self) -> FolderWatch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def batches(self) -> AsyncIterator[set[str] | None]:
        """Names of files that were written, renamed or removed. `None`: the kernel lost count, look at everything.

        Raises `FolderGone` when there is nothing left to watch.
        """
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        last_batch = -MAX_DELAY_SECONDS

        def on_readable() -> None:
            self._read()
            self._last_event = loop.time()
            ready.set()

        loop.add_reader(self._inotify.fileno(), on_readable)
        try:
            while True:
                await ready.wait()
                began = loop.time()
                if began - last_batch < MAX_DELAY_SECONDS:
                    await self._until_quiet(began)
                ready.clear()
                names, self._names = self._names, set()
                lost, self._lost = self._lost, False
                last_batch = loop.time()
                if lost:
                    yield None
                elif names:
                    yield names
                if self._gone:
                    raise FolderGone(f"{self.folder} was removed")
        finally:
            loop.remove_reader(self._inotify.fileno())

    async def _until_quiet(self, began: float) -> None:
        loop = asyncio.get_running_loop()
        while (now := loop.time()) < began + MAX_DELAY_SECONDS:
            quiet_at = self._last_event + QUIET_SECONDS
            if now >= quiet_at:
                return
            await asyncio.sleep(quiet_at - now)

    def _read(self) -> None:
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                self._lost = True
            elif event.mask & _GONE:
                self._gone = True
            elif event.name:
                self._names.add(event.name)
