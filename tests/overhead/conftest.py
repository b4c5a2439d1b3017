from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "loadtests"


@pytest.fixture
def program() -> Iterator[Callable[..., int]]:
    """Starts `profiled` or `delaying` and gives its port; both end with the test."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *options: str) -> int:
            process = subprocess.Popen([sys.executable, str(HERE / f"{name}.py"), *options], stdout=subprocess.PIPE)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.enter_context(process.stdout)
            return int(process.stdout.readline())

        yield start
