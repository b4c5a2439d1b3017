"""Toxiproxy's server as a companion: found or clearly missing, started, gone afterwards."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from harness.services import CompanionMissing, Here, toxiproxy_server
from harness.services.toxiproxy import ToxiproxyProcess, end_marked, find_program


def test_it_answers_while_entered_and_leaves_nothing(tmp_path: Path) -> None:
    with ToxiproxyProcess(Here(), log=tmp_path / "toxiproxy.log") as server:
        pids = server.pids
        assert len(pids) == 2  # the server and its bounded log
        with socket.create_connection(server.address, timeout=5):
            pass
        address = server.address
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_it_is_gone_after_an_error_too() -> None:
    pids: list[int] = []

    def broken() -> None:
        with ToxiproxyProcess(Here()) as server:
            pids.extend(server.pids)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        broken()
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_what_a_killed_owner_leaves_is_found_by_its_mark() -> None:
    server = ToxiproxyProcess(Here(), mark="meshproof-test-mark")
    server.__enter__()
    try:
        assert end_marked("another-mark") == []
        assert end_marked("meshproof-test-mark") == list(server.pids)
        assert end_marked("meshproof-test-mark") == []
    finally:
        server.close()


def test_a_missing_program_names_every_place_and_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MESHPROOF_TOOLS", str(tmp_path / "tools"))
    monkeypatch.setenv("GOPATH", str(tmp_path / "go"))
    monkeypatch.delenv("GOBIN", raising=False)
    monkeypatch.setattr("harness.services.toxiproxy._REPOSITORY", tmp_path)
    with pytest.raises(CompanionMissing) as missing:
        find_program()
    message = str(missing.value)
    for place in ("PATH", f"{tmp_path}/.tools/bin/toxiproxy-server", f"{tmp_path}/tools", f"{tmp_path}/go/bin/server"):
        assert place in message
    assert "go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0" in message
    assert "make setup" in message


def test_another_program_called_server_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    impostor = tmp_path / "server"
    impostor.write_text("#!/bin/sh\necho some other server\n")
    impostor.chmod(0o755)
    monkeypatch.setenv("MESHPROOF_TOOLS", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("GOPATH", str(tmp_path / "go"))
    monkeypatch.setattr("harness.services.toxiproxy._REPOSITORY", tmp_path / "repository")
    with pytest.raises(CompanionMissing, match=str(impostor)):
        find_program()


def test_a_container_without_an_engine_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(CompanionMissing, match=r"engine|testcontainers"):
        toxiproxy_server(kind="container", image="toxiproxy:x").__enter__()
    monkeypatch.delenv("MESHPROOF_TOXIPROXY_IMAGE", raising=False)
    with pytest.raises(CompanionMissing, match="MESHPROOF_TOXIPROXY_IMAGE"):
        toxiproxy_server(kind="container").__enter__()


def test_a_container_cannot_enter_a_closed_world() -> None:
    class World:
        popen = connect = socket = None

    with pytest.raises(CompanionMissing, match="closed world"):
        toxiproxy_server(World(), kind="container")  # type: ignore[arg-type]
