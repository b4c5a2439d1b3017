"""The Locust side: users who take turns at one schedule.

Idle users queue in order. The first in the queue waits for the next arrival's instant, gives its place to the second,
and makes the request on a connection of its own. So users are phase-staggered by construction, an arrival is late only
when *all* users are busy, and then the first to become free takes it at once; its latency counts from when it was due.
"""

from __future__ import annotations

import contextlib
import traceback
from typing import ClassVar

import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from locust import User, constant, task
from locust.exception import StopUser

from loadtests.alarm import Alarm
from loadtests.client import Connection, Namespaces, Target
from loadtests.recorder import Recorder
from loadtests.schedule import Schedule
from loadtests.spec import LoadSpec

_CONNECT_SECONDS = 2.0
# How long a user may try to connect beforehand, all arms together.


class Turns:
    """Deals arrivals to users, in order, each at its instant."""

    def __init__(self, spec: LoadSpec, schedule: Schedule, recorder: Recorder) -> None:
        self.spec, self.schedule, self.recorder = spec, schedule, recorder
        self.namespaces = Namespaces()
        self.targets = [Target.of(arm) for arm in spec.arms]
        for arm in spec.arms:
            self.namespaces.hold(arm.netns)
        self.begun = Event()
        self.connected = 0
        self.defect = ""
        """What went wrong in the generator itself; it ends the run."""
        self._alarm = Alarm()
        self._queue = Semaphore(1)
        self._next = 0
        self._end = len(schedule)
        self._busy = 0

    def take(self) -> int:
        """The index of the caller's arrival, returned when it is due; -1 when there are no more. What is taken must be
        given back with `give_back` once it is recorded."""
        with self._queue:
            while (index := self._next) < self._end:
                self._alarm.sleep_until(self.recorder.intended_ns(index))
                if index < self._end:  # The end may have been brought forward meanwhile.
                    self._next += 1
                    self._busy += 1
                    return index
            return -1

    def give_back(self) -> None:
        self._busy -= 1

    def end_after(self, window: int) -> None:
        """Take no arrivals of later windows."""
        self._end = min(self._end, self.schedule.slice_of(window).stop)

    def end_now(self) -> None:
        self._end = min(self._end, self._next)

    @property
    def over(self) -> bool:
        """Whether every arrival up to the end was taken and has completed."""
        return self._next >= self._end and self._busy == 0


class ArrivalUser(User):  # type: ignore[misc]  # Locust has no type information
    """One of the users. `turns` is set before the runner starts."""

    wait_time = constant(0)
    turns: ClassVar[Turns]

    def on_start(self) -> None:
        self.connections = [Connection(target, self.turns.namespaces) for target in self.turns.targets]
        # A connection that cannot be made yet is made, or fails, when it is first used.
        with gevent.Timeout(_CONNECT_SECONDS, False):
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.open()
        self.turns.connected += 1
        self.turns.begun.wait()

    def on_stop(self) -> None:
        for connection in self.connections:
            connection.close()

    @task  # type: ignore[untyped-decorator]  # Locust has no type information
    def arrive(self) -> None:
        turns = self.turns
        index = turns.take()
        if index < 0:
            raise StopUser
        arm = int(turns.schedule.arm[index])
        try:
            seed = int(turns.schedule.seed[index])
            outcome = self.connections[arm].get(seed, turns.spec.timeout_seconds)
            turns.recorder.done(index, outcome)
        except Exception:
            # Locust would log it and carry on, and a generator with a defect measures nothing.
            turns.defect = traceback.format_exc()
            turns.end_now()
            raise StopUser from None
        finally:
            turns.give_back()
        self.environment.events.request.fire(
            request_type="GET",
            name=turns.spec.arms[arm].name,
            response_time=(outcome.done_ns - turns.recorder.intended_ns(index)) / 1e6,
            response_length=outcome.body_bytes,
            exception=RuntimeError(outcome.error) if outcome.error else None,
            context={},
        )
