"""Waiting until a moment, to within tens of microseconds.

asyncio rounds its timers up to whole milliseconds of epoll, which would put up to 1 ms of noise on every hop of a
latency measurement. A `timerfd` armed with the absolute moment wakes epoll on time, but an idle processor, a virtual
one above all, still takes some hundred microseconds to come back. That lateness is steady, so it is learned (a low
quantile of what was seen) and the timer armed as much earlier; what little is then too early is spun away.

A wait never ends before its deadline.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import os
import time

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_PR_SET_TIMERSLACK = 29

MAX_LEAD_NS = 500_000
"""The timer is armed earlier than the deadline by this much at most."""
MAX_SPIN_NS = 60_000
"""Waking earlier than this, the timer is armed again instead of spinning."""
LEAD_STEP_NS = 4_000
"""How fast the lead follows the lateness that is seen."""
LEAD_QUANTILE = 0.15
"""Share of wake-ups that may be too early, and cost a spin."""
COMPACT_AT = 1_024
"""Waits held before abandoned ones are looked for and removed."""


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Clock:
    """Many waits on one timerfd. Belongs to one running event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        # Sleeps that do not go through the timerfd (select with a timeout) have 50 µs of slack by default.
        self._libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"timerfd_create: {os.strerror(error)}")
        self._spec = _Itimerspec()
        self._pointer = ctypes.byref(self._spec)
        self._waits: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = 0
        self._compact_at = COMPACT_AT
        self._armed = 0
        self._lead = 0.0
        self._loop.add_reader(self._fd, self._due)

    async def until(self, deadline_ns: int) -> None:
        """Return at `deadline_ns` of CLOCK_MONOTONIC (`time.monotonic_ns`), at once when it has passed."""
        if deadline_ns <= time.monotonic_ns():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._order += 1
        if len(self._waits) >= self._compact_at:
            self._waits = [wait for wait in self._waits if not wait[2].done()]
            heapq.heapify(self._waits)
            self._compact_at = max(COMPACT_AT, 2 * len(self._waits))
        heapq.heappush(self._waits, (deadline_ns, self._order, future))
        if self._waits[0][2] is future:
            self._arm(deadline_ns - int(self._lead))
        await future

    async def sleep_ms(self, milliseconds: float) -> None:
        await self.until(time.monotonic_ns() + int(milliseconds * 1_000_000))

    def close(self) -> None:
        """Release the timer; waits still held never end."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _arm(self, moment_ns: int) -> None:
        self._armed = max(moment_ns, time.monotonic_ns())
        value = self._spec.value
        value.sec, value.nsec = divmod(moment_ns, 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._pointer, None)

    def _due(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        now = time.monotonic_ns()
        self._learn(now - self._armed)
        waits = self._waits
        while waits:
            deadline, _, future = waits[0]
            if not future.done():
                if deadline - now > MAX_SPIN_NS:
                    # Not again by the lead when it was the lead that made it too early.
                    self._arm(deadline if deadline - now <= self._lead else deadline - int(self._lead))
                    return
                while now < deadline:
                    now = time.monotonic_ns()
                future.set_result(None)
            heapq.heappop(waits)

    def _learn(self, late_ns: int) -> None:
        """Move the lead towards the low quantile of lateness (stochastic approximation)."""
        if late_ns < self._lead:
            self._lead = max(0.0, self._lead - LEAD_STEP_NS * (1 - LEAD_QUANTILE))
        else:
            self._lead = min(float(MAX_LEAD_NS), self._lead + LEAD_STEP_NS * LEAD_QUANTILE)
