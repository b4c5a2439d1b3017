"""TCP connections inside a namespace, as the kernel's sock_diag shows them, and ending them one by one.

A redirect in the node namespace holds for new connections only: conntrack decided about the others when they began. To
move an edge, its open connections must end and be made anew. They are ended where they were opened (SOCK_DESTROY in
the client's namespace: the client sees ECONNABORTED, the peer a reset), and only when no request is under way, as far
as TCP can tell: the last thing that happened is data *received*, a while ago. Requests that are under way are waited
for, up to a deadline.
"""

from __future__ import annotations

import errno
import os
import socket as sockets
import struct
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.diag import (
    SOCK_DESTROY,
    SOCK_DIAG_BY_FAMILY,
    SS_CLOSE_WAIT,
    SS_ESTABLISHED,
    inet_diag_msg,
    inet_diag_req,
)

NETLINK_SOCK_DIAG = 4
_INFO = 1 << (2 - 1)
"""Ask for INET_DIAG_INFO (2), tcp_info."""
_OPEN = (1 << SS_ESTABLISHED) | (1 << SS_CLOSE_WAIT)
_NO_COOKIE = 0xFFFFFFFFFFFFFFFF
_HEADER = struct.Struct("=IHHII")

QUIET = 0.008
"""Seconds without data after which a connection whose last event was an answer counts as idle. Longer than the gaps
within one answer on one machine, shorter than those between the requests of a pooled connection."""

UNSURE_QUIET = 0.1
"""The same when sending and receiving fell into one tick of the kernel's clock (1 to 10 ms), so that either may have
been last: longer than most requests take."""

Endpoint = tuple[str, int]
MakeSocket = Callable[[int, int, int], sockets.socket]
"""Family, type, protocol to a socket of the namespace looked at."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One open TCP connection, from the side that was looked at."""

    local: Endpoint
    remote: Endpoint
    cookie: int
    """The kernel's own name of the socket, never reused: what is destroyed is what was seen."""
    since_sent: float
    since_received: float
    uid: int
    """Owner of the socket: 1337 is the sidecar."""
    unanswered: int
    """Bytes and segments not yet acknowledged, not yet sent, or not yet read by the program."""

    unheard: bool = False
    """It has sent data and never received any."""

    def idle(self, patience: float = 1.0) -> bool:
        """No request seems under way: nothing pending, and the last data was received, a while ago. `patience` scales
        how long ago. A connection that never carried data (a pool's spare) has both times at its age."""
        if self.unanswered or self.unheard or self.since_received > self.since_sent:
            return False
        quiet = QUIET if self.since_received < self.since_sent else UNSURE_QUIET
        return self.since_received >= quiet * patience


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """How connections were ended."""

    idle: int = 0
    """Ended with no request under way."""
    forced: int = 0
    """Ended at the deadline although a request may have been under way."""
    seconds: float = 0.0

    def __add__(self, other: Drained) -> Drained:
        return Drained(
            idle=self.idle + other.idle, forced=self.forced + other.forced, seconds=max(self.seconds, other.seconds)
        )


