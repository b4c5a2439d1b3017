"""The supervisor's side of the launcher: programs as awaitable values."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from harness.substrate.api import SubstrateError
from harness.substrate.local import launcher

_START_SECONDS: Final = 20.0
"""A fork and an exec; only a machine that has come to a halt takes longer."""
_RECEIVE_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class LaunchError(SubstrateError):
    """The program could not be started: not found, not executable, a mount refused."""


class Process:
    """A running program of the world. `exited` is done when it has ended."""

    def __init__(self, pidfd: int, inner: int) -> None:
        self._pidfd = pidfd
        self.inner = inner
        """Its pid in the world's PID namespace."""
        self.pid = launcher.pid_of(pidfd)
        self.exited: asyncio.Future[launcher.Ended] = asyncio.get_running_loop().create_future()

    def signal(self, number: int) -> None:
        """Send a signal; to this process and no other, even when its pid has been given away."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def end(self, report: launcher.Ended) -> None:
        os.close(self._pidfd)
        self._pidfd = -1
        if not self.exited.done():
            self.exited.set_result(report)


class Launcher:
    def __init__(self, channel: socket.socket, pid: int, on_death: Callable[[], None]) -> None:
        self.pid = pid
        self._channel = channel
        self._on_death = on_death
        self._next = 0
        self._starting: dict[int, asyncio.Future[Process]] = {}
        self._running: dict[int, Process] = {}
        self._decoder: msgspec.json.Decoder[launcher.Report] = msgspec.json.Decoder(launcher.Report)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._read)

    async def launch(self, request: launcher.Launch, netns: int, output: int) -> Process:
        """Start `request` (its `id` is given here). Raises `LaunchError`."""
        self._next += 1
        number = self._next
        data = msgspec.json.encode(msgspec.structs.replace(request, id=number))
        if len(data) > launcher.MAX_REQUEST:
            raise LaunchError(f"arguments and environment take {len(data)} bytes; at most {launcher.MAX_REQUEST}")
        trouble, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        started: asyncio.Future[Process] = self._loop.create_future()
        self._starting[number] = started
        try:
            try:
                socket.send_fds(self._channel, [data], [netns, output, theirs])
            finally:
                os.close(theirs)
            async with asyncio.timeout(_START_SECONDS):
                message = await self._until_closed(trouble)
                if message:
                    raise LaunchError(message)
                return await started
        except TimeoutError:
            raise LaunchError(f"{request.argv[0]} was not started within {_START_SECONDS:g} s") from None
        except OSError as exc:
            raise LaunchError(f"the launcher does not answer: {exc}") from None
        finally:
            os.close(trouble)
            self._starting.pop(number, None)

    async def _until_closed(self, fd: int) -> str:
        """Everything written to the pipe `fd` until its last writer is gone: executed, or dead."""
        text = bytearray()
        readable = asyncio.Event()
        self._loop.add_reader(fd, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    chunk = os.read(fd, 4096)
                except BlockingIOError:
                    continue
                if not chunk:
                    return text.decode(errors="replace")
                text += chunk
        finally:
            self._loop.remove_reader(fd)

    def _read(self) -> None:
        while True:
            try:
                # Not `socket.recv_fds`, which forgets its flags.
                data, ancillary, _, _ = self._channel.recvmsg(4096, socket.CMSG_SPACE(4), _RECEIVE_FLAGS)
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            if not data:
                self._loop.remove_reader(self._channel)
                self._on_death()
                return
            report = self._decoder.decode(data)
            if isinstance(report, launcher.Started):
                process = Process(launcher.descriptors(ancillary)[0], report.pid)
                self._running[report.pid] = process
                waiting = self._starting.get(report.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(process)
                else:
                    process.signal(signal.SIGKILL)  # whoever asked for it has given up
            else:
                ended = self._running.pop(report.pid, None)
                if ended is not None:
                    ended.end(report)

    def close(self) -> None:
        """Kill the launcher, and so everything in the world."""
        self._loop.remove_reader(self._channel)
        self._channel.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
