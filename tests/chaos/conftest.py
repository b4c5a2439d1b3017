"""One world with bookinfo, without a mesh, for everything that breaks edges and pods."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from harness.substrate.local import LocalWorld
from harness.workloads import manifests

NAMESPACE = "bookinfo"


@pytest.fixture(scope="session")
def world() -> Iterator[LocalWorld]:
    made = LocalWorld.create(f"chaos-test-{os.getpid()}", attached=True)
    try:
        # Without the declared service times: what is slow here is slow because of a fault.
        # Without reviews v1, which never calls ratings: without a mesh a kept connection stays with one instance.
        made.apply(manifests.bookinfo(NAMESPACE, injected=False, reviews=("v2", "v3"), env={"PROFILE_OFF": "1"}))
        made.wait_ready(60)
        yield made
    finally:
        made.down()
