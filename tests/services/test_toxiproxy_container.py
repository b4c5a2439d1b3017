"""Toxiproxy's server in a real container. Needs an engine; without one these are skipped, and say so."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from testcontainers.core.config import testcontainers_config

from chaos.toxiproxy import Client, Toxic
from harness.services import CompanionMissing, toxiproxy_server
from harness.services.toxiproxy import find_program

REPOSITORY = "meshproof-test/toxiproxy"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as exc:
        pytest.skip(f"no container engine answers here: {str(exc)[:120]}")
    with pytest.MonkeyPatch.context() as patch:
        # The reaper is an image of its own, which an engine without a registry cannot have.
        patch.setattr(testcontainers_config, "ryuk_disabled", True)
        yield client
    client.close()


def make_image(engine: Any, tag: str, entry: str, files: dict[str, bytes]) -> str:
    """An image of these files alone."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    engine.api.import_image_from_data(
        archive.getvalue(), repository=REPOSITORY, tag=tag, changes=[f'ENTRYPOINT ["/{entry}"]']
    )
    return f"{REPOSITORY}:{tag}"


@pytest.fixture(scope="module")
def image(engine: Any) -> Iterator[str]:
    name = make_image(engine, "real", "toxiproxy", {"toxiproxy": find_program().read_bytes()})
    yield name
    engine.images.remove(name)


def containers(engine: Any, image: str) -> list[Any]:
    found: list[Any] = engine.containers.list(all=True, filters={"ancestor": image})
    return found


def test_it_carries_traffic_and_its_faults_and_leaves_nothing(engine: Any, image: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as upstream,
        toxiproxy_server(kind="container", image=image) as server,
    ):
        assert server.address[0] == "127.0.0.1"
        assert len(containers(engine, image)) == 1
        client = Client(server.address)
        proxy = client.ensure_proxy("edge", listen="127.0.0.1:0", upstream=f"127.0.0.1:{upstream.getsockname()[1]}")

        def greet() -> None:
            connection, _ = upstream.accept()
            with connection:
                connection.sendall(b"hello")

        def greeted() -> float:
            thread = threading.Thread(target=greet)
            thread.start()
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
                assert connection.recv(16) == b"hello"
            thread.join(5)
            return time.monotonic() - began

        greeted()
        client.add_toxic("edge", Toxic(name="slow", type="latency", attributes={"latency": 300}))
        assert greeted() >= 0.29
    assert containers(engine, image) == []


def test_an_image_that_is_no_toxiproxy_is_a_clear_error_and_leaves_nothing(engine: Any) -> None:
    broken = make_image(engine, "broken", "nothing", {"readme": b"no program here"})
    try:
        with pytest.raises(CompanionMissing, match=r"meshproof-test/toxiproxy:broken did not start"):
            toxiproxy_server(kind="container", image=broken).__enter__()
        assert containers(engine, broken) == []
    finally:
        engine.images.remove(broken)
