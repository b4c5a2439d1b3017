"""All listeners of the echo program, wired together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import msgspec

from harness.workloads.clock import Clock
from harness.workloads.echo import protocol as ports
from harness.workloads.echo.caller import Caller
from harness.workloads.echo.control import Control, health
from harness.workloads.echo.http2_server import Http2Listener
from harness.workloads.echo.http_server import HttpEcho
from harness.workloads.echo.journal import Journal
from harness.workloads.echo.protocol import Instance
from harness.workloads.echo.tcp_server import LineServer, Sniffer
from harness.workloads.http1 import Server
from harness.workloads.process import BACKLOG, settle_memory, told_to_stop, wind_down

LOOPBACK = "127.0.0.1"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen; 0 lets the kernel choose. `Running.ports` says what it chose."""

    http: int = ports.HTTP_PORT
    http2: int = ports.HTTP2_PORT
    grpc: int = ports.GRPC_PORT
    tcp: int = ports.TCP_PORT
    tcp_server: int = ports.TCP_SERVER_PORT
    auto: int = ports.AUTO_PORT
    health: int = ports.HEALTH_PORT
    control: int = ports.CONTROL_PORT


def instance_of(environ: Mapping[str, str]) -> Instance:
    """Who this process is: `POD_NAME`, `POD_NAMESPACE`, `SERVICE_VERSION`, `SERVICE_ACCOUNT`."""
    return Instance(
        pod=environ.get("POD_NAME", ""),
        namespace=environ.get("POD_NAMESPACE", ""),
        version=environ.get("SERVICE_VERSION", ""),
        service_account=environ.get("SERVICE_ACCOUNT", ""),
    )


class Running:
    """An echo program that listens."""

    def __init__(self, instance: Instance) -> None:
        self.clock = Clock()
        self.journal = Journal(instance, self._connections)
        self.http = Server(HttpEcho(self.journal, self.clock))
        self.http2 = Http2Listener(self.journal, self.clock)
        self.control = Server(Control(self.journal, Caller(self.clock)))
        self.listeners: list[asyncio.Server] = []
        self.ports = Ports()

    async def listen(self, wanted: Ports, host: str = "0.0.0.0") -> None:
        journal, clock = self.journal, self.clock

        def lines() -> LineServer:
            return LineServer(journal, clock)

        factories: dict[str, Callable[[], asyncio.Protocol]] = {
            "http": self.http,
            "http2": self.http2,
            "grpc": self.http2,
            "tcp": lines,
            "tcp_server": lambda: LineServer(journal, clock, speaks_first=True),
            "auto": lambda: Sniffer(self.http, self.http2, lines),
            "health": Server(health),
            "control": self.control,
        }
        loop = asyncio.get_running_loop()
        chosen = {}
        for name, factory in factories.items():
            where = LOOPBACK if name == "control" else host
            listener = await loop.create_server(factory, where, getattr(wanted, name), backlog=BACKLOG)
            self.listeners.append(listener)
            chosen[name] = int(listener.sockets[0].getsockname()[1])
        self.ports = Ports(**chosen)

    async def stop(self) -> None:
        await wind_down(self.listeners, [self.http, self.http2])

    def _connections(self) -> tuple[int, int, int]:
        return self.http.opened, len(self.http.connections), self.http.peak


async def run() -> None:
    """Listen on every port until told to stop."""
    stop = told_to_stop()
    running = Running(instance_of(os.environ))
    await running.listen(Ports())
    settle_memory()
    await stop.wait()
    await running.stop()
