"""What one would write with stock Locust: FastHttpUser, constant throughput. Prints its own numbers as JSON."""

from __future__ import annotations

import locust  # isort: skip  # First: importing it patches the standard library.

import json
import resource
import sys
import time

import gevent
from locust import FastHttpUser, constant_throughput, task
from locust.env import Environment

USERS = 32


def main(port: int, path: str, rate: float, seconds: float) -> None:
    times: list[float] = []

    class Stock(FastHttpUser):
        host = f"http://127.0.0.1:{port}"
        wait_time = constant_throughput(rate / USERS)

        @task
        def page(self) -> None:
            self.client.get(path, headers={"x-profile-seed": str(time.monotonic_ns() % 2**31)})

    # The raw time, not Locust's own percentiles: those are rounded to 1 ms.
    locust.events.request.add_listener(lambda response_time, **_: times.append(response_time))
    environment = Environment(user_classes=[Stock], events=locust.events)
    runner = environment.create_local_runner()
    runner.start(USERS, spawn_rate=USERS)
    gevent.sleep(1.5)
    times.clear()
    began, used = time.monotonic(), time.process_time()
    gevent.sleep(seconds)
    took, cpu = time.monotonic() - began, time.process_time() - used
    ordered = sorted(times)
    runner.quit()
    found = {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(len(ordered) * 0.99)],
        "rate": len(ordered) / took,
        "cpu": cpu / took,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
