"""A value that changes, and those who follow it: each follower sees the newest value, never a backlog of old ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Set from one event loop, followed by any number of its tasks. A slow follower skips values: nothing piles up."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        self._value = value
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self) -> AsyncIterator[T]:
        """The present value, then the newest after each change, for ever."""
        while True:
            changed = self._changed
            yield self._value
            await changed.wait()
