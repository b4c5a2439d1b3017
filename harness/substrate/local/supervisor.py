"""The process that is a world: `python -m harness.substrate.local.supervisor NAME ...`; started by `LocalWorld.create`.

It lives in the world's node namespace, holds every pod's namespace as an open descriptor, and is the parent of the
launcher, in whose PID namespace all else runs. When it ends, in whatever way, the kernel takes all of that with it.

An *attached* world ends with the process that made it; a detached one when told to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from harness.substrate.api import SubstrateError
from harness.substrate.local import cgroups, launcher, syscalls, traces
from harness.substrate.local.hosts import LOCALHOST
from harness.substrate.local.paths import WorldPaths
from harness.substrate.local.protocol import Reply, Request, WireDocument, pack, read
from manifests import InvalidManifests

if TYPE_CHECKING:
    from harness.substrate.local.world import World

log = logging.getLogger("supervisor")
READY: Final = b"ready"
_STALLED_SECONDS: Final = 60
"""A supervisor whose loop has not turned for this long serves nobody and cannot even go down: it is ended."""
Handler = Callable[[dict[str, Any]], Awaitable[Any]]


def main() -> None:
    options = _options()
    paths = WorldPaths(options.name)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o022)
    try:
        held = traces.lock(paths)
        syscalls.unshare(syscalls.CLONE_NEWNET)
        paths.hosts.write_text(LOCALHOST + "\n")
        channel, pid = launcher.start(paths.hosts, paths.resolver_files)
        asyncio.run(Supervisor(paths, options.attached, options.ready).run(channel, pid))
    except Exception as exc:
        log.exception("the world could not be made")
        _tell(options.ready, f"{type(exc).__name__}: {exc}".encode())
        raise SystemExit(1) from None
    os.close(held)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m harness.substrate.local.supervisor")
    parser.add_argument("name")
    parser.add_argument("--attached", type=int, default=0, metavar="PID", help="end when this process ends")
    parser.add_argument("--ready", type=int, required=True, metavar="FD", help="where to say that the world is there")
    return parser.parse_args()


def _tell(fd: int, message: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, message)
        os.close(fd)


class Supervisor:
    def __init__(self, paths: WorldPaths, attached: int, ready: int) -> None:
        self._paths = paths
        self._attached = attached
        self._ready = ready
        self._end = asyncio.Event()
        self._ended = asyncio.Event()
        self._owner = -1
        """A pidfd of the process to which the world is attached."""
        self._reason = ""
        self._replies: set[asyncio.Task[None]] = set()

    async def run(self, channel: Any, pid: int) -> None:
        # Imported after the launcher was forked, so that it stays small: every container starts as its copy.
        from harness.substrate.local.network import Network
        from harness.substrate.local.processes import Launcher
        from harness.substrate.local.world import World

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._finish, f"signal {number}")
        if self._attached:
            self._owner = os.pidfd_open(self._attached)
            reason = f"process {self._attached}, to which it was attached, has ended"
            loop.add_reader(self._owner, self._finish, reason)
        programs = Launcher(channel, pid, lambda: self._finish("the launcher has died"))
        network = Network()
        world = World(self._paths, programs, network, cgroups.layout())
        server: asyncio.Server | None = None
        try:
            await world.open()
            handlers = self._handlers(world, pid)
            server = await asyncio.start_unix_server(
                lambda reader, writer: self._serve(handlers, reader, writer), str(self._paths.socket)
            )
            self._paths.socket.chmod(0o600)
            _tell(self._ready, READY)
            heart = asyncio.create_task(_beat())
            await self._end.wait()
            heart.cancel()
            log.info("going down: %s", self._reason)
        finally:
            signal.alarm(_STALLED_SECONDS)
            self._detach()
            if server is not None:
                server.close()
            programs.close()
            await world.close()
            network.close()
            await asyncio.to_thread(traces.remove, self._paths)
            self._ended.set()
            if self._replies:
                await asyncio.wait(self._replies, timeout=2.0)

    def _finish(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._end.set()

    def _detach(self) -> None:
        if self._owner >= 0:
            asyncio.get_running_loop().remove_reader(self._owner)
            os.close(self._owner)
            self._owner, self._attached = -1, 0

    def _handlers(self, world: World, launcher_pid: int) -> dict[str, Handler]:
        async def apply(p: dict[str, Any]) -> None:
            documents = msgspec.convert(p["documents"], list[WireDocument])
            await world.apply([document.document() for document in documents])

        async def container(p: dict[str, Any], act: str) -> None:
            runner = world.runner(p["namespace"], p["pod"])
            name = p.get("container")
            for target in [runner.runner(name)] if name else [r for r in runner.runners if r.info.pid]:
                done = getattr(target, act)()
                if done is not None:
                    await done
            await world.flush()

        async def add_webhook(p: dict[str, Any]) -> None:
            from harness.substrate.api import Webhook

            hook = msgspec.convert(p["webhook"], Webhook)
            world.webhooks[:] = [*(other for other in world.webhooks if other.name != hook.name), hook]

        async def down(_: dict[str, Any]) -> None:
            self._finish("told to")
            await self._ended.wait()

        async def detach(_: dict[str, Any]) -> None:
            self._detach()

        async def info(_: dict[str, Any]) -> dict[str, Any]:
            return {"pid": os.getpid(), "launcher": launcher_pid, "attached": bool(self._attached)}

        async def settled(look: Callable[[], Any]) -> Any:
            """What is told about pods is already in effect: packets and names obey it."""
            await world.settle()
            return look()

        async def now(value: Any) -> Any:
            return value

        return {
            "apply": apply,
            "add_webhook": add_webhook,
            "info": info,
            "down": down,
            "detach": detach,
            "delete": lambda p: world.delete(p["kind"], p["namespace"], p["name"]),
            "wait_ready": lambda p: world.wait_ready(p["deadline"], p["namespace"]),
            "pods": lambda p: settled(lambda: world.pods(p["namespace"], p["labels"])),
            "pod": lambda p: settled(lambda: world.runner(p["namespace"], p["name"]).info),
            "services": lambda p: now(world.services(p["namespace"])),
            "deployments": lambda p: now(world.deployments(p["namespace"])),
            "scale": lambda p: world.scale(p["namespace"], p["deployment"], p["replicas"]),
            "delete_pod": lambda p: world.delete_pod(p["namespace"], p["name"]),
            "restart": lambda p: container(p, "restart"),
            "kill": lambda p: container(p, "kill"),
            "pause": lambda p: container(p, "pause"),
            "resume": lambda p: container(p, "resume"),
            "logs": lambda p: now(world.logs(p["namespace"], p["pod"], p["container"])),
            "usage": lambda p: now(world.usage(p["namespace"], p["pod"])),
            "resolve": lambda p: now(world.resolve(p["host"], p["namespace"])),
            "rejected": lambda _: world.rejected(),
        }

    async def _serve(
        self, handlers: dict[str, Handler], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._replies.add(task)
        try:
            request = await read(reader, Request)
            work = asyncio.ensure_future(_answer(handlers, request))
            hung_up = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({work, hung_up}, return_when=asyncio.FIRST_COMPLETED)
            hung_up.cancel()
            if not work.done() and request.method != "down":
                work.cancel()  # nobody waits for it any more
                return
            writer.write(pack(await work))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError, SubstrateError) as exc:
            log.warning("a client was not served: %s", exc)
        finally:
            self._replies.discard(task)
            writer.close()


async def _beat() -> None:
    """Put off the kernel's alarm, whose default action is to end this process."""
    while True:
        signal.alarm(_STALLED_SECONDS)
        await asyncio.sleep(_STALLED_SECONDS / 10)


async def _answer(handlers: dict[str, Handler], request: Request) -> Reply:
    handler = handlers.get(request.method)
    if handler is None:
        return Reply(status="error", message=f"the supervisor does not know {request.method!r}; another version?")
    try:
        return Reply(status="ok", value=msgspec.to_builtins(await handler(request.params)))
    except InvalidManifests as exc:
        return Reply(status="invalid", invalid=list(exc.errors))
    except SubstrateError as exc:
        return Reply(status="error", message=str(exc))
    except Exception as exc:
        log.exception("%s failed", request.method)
        return Reply(status="error", message=f"{request.method}: {type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
