"""What tests of several areas rely on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LOAD_TARGETS = Path(__file__).parent / "loadtests"


def pytest_configure() -> None:
    # A shell has Ctrl-C ignored in the background jobs of a script, and children inherit that; here it is part of what
    # is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def program() -> Iterator[Callable[..., int]]:
    """Starts `profiled` or `delaying` and gives its port; both end with the test."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *options: str) -> int:
            script = LOAD_TARGETS / f"{name}.py"
            process = subprocess.Popen([sys.executable, str(script), *options], stdout=subprocess.PIPE)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.enter_context(process.stdout)
            return int(process.stdout.readline())

        yield start
