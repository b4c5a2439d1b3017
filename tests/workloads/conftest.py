from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.workloads.echo import client
from harness.workloads.echo.protocol import Instance
from tests.workloads.loops import EchoProgram, Loop, event_loop


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    with event_loop() as one:
        yield one


@pytest.fixture(scope="session")
def _program(loop: Loop) -> EchoProgram:
    return EchoProgram(loop, Instance(pod="echo-1", namespace="test", version="v1", service_account="echo"))


@pytest.fixture
def echo(_program: EchoProgram) -> EchoProgram:
    """A running echo program that has received nothing yet."""
    client.reset(_program, _program.pod)
    return _program
