"""Worlds for the tests, in a run folder of their own: `down --all` must not reach anybody else's."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from manifest import documents, namespace

from harness.substrate.local import LocalWorld
from harness.substrate.local.paths import RUN_DIR_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("run")
    before = os.environ.get(RUN_DIR_VARIABLE)
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    yield folder
    if before is None:
        del os.environ[RUN_DIR_VARIABLE]
    else:
        os.environ[RUN_DIR_VARIABLE] = before


@pytest.fixture(scope="session")
def new_name() -> Callable[[], str]:
    """Names that no other run on this machine has: control groups are shared."""
    return lambda: f"test-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def world(run_folder: Path, new_name: Callable[[], str]) -> Iterator[LocalWorld]:
    """One world for the tests of a module; each test has a namespace of its own."""
    with LocalWorld.create(new_name(), attached=True) as made:
        yield made


@pytest.fixture
def space(world: LocalWorld, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test."""
    name = request.node.name.removeprefix("test_").partition("[")[0].replace("_", "-")[:40].strip("-")
    world.apply(documents(namespace(name)))
    yield name
    world.delete("Namespace", "", name)
