"""Probes of the kubelet: HTTP, TCP and exec, from inside the pod's network namespace against 127.0.0.1.

From inside, so that a mesh that demands mutual TLS of everyone else needs no rewriting of probes: loopback is not
intercepted. HTTP and TCP cost one socket each and no process.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from harness.substrate.local import syscalls
from manifests.kube import HTTPGetAction, Probe

_MAX_HEAD: Final = 64 << 10
ExecProbe = Callable[[tuple[str, ...]], Awaitable[int]]


def _insecure() -> ssl.SSLContext:
    """The kubelet does not verify either: a probe asks whether it answers, not who."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def port_number(port: int | str, named: Mapping[str, int]) -> int:
    return named[port] if isinstance(port, str) and not port.isdigit() else int(port)


async def check(probe: Probe, netns: int, named_ports: Mapping[str, int], run: ExecProbe) -> str:
    """One probe, within its timeout. Empty when it succeeded, else why not."""
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            if probe.http_get is not None:
                return await _http(probe.http_get, netns, port_number(probe.http_get.port, named_ports))
            if probe.tcp_socket is not None:
                (await _connect(netns, port_number(probe.tcp_socket.port, named_ports))).close()
                return ""
            if probe.exec is not None:
                code = await run(tuple(probe.exec.command))
                return "" if code == 0 else f"exec {' '.join(probe.exec.command)}: exit {code}"
            return "the probe has no handler"
    except TimeoutError:
        return f"{_describe(probe)}: no answer within {probe.timeout_seconds:g} s"
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as exc:
        return f"{_describe(probe)}: {exc}"


def _describe(probe: Probe) -> str:
    if probe.http_get is not None:
        return f"GET {probe.http_get.scheme.lower()}://127.0.0.1:{probe.http_get.port}{probe.http_get.path}"
    if probe.tcp_socket is not None:
        return f"connect to 127.0.0.1:{probe.tcp_socket.port}"
    return "exec"


async def _connect(netns: int, port: int) -> socket.socket:
    with syscalls.entered(netns):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    return client


async def _http(action: HTTPGetAction, netns: int, port: int) -> str:
    client = await _connect(netns, port)
    try:
        context = _insecure() if action.scheme == "HTTPS" else None
        reader, writer = await asyncio.open_connection(
            sock=client, ssl=context, server_hostname="localhost" if context else None, limit=_MAX_HEAD
        )
    except BaseException:
        client.close()
        raise
    try:
        headers = {"Host": f"127.0.0.1:{port}", "User-Agent": "kube-probe/meshproof", "Accept": "*/*"}
        headers |= {header.name: header.value for header in action.http_headers}
        lines = [f"GET {action.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "Connection: close"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        status_line = (await reader.readuntil(b"\r\n")).decode("latin-1").split()
        status = int(status_line[1]) if len(status_line) > 1 else 0
    finally:
        # Not a reset: the server should see an orderly end.
        writer.close()
    return "" if 200 <= status < 400 else f"GET {action.path} on port {port}: status {status}"
