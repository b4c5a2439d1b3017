"""Ending connections, on loopback: idle ones at once, busy ones only when time is up, others never."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from chaos.sockets import Connection, SocketTable, drain, opened_from, towards

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="ending connections needs CAP_NET_ADMIN"),
]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def pair(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(listener.getsockname(), timeout=5)
    server, _ = listener.accept()
    server.settimeout(5)
    return client, server


def exchange(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    time.sleep(0.02)  # the kernel's clock ticks between question and answer, as it does for any real request
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"


def test_an_idle_connection_ends_at_once_and_both_ends_know(listener: socket.socket) -> None:
    client, server = pair(listener)
    exchange(client, server)
    drained = drain(socket.socket, towards([listener.getsockname()]), deadline=5.0)
    assert (drained.idle, drained.forced) == (1, 0)
    assert drained.seconds < 4
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_a_request_under_way_is_waited_for(listener: socket.socket) -> None:
    client, server = pair(listener)
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    answered: list[bytes] = []

    def answer() -> None:
        time.sleep(0.6)
        server.sendall(b"answer")
        answered.append(client.recv(100))

    thread = threading.Thread(target=answer)
    thread.start()
    drained = drain(socket.socket, towards([listener.getsockname()]), deadline=10.0)
    thread.join()
    assert answered == [b"answer"]
    assert (drained.idle, drained.forced) == (1, 0)
    assert drained.seconds >= 0.5


def test_a_request_that_never_ends_is_cut_at_the_deadline(listener: socket.socket) -> None:
    client, server = pair(listener)
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    drained = drain(socket.socket, towards([listener.getsockname()]), deadline=0.3)
    assert (drained.idle, drained.forced) == (0, 1)
    assert drained.seconds >= 0.3
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)


def test_other_connections_are_left_alone(listener: socket.socket) -> None:
    one, one_server = pair(listener)
    other, other_server = pair(listener)
    exchange(one, one_server)
    exchange(other, other_server)
    drained = drain(socket.socket, opened_from([one.getsockname()]), deadline=5.0)
    assert drained.idle == 1
    exchange(other, other_server)
    with pytest.raises(ConnectionAbortedError):
        one.recv(1)


def test_connections_of_an_ipv6_socket_are_found_by_their_ipv4_address(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.socket(socket.AF_INET6) as client:
        client.connect((f"::ffff:{listener.getsockname()[0]}", port))
        listener.accept()
        with SocketTable(socket.socket) as table:
            found = [c for c in table.connections() if c.remote == ("127.0.0.1", port)]
            assert len(found) == 1
            assert table.destroy(found[0])
            assert not table.destroy(found[0])  # it has ended; saying so again is no error


@pytest.mark.parametrize(
    ("sent", "received", "unanswered", "idle"),
    [
        (0.5, 0.3, 0, True),  # answered a while ago
        (0.5, 0.001, 0, False),  # answered just now: more of it may be coming
        (0.3, 0.5, 0, False),  # asked after the last answer
        (0.5, 0.3, 7, False),  # something is still on its way
        (0.05, 0.05, 0, False),  # which was last cannot be told, and it was not long ago
        (0.5, 0.5, 0, True),
    ],
)
def test_what_counts_as_idle(sent: float, received: float, unanswered: int, idle: bool) -> None:
    connection = Connection(
        local=("10.0.0.1", 1),
        remote=("10.0.0.2", 2),
        cookie=1,
        uid=0,
        since_sent=sent,
        since_received=received,
        unanswered=unanswered,
    )
    assert connection.idle() is idle