class SocketTable:
    """The TCP sockets of one namespace. Use as a context manager."""

    def __init__(self, make: MakeSocket) -> None:
        self._socket = make(sockets.AF_NETLINK, sockets.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._socket.settimeout(5.0)
        self._sequence = 0

    def __enter__(self) -> SocketTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def connections(self) -> list[Connection]:
        """Every open IPv4 connection, IPv4 spoken through an IPv6 socket included."""
        found: list[Connection] = []
        for family in (sockets.AF_INET, sockets.AF_INET6):
            request = self._request(family, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP)
            request["idiag_states"] = _OPEN
            request["idiag_ext"] = _INFO
            found += [_connection(message) for message in self._exchange(request)]
        return found

    def destroy(self, connection: Connection) -> bool:
        """End the connection; False when it had ended by itself."""
        request = self._request(sockets.AF_INET, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK)
        request["idiag_states"] = _OPEN
        request["idiag_sport"] = connection.local[1]
        request["idiag_dport"] = connection.remote[1]
        request["idiag_src"] = (_number(connection.local[0]), 0, 0, 0)
        request["idiag_dst"] = (_number(connection.remote[0]), 0, 0, 0)
        request["idiag_cookie"] = connection.cookie
        try:
            list(self._exchange(request))
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ESTALE):
                return False
            if exc.errno == errno.EOPNOTSUPP:
                raise OSError(
                    exc.errno, "this kernel cannot end connections (CONFIG_INET_DIAG_DESTROY is off)"
                ) from exc
            raise
        return True

    def _request(self, family: int, type_: int, flags: int) -> inet_diag_req:
        self._sequence += 1
        request = inet_diag_req()
        request["header"]["type"] = type_
        request["header"]["flags"] = flags
        request["header"]["sequence_number"] = self._sequence
        request["sdiag_family"] = family
        request["sdiag_protocol"] = sockets.IPPROTO_TCP
        return request

    def _exchange(self, request: inet_diag_req) -> Iterator[bytes]:
        """Send, and yield the answers to exactly this request."""
        request.encode()
        self._socket.send(request.data)
        while True:
            data = self._socket.recv(1 << 18)
            offset = 0
            while offset < len(data):
                length, type_, _flags, sequence, _pid = _HEADER.unpack_from(data, offset)
                message = data[offset : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if type_ == NLMSG_DONE:
                    return
                if type_ == NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", message, _HEADER.size)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield message


def _number(address: str) -> int:
    number: int = struct.unpack(">I", sockets.inet_aton(address))[0]
    return number


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def _connection(data: bytes) -> Connection:
    message = inet_diag_msg(data)
    message.decode()
    info = message.get_attr("INET_DIAG_INFO") or {}
    return Connection(
        local=(_plain(message["idiag_src"]), message["idiag_sport"]),
        remote=(_plain(message["idiag_dst"]), message["idiag_dport"]),
        cookie=message["idiag_cookie"],
        uid=message["idiag_uid"],
        since_sent=info.get("tcpi_last_data_sent", 0) / 1000,
        since_received=info.get("tcpi_last_data_recv", 0) / 1000,
        unheard=info.get("tcpi_data_segs_out", 0) > 0 and info.get("tcpi_data_segs_in", 0) == 0,
        unanswered=message["idiag_rqueue"] + message["idiag_wqueue"] + info.get("tcpi_unacked", 0),
    )


def drain(make: MakeSocket, wanted: Callable[[Connection], bool], *, deadline: float = 2.0) -> Drained:
    """End every connection of the namespace that is open now and that `wanted` names: each as soon as it is idle, and
    those still busy after `deadline` seconds by force. Connections made meanwhile are left alone."""
    started = time.monotonic()
    idle = forced = 0
    with SocketTable(make) as table:
        left = {connection.cookie for connection in table.connections() if wanted(connection)}
        while left:
            elapsed = time.monotonic() - started
            # After half the time, settle for less and less quiet: a connection in steady use never shows more.
            patience = min(1.0, max(0.0, 2.0 * (1.0 - elapsed / deadline))) if deadline > 0 else 0.0
            open_now = {c.cookie: c for c in table.connections() if c.cookie in left}
            left &= open_now.keys()
            for cookie, connection in open_now.items():
                if connection.idle(patience):
                    idle += table.destroy(connection)
                    left.discard(cookie)
                elif elapsed >= deadline:
                    forced += table.destroy(connection)
                    left.discard(cookie)
            if left:
                time.sleep(0.002)
    return Drained(idle=idle, forced=forced, seconds=time.monotonic() - started)


def towards(targets: Iterable[Endpoint], *, uid: int | None = None) -> Callable[[Connection], bool]:
    """Connections whose other end is one of `targets`; with `uid`, only those that it owns."""
    ends = frozenset(targets)
    return lambda connection: connection.remote in ends and uid in (None, connection.uid)


def opened_from(ends: Iterable[Endpoint]) -> Callable[[Connection], bool]:
    """Connections whose own end is one of `ends`."""
    own = frozenset(ends)
    return lambda connection: connection.local in own
