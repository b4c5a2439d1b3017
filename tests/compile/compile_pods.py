"""Pods for tests: two network namespaces joined by a veth, captured by iptables as a real sidecar pod is.

Needs root. The namespaces are anonymous, held by processes that die with the test.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROXY_UID = 1337


class Pod:
    """A network namespace with one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.device = ""
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.pid = self._holder.pid
        self._children: list[subprocess.Popen[bytes]] = []
        self.run("ip", "link", "set", "lo", "up")

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", "--net", f"--target={self.pid}", *command]

    def run(self, *command: str) -> str:
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def as_proxy(self) -> tuple[str, ...]:
        return tuple(self.inside("setpriv", f"--reuid={PROXY_UID}", f"--regid={PROXY_UID}", "--clear-groups"))

    def capture(self) -> None:
        """Istio's interception rules, as far as these tests need them."""
        for rule in (
            "-t nat -A OUTPUT -o lo -s 127.0.0.6/32 -j RETURN",
            f"-t nat -A OUTPUT -m owner --uid-owner {PROXY_UID} -j RETURN",
            "-t nat -A OUTPUT -d 127.0.0.1/32 -j RETURN",
            "-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001",
            "-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006",
        ):
            self.run("iptables", *rule.split())

    def python(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A server program inside; it must print `ready`."""
        process = subprocess.Popen(self.inside(sys.executable, "-c", code, *arguments), stdout=subprocess.PIPE)
        self._children.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def call(self, function: Any, *arguments: Any) -> Any:
        """`function`, run by a thread inside this network namespace."""
        result: list[Any] = []

        def enter() -> None:
            with Path(f"/proc/{self.pid}/ns/net").open() as namespace:
                _setns(namespace.fileno())
            try:
                result.append(function(*arguments))
            except Exception as exc:  # handed to the caller
                result.append(exc)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(60)
        assert result, "the call did not end in 60 s"
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def close(self) -> None:
        for process in [*self._children, self._holder]:
            process.kill()
            process.wait(10)
            if process.stdout:
                process.stdout.close()


def _setns(descriptor: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def pair(left: str, right: str) -> Iterator[tuple[Pod, Pod]]:
    """Two pods that reach each other, and believe that every other address lies behind the peer."""
    pods = (Pod(left), Pod(right))
    try:
        names = (f"cw{os.getpid()}a", f"cw{os.getpid()}b")
        subprocess.run(
            [
                *pods[0].inside("ip", "link", "add", names[0], "type", "veth", "peer"),
                "name",
                names[1],
                "netns",
                str(pods[1].pid),
            ],
            check=True,
            timeout=30,
        )
        for pod, name in zip(pods, names, strict=True):
            pod.device = name
            pod.run("ip", "address", "add", f"{pod.address}/24", "dev", name)
            pod.run("ip", "link", "set", name, "up")
            pod.run("ip", "route", "add", "default", "dev", name)
        yield pods
    finally:
        for pod in pods:
            pod.close()
