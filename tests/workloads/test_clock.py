"""Waiting: never early, in order, and nothing is kept of what was abandoned."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

import harness.workloads.clock as module
from harness.workloads.clock import Clock


def test_no_wait_ends_before_its_deadline() -> None:
    async def check() -> list[int]:
        clock = Clock()
        order = random.Random(1)

        async def one() -> int:
            deadline = time.monotonic_ns() + int(order.uniform(0.0, 30e6))
            await clock.until(deadline)
            return time.monotonic_ns() - deadline

        late: list[int] = []
        for _ in range(8):
            late += await asyncio.gather(*(one() for _ in range(40)))
        clock.close()
        return late

    late = asyncio.run(check())
    assert len(late) == 320
    assert min(late) >= 0


def test_waits_end_in_the_order_of_their_deadlines() -> None:
    async def check() -> list[int]:
        clock = Clock()
        ended: list[int] = []
        base = time.monotonic_ns() + 20_000_000

        async def one(n: int) -> None:
            await clock.until(base + n * 1_000_000)
            ended.append(n)

        await asyncio.gather(*(one(n) for n in (5, 1, 4, 0, 3, 2)))
        clock.close()
        return ended

    assert asyncio.run(check()) == [0, 1, 2, 3, 4, 5]


def test_a_deadline_in_the_past_ends_at_once() -> None:
    async def check() -> None:
        clock = Clock()
        await clock.until(0)
        await clock.sleep_ms(0)
        clock.close()

    asyncio.run(asyncio.wait_for(check(), 5))


def test_abandoned_waits_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_AT", 16)

    async def check() -> int:
        clock = Clock()
        clock._compact_at = 16
        for _ in range(500):
            task = asyncio.ensure_future(clock.sleep_ms(600_000))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(clock.sleep_ms(5), 5)
        held = len(clock._waits)
        clock.close()
        return held

    assert asyncio.run(check()) <= 32


def test_an_earlier_wait_is_not_held_up_by_a_later_one() -> None:
    async def check() -> None:
        clock = Clock()
        long = asyncio.ensure_future(clock.sleep_ms(600_000))
        await asyncio.sleep(0)
        await asyncio.wait_for(clock.sleep_ms(5), 5)
        long.cancel()
        clock.close()

    asyncio.run(check())
