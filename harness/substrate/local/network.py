"""Links, addresses and routes of a world.

The *node* is the supervisor's own network namespace, anonymous and with no link to any other. Each pod has a
namespace with one end of a veth pair (`eth0`, a /32 address) whose other end, named after the pod's address, is on
the node. Routing as in Calico: the pod's default gateway is 169.254.1.1, every node end has the same MAC, and
neighbours are static, so no packet waits for ARP. Whatever has no route on the node goes to `closed0`, where packet
rules refuse it.

There is no IPv6. All work is done on one thread, because entering a namespace is a property of the thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from socket import AF_INET
from typing import Any, Final, TypeVar

from pyroute2 import IPRoute

from harness.substrate.local import syscalls

POD_NETWORK: Final = IPv4Network("10.244.0.0/16")
SERVICE_NETWORK: Final = IPv4Network("10.96.0.0/16")
NODE_IP: Final = "10.244.0.1"
GATEWAY: Final = "169.254.1.1"
GATEWAY_MAC: Final = "ee:ee:ee:ee:ee:ee"
CLOSED: Final = "closed0"
"""Where the node's default route leads; nothing is behind it."""
VETH_PREFIX: Final = "mp"

_PERMANENT: Final = 0x80
_LOOPBACK: Final = 1
_NO_IPV6: Final = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
_NODE_SYSCTLS: Final = {
    **_NO_IPV6,
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    # A pod that calls its own Service is answered on the interface it came from; the kernel need not advise on that.
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    # Every refused packet is answered at once, not once a second.
    "net/ipv4/icmp_ratelimit": "0",
}
_POD_SYSCTLS: Final = {
    **_NO_IPV6,
    "net/ipv4/conf/all/accept_redirects": "0",
    # As container engines do: inside its own namespace anyone may listen on port 80.
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}
T = TypeVar("T")


class PodLink:
    """A pod's network: its namespace (held by this descriptor, nothing else) and its node end."""

    def __init__(self, netns: int, ip: str, interface: str) -> None:
        self.netns = netns
        self.ip = ip
        self.interface = interface


class Network:
    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self._node: Any = None
        self._next = int(IPv4Address(NODE_IP)) + 1
        self._used: set[str] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """`work` on the network thread, in the node's namespace."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def open(self) -> None:
        await self.run(self._open_node)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._node is not None:
            self._node.close()

    def _open_node(self) -> None:
        for name, value in _NODE_SYSCTLS.items():
            syscalls.write_sysctl(name, value)
        self._node = IPRoute()
        self._node.link("set", index=_LOOPBACK, state="up")
        # A veth pair, because every kernel that runs pods has it; packet rules let nothing through to either end.
        self._node.link("add", ifname=CLOSED, kind="veth", peer={"ifname": f"{CLOSED}-peer"}, state="up")
        closed = self._index(self._node, CLOSED)
        self._node.link("set", index=self._index(self._node, f"{CLOSED}-peer"), state="up")
        self._node.addr("add", index=_LOOPBACK, address=NODE_IP, prefixlen=32)
        self._node.link("set", index=closed, arp=False)
        self._node.route("add", family=AF_INET, dst="0.0.0.0/0", oif=closed, scope="link", prefsrc=NODE_IP)

    def allocate(self) -> str:
        """The next free pod address. An address is reused only after all others, so that nobody who still knows a
        dead pod's address reaches a new one by it."""
        for _ in range(POD_NETWORK.num_addresses):
            address = IPv4Address(self._next)
            self._next += 1
            if self._next >= int(POD_NETWORK.broadcast_address):
                self._next = int(IPv4Address(NODE_IP)) + 1
            if str(address) not in self._used:
                self._used.add(str(address))
                return str(address)
        raise OSError(f"no address is free in {POD_NETWORK}")

    async def add(self, ip: str) -> PodLink:
        return await self.run(lambda: self._add(ip))

    async def remove(self, link: PodLink) -> None:
        await self.run(lambda: self._remove(link))

    def _add(self, ip: str) -> PodLink:
        octets = IPv4Address(ip).packed
        interface = f"{VETH_PREFIX}{octets[2]}-{octets[3]}"
        mac = "02:00:" + ":".join(f"{octet:02x}" for octet in octets)
        netns = syscalls.new_net_namespace()
        try:
            with syscalls.entered(netns):
                for name, value in _POD_SYSCTLS.items():
                    syscalls.write_sysctl(name, value)
                pod = IPRoute()
            node = self._node
            node.link(
                "add",
                ifname=interface,
                kind="veth",
                address=GATEWAY_MAC,
                peer={"ifname": "eth0", "net_ns_fd": netns, "address": mac},
                state="up",
            )
            index = self._index(node, interface)
            # The node's address on every node end: what REDIRECT on the node rewrites a destination to.
            node.addr("add", index=index, address=NODE_IP, prefixlen=32)
            node.neigh("add", dst=ip, lladdr=mac, ifindex=index, state=_PERMANENT)
            with pod:
                pod.link("set", index=_LOOPBACK, state="up")
                eth0 = self._index(pod, "eth0")
                pod.addr("add", index=eth0, address=ip, prefixlen=32)
                pod.link("set", index=eth0, state="up")
                pod.neigh("add", dst=GATEWAY, lladdr=GATEWAY_MAC, ifindex=eth0, state=_PERMANENT)
                pod.route("add", dst=f"{GATEWAY}/32", oif=eth0, scope="link")
                pod.route("add", dst="default", gateway=GATEWAY, oif=eth0)
            node.route("add", dst=f"{ip}/32", oif=index, scope="link", prefsrc=NODE_IP)
        except BaseException:
            os.close(netns)
            self._used.discard(ip)
            raise
        return PodLink(netns, ip, interface)

    def _remove(self, link: PodLink) -> None:
        """Close the pod's namespace. The veth is deleted first: the kernel clears namespaces away lazily, and the
        route must not outlive the pod."""
        for index in self._node.link_lookup(ifname=link.interface):
            self._node.link("del", index=index)
        os.close(link.netns)
        self._used.discard(link.ip)

    @staticmethod
    def _index(ip: Any, name: str) -> int:
        return int(ip.link_lookup(ifname=name)[0])
