"""CPU consumed between two instants: by this process, by the whole machine, stolen by the hypervisor."""

from __future__ import annotations

import time
from typing import NamedTuple

import psutil


class Share(NamedTuple):
    own: float
    """CPU seconds of this process per second; 1.0 is one core."""
    machine: float
    """Busy share of all cores, 0..1."""
    stolen: float
    """Share of all cores' time that the hypervisor gave to others, 0..1."""


class Reading(NamedTuple):
    wall: float
    own: float
    total: float
    idle: float
    stolen: float

    @classmethod
    def now(cls) -> Reading:
        own, machine = psutil.Process().cpu_times(), psutil.cpu_times()
        stolen = getattr(machine, "steal", 0.0)
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        # Guest time is within user time already; counting it again would make the total too large.
        total = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
        return cls(time.monotonic(), own.user + own.system, total, idle, stolen)

    def until(self, later: Reading) -> Share:
        wall, total = later.wall - self.wall, later.total - self.total
        if wall <= 0 or total <= 0:
            return Share(0.0, 0.0, 0.0)
        busy = total - (later.idle - self.idle)
        return Share((later.own - self.own) / wall, busy / total, (later.stolen - self.stolen) / total)
