"""The client against the real server, on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from chaos.toxiproxy import Client, Toxic, ToxiproxyError
from harness.services import toxiproxy_server


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with toxiproxy_server() as server:
        yield Client(server.address)


@pytest.fixture
def upstream() -> Iterator[str]:
    """Says `hello` to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"hello")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.fixture
def proxy(client: Client, upstream: str) -> Iterator[str]:
    client.ensure_proxy("edge", listen="127.0.0.1:0", upstream=upstream)
    yield "edge"
    client.delete_proxy("edge")


def first_byte_s(client: Client, name: str) -> float:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", client.proxy(name).port), timeout=5) as connection:
        assert connection.recv(1) == b"h"
    return time.monotonic() - started


def test_a_toxic_bites_and_is_healed(client: Client, proxy: str) -> None:
    before = first_byte_s(client, proxy)
    client.add_toxic(proxy, Toxic(name="slow", type="latency", attributes={"latency": 400}))
    during = first_byte_s(client, proxy)
    client.remove_toxic(proxy, "slow")
    after = first_byte_s(client, proxy)
    assert during >= before + 0.3
    assert after < during - 0.2
    assert client.proxy(proxy).toxics == []


def test_adding_a_toxic_again_changes_it(client: Client, proxy: str) -> None:
    client.add_toxic(proxy, Toxic(name="slow", type="latency", attributes={"latency": 10}))
    client.add_toxic(proxy, Toxic(name="slow", type="latency", toxicity=0.5, attributes={"latency": 20}))
    (toxic,) = client.proxy(proxy).toxics
    assert toxic.attributes["latency"] == 20
    assert toxic.toxicity == pytest.approx(0.5)


def test_a_disabled_proxy_refuses_and_an_enabled_one_serves(client: Client, proxy: str) -> None:
    port = client.proxy(proxy).port
    client.set_enabled(proxy, False)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    client.set_enabled(proxy, True)
    assert first_byte_s(client, proxy) < 5


def test_reset_clears_everything(client: Client, proxy: str) -> None:
    client.add_toxic(proxy, Toxic(name="cut", type="limit_data", attributes={"bytes": 1}))
    client.set_enabled(proxy, False)
    client.reset()
    state = client.proxy(proxy)
    assert state.enabled
    assert state.toxics == []


def test_what_the_server_refuses_is_an_error(client: Client, proxy: str) -> None:
    with pytest.raises(ToxiproxyError, match="invalid toxic type"):
        client.add_toxic(proxy, Toxic(name="x", type="gremlin"))
    with pytest.raises(ToxiproxyError, match="no proxy 'nowhere'"):
        client.add_toxic("nowhere", Toxic(name="x", type="latency"))
    with pytest.raises(ToxiproxyError, match="HTTP 500"):  # the package takes this for success
        client.ensure_proxy("clash", listen=client.proxy(proxy).listen, upstream="127.0.0.1:1")


def test_a_proxy_that_goes_elsewhere_is_not_silently_replaced(client: Client, proxy: str) -> None:
    with pytest.raises(ToxiproxyError, match=r"wanted .* -> 127\.0\.0\.1:1"):
        client.ensure_proxy(proxy, listen="127.0.0.1:0", upstream="127.0.0.1:1")


def test_removing_what_is_not_there_is_fine(client: Client, proxy: str) -> None:
    client.remove_toxic(proxy, "never-added")
    client.remove_toxic("no-such-proxy", "never-added")
    client.delete_proxy("no-such-proxy")


def test_two_servers_in_one_process_are_told_apart(client: Client, proxy: str) -> None:
    with toxiproxy_server() as other:
        second = Client(other.address)
        assert second.proxies() == {}
        second.ensure_proxy("elsewhere", listen="127.0.0.1:0", upstream="127.0.0.1:1")
        assert "elsewhere" not in client.proxies()
        assert proxy not in second.proxies()


def test_a_server_that_hangs_is_an_error_in_bounded_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(ToxiproxyError, match=r"GET http://127\.0\.0\.1:\d+/proxies"):
            Client(silent.getsockname(), timeout=0.3).proxies()
        assert time.monotonic() - started < 5
