"""`python -m loadtests.run spec.json`: one load run, in a process of its own.

Locust patches the standard library for gevent, so nothing else may import this module. What the run finds goes to the
spec's `out` folder; what it is doing goes to stderr, one JSON object per line. Exit codes: 0 the schedule (or the part
of it until `stop_file`) ran, 1 it could not, 2 the spec is wrong, 130 or 143 a signal ended it, with everything that
was measured until then written.
"""

from __future__ import annotations

import locust  # isort: skip  # First: importing it patches the standard library.

import argparse
import contextlib
import gc
import os
import signal
import sys
import time
from pathlib import Path

import gevent
import msgspec
from gevent.event import Event
from locust.env import Environment

from loadtests.client import NamespaceError
from loadtests.recorder import Recorder
from loadtests.schedule import schedule as schedule_of
from loadtests.spec import LoadSpec, decode_spec
from loadtests.users import ArrivalUser, Turns

_LEAD_NS = 200_000_000
# Between "everyone is connected" and the first arrival, so that the first is not late.
_TICK_SECONDS = 0.1
_DRAIN_SECONDS = 1.0
# How long requests in flight may still complete after a signal.


def take_precedence() -> str:
    """Run before ordinary processes where that is permitted, and say what was granted. The generator stands for
    clients on other machines, so it should not queue for the CPU of what it measures; it needs a few percent of a core,
    and takes them from all arms alike. Measured on 2 cores: lateness P99 0.5 ms without, 0.3 ms with."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return "ordinary"
    return "real-time"


def give_precedence_back() -> None:
    """What follows the load is bulk work, which must not hold up others."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def report(event: str, **fields: object) -> None:
    sys.stderr.buffer.write(msgspec.json.encode({"event": event, **fields}) + b"\n")
    sys.stderr.buffer.flush()


def read_spec(path: Path) -> LoadSpec:
    """The spec in a file; `ValueError` says what is wrong with it, and where."""
    try:
        spec = decode_spec(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    wrong = spec.problems()
    if wrong:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in wrong))
    return spec


class Run:
    """One run, from spawning users to writing the last file."""

    def __init__(self, spec: LoadSpec, parent: int) -> None:
        self._spec, self._parent = spec, parent
        self._schedule = schedule_of(spec)
        self._recorder = Recorder(spec, self._schedule)
        self._turns = Turns(spec, self._schedule, self._recorder)
        self._start_ns = 0
        self._signal = 0
        self._woken = Event()

    def execute(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, self._interrupt, number)
        self._recorder.prepare()
        ArrivalUser.turns = self._turns
        environment = Environment(user_classes=[ArrivalUser], events=locust.events)
        runner = environment.create_local_runner()
        runner.start(self._spec.users, spawn_rate=max(self._spec.users, 1))
        while self._turns.connected < self._spec.users and not self._signal:
            self._pause()
        # What exists now lives until the end; the collector need not look at it again in the middle of a window.
        gc.collect()
        gc.freeze()
        priority = take_precedence()
        self._start_ns = time.monotonic_ns() + _LEAD_NS
        self._recorder.begin(self._start_ns)
        report(
            "started",
            start_ns=self._start_ns,
            requests=len(self._schedule),
            windows=self._schedule.windows,
            priority=priority,
        )
        self._turns.begun.set()
        self._watch()
        give_precedence_back()
        health = self._recorder.finish(time.monotonic_ns(), interrupted=bool(self._signal))
        runner.quit()
        self._turns.namespaces.close()
        report(
            "finished",
            health=health,
            locust={name: entry.num_requests for (name, _), entry in environment.stats.entries.items()},
        )
        if self._turns.defect:
            report("failed", message=self._turns.defect)
            return 1
        return 128 + self._signal if self._signal else 0

    def _watch(self) -> None:
        """Until the schedule, the part of it that is wanted, or the patience after a signal is over."""
        last_window = self._schedule.windows - 1
        give_up_ns = 0
        while True:
            self._pause()
            now_ns = time.monotonic_ns()
            for mark in self._recorder.tick(now_ns):
                report("window", mark=mark, windows=self._schedule.windows)
            if not self._signal and self._parent and os.getppid() != self._parent:
                self._signal = signal.SIGTERM
            if self._signal and not give_up_ns:
                self._turns.end_now()
                give_up_ns = now_ns + round(_DRAIN_SECONDS * 1e9)
            if self._spec.stop_file is not None and self._spec.stop_file.exists():
                last_window = min(last_window, self._schedule.window_at(max(now_ns - self._start_ns, 0)))
                self._turns.end_after(last_window)
            ended = now_ns >= self._start_ns + self._schedule.start_ns(last_window + 1)
            if self._turns.over and (ended or self._signal or self._turns.defect):
                return
            if give_up_ns and now_ns >= give_up_ns:
                return

    def _interrupt(self, number: int) -> None:
        self._signal = self._signal or number
        self._woken.set()

    def _pause(self) -> None:
        """A tick, cut short by a signal."""
        if self._woken.wait(_TICK_SECONDS):
            self._woken.clear()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description="Run one load spec.")
    parser.add_argument("spec", type=Path, help="JSON file, see loadtests/spec.py")
    parser.add_argument("--parent", type=int, default=0, help="end when this parent process is gone")
    arguments = parser.parse_args()
    try:
        spec = read_spec(arguments.spec)
        run = Run(spec, arguments.parent)
    except ValueError as error:
        report("invalid", message=str(error))
        return 2
    except NamespaceError as error:
        report("failed", message=str(error))
        return 1
    return run.execute()


if __name__ == "__main__":
    sys.exit(main())
