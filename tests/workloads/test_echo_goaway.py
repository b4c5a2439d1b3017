"""A server that says GOAWAY: what it accepted is still answered, what it did not is told, new requests go elsewhere."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from hyperframe.frame import GoAwayFrame

from harness.workloads.echo import client
from tests.workloads.loops import EchoProgram


class Leaving(asyncio.Protocol):
    """Answers each request behind a GOAWAY that names `last` as the last stream it takes."""

    last = 2**31 - 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                assert event.stream_id is not None
                goaway = GoAwayFrame(0, last_stream_id=self.last).serialize()
                self.transport.write(self.h2.data_to_send() + goaway)
                if event.stream_id <= self.last:
                    self.h2.send_headers(event.stream_id, [(":status", "200")])
                    self.h2.send_data(event.stream_id, b"late but whole", end_stream=True)
        self.transport.write(self.h2.data_to_send())


class Refusing(Leaving):
    last = 0


@pytest.mark.parametrize(
    ("server", "expected"), [(Leaving, (200, b"late but whole", "")), (Refusing, (0, b"", "closed"))]
)
def test_goaway(echo: EchoProgram, server: type[Leaving], expected: tuple[int, bytes, str]) -> None:
    async def begin() -> int:
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        return int(listener.sockets[0].getsockname()[1])

    port = echo.loop.run(begin())
    results = client.call(echo, echo.pod, f"http://127.0.0.1:{port}/", protocol="http2", count=3)
    assert [(r.status, r.body, r.error) for r in results.results] == [expected] * 3
    assert results.connections == 3
