"""What the ADS server costs, as a ratio to the least a gRPC server could do: send the same bytes, read the same ACK.

Both run in one process with their clients, alternately, so that the machine's mood falls on both alike; CPU time of
the process, not wall time, is compared.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from xds_build import endpoints, held
from xds_client import Plane, plane

from mesh.resource import ENDPOINT, Resource

STREAMS = 60
ROUNDS = 15
LIMIT = 4.0
"""Ours does what the floor does, and: parse, compare, decide, account, and answer who has it."""

Round = Callable[[int], Awaitable[None]]


def resource(version: int) -> Resource:
    """About the size of a real assignment of three endpoints."""
    made = endpoints("outbound|9080||reviews.bookinfo.svc.cluster.local", str(version))
    return Resource(name=made.name, type_url=ENDPOINT, body=made.body.ljust(600, b"."), version=made.version)


async def acker(client: Any) -> None:
    """A client that ACKs whatever comes."""
    while True:
        response = await client.receive()
        await client.send(ENDPOINT, nonce=response.nonce)


@asynccontextmanager
async def ours(p: Plane) -> AsyncIterator[Round]:
    name = resource(0).name
    p.publish({ENDPOINT: held(resource(0))})
    async with AsyncExitStack() as stack:
        tasks = []
        for i in range(STREAMS):
            client = await stack.enter_async_context(p.connect(f"p{i}"))
            await client.send(ENDPOINT, subscribe=(name,))
            tasks.append(asyncio.create_task(acker(client)))

        async def one(number: int) -> None:
            answers = await p.hub.answers(p.publish({ENDPOINT: held(resource(number))}), deadline=30)
            assert answers.acked == STREAMS, answers

        await one(1)
        yield one
        for task in tasks:
            task.cancel()


class Floor(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Sends what it is given to every stream, and counts what comes back."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.acks = 0
        self.all = asyncio.Event()

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, _: Any, context: Any) -> None:
        await context.read()
        self.contexts.append(context)
        self.all.set()
        while isinstance(await context.read(), bytes):
            self.acks += 1
            if self.acks % STREAMS == 0:
                self.all.set()


@asynccontextmanager
async def floor(p: Plane) -> AsyncIterator[Round]:
    handler = Floor()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    issued = p.authority.issue_server(["control-plane.mesh-system.svc"], 600)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(issued.key, issued.chain)]))
    await server.start()
    own, p.port = p.port, port
    async with AsyncExitStack() as stack:
        tasks = []
        for i in range(STREAMS):
            client = await stack.enter_async_context(p.connect(f"f{i}"))
            await client.send(ENDPOINT)
            tasks.append(asyncio.create_task(acker(client)))
        p.port = own
        while len(handler.contexts) < STREAMS:
            handler.all.clear()
            await handler.all.wait()

        async def one(number: int) -> None:
            r = resource(number)
            message = discovery_pb2.DeltaDiscoveryResponse(type_url=ENDPOINT, nonce="1")
            added = message.resources.add(name=r.name, version=r.version)
            added.resource.type_url, added.resource.value = ENDPOINT, r.body
            data = message.SerializeToString()
            handler.all.clear()
            await asyncio.gather(*(context.write(data) for context in handler.contexts))
            await handler.all.wait()

        await one(1)
        yield one
        for task in tasks:
            task.cancel()
    await server.stop(0)


def test_a_push_costs_a_small_multiple_of_the_least_possible(tmp_path: Path) -> None:
    async def body() -> tuple[list[float], list[float]]:
        mine: list[float] = []
        least: list[float] = []
        async with plane(tmp_path) as p, ours(p) as push, floor(p) as bare:
            for number in range(2, 2 + ROUNDS):
                for act, spent in ((push, mine), (bare, least)):
                    started = time.process_time()
                    await act(number)
                    spent.append(time.process_time() - started)
        return mine, least

    mine, least = asyncio.run(body())
    ratio = statistics.median(mine) / statistics.median(least)
    each = [statistics.median(spent) / STREAMS * 1e6 for spent in (mine, least)]
    print(f"CPU per push and ACK, clients included: {each[0]:.0f} µs, floor {each[1]:.0f} µs, ratio {ratio:.2f}")
    assert ratio < LIMIT
