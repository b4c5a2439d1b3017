"""The node's packet rules: Service addresses, and the wall around the world.

`render` is pure: Services and their ready endpoints to the text that `iptables-restore` takes, applied in one
transaction. Only chains of our own are rewritten, so rules that others add to the built-in chains (a fault's
redirect) stay, and established flows keep the endpoint that connection tracking remembers.

* A Service's address is rewritten to a ready endpoint picked at random, as kube-proxy does; without one, it is refused.
* No address is masqueraded: a pod sees who really calls it. The one exception is a pod that reaches itself through
  its Service, whose answers would otherwise never pass the node.
* A packet for an address outside the world is counted before anything else sees it, and refused: RST for TCP,
  ICMP for the rest. A pod or Service address that nobody owns is refused too, but not counted.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from harness.environment import EnvironmentMissing, program_requirement
from harness.substrate.api import SubstrateError
from harness.substrate.local.network import CLOSED, NODE_IP, POD_NETWORK, SERVICE_NETWORK, VETH_PREFIX

SERVICES: Final = "MP-SERVICES"
OUTSIDE: Final = "MP-OUTSIDE"
_COUNTED: Final = "meshproof outside"
RESTORE_ARGUMENTS: Final = ("--noflush", "--wait")


class ServicePortRule(msgspec.Struct, frozen=True, kw_only=True):
    """One port of one Service, as packets know it."""

    ip: str
    port: int
    endpoints: tuple[tuple[str, int], ...]

    @property
    def chain(self) -> str:
        return "MP-" + hashlib.blake2b(f"{self.ip}:{self.port}".encode(), digest_size=8).hexdigest()


def base() -> str:
    """The rules that never change. (A packet of the node itself is routed before its Service address is rewritten,
    so it is still on its way to nowhere when OUTPUT sees it; DNAT tells that it no longer is.)"""
    return f"""*raw
:PREROUTING ACCEPT [0:0]
:{OUTSIDE} - [0:0]
-A PREROUTING -i {VETH_PREFIX}+ -j {OUTSIDE}
-A {OUTSIDE} -d {POD_NETWORK} -j RETURN
-A {OUTSIDE} -d {SERVICE_NETWORK} -j RETURN
-A {OUTSIDE} -m comment --comment "{_COUNTED}" -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:{SERVICES} - [0:0]
-A PREROUTING -d {SERVICE_NETWORK} -j {SERVICES}
-A OUTPUT -d {SERVICE_NETWORK} -j {SERVICES}
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -o {CLOSED} -p tcp -j REJECT --reject-with tcp-reset
-A FORWARD -o {CLOSED} -j REJECT --reject-with icmp-admin-prohibited
-A OUTPUT -o {CLOSED} -p tcp -m conntrack ! --ctstate DNAT -j REJECT --reject-with tcp-reset
-A OUTPUT -o {CLOSED} -m conntrack ! --ctstate DNAT -j REJECT --reject-with icmp-admin-prohibited
COMMIT
"""


def render(rules: Sequence[ServicePortRule], previous: Sequence[str] = ()) -> str:
    """Replace all Service rules. `previous` names the chains of the last time, so that those of gone Services go."""
    chains = {rule.chain for rule in rules}
    gone = [chain for chain in previous if chain not in chains]
    lines = ["*nat", f":{SERVICES} - [0:0]"]
    lines += [f":{chain} - [0:0]" for chain in sorted(chains | set(gone))]
    for rule in rules:
        lines.append(f"-A {SERVICES} -d {rule.ip}/32 -p tcp -m tcp --dport {rule.port} -j {rule.chain}")
        for position, (ip, port) in enumerate(rule.endpoints):
            left = len(rule.endpoints) - position
            chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            lines.append(f"-A {rule.chain} -p tcp -m tcp {chance}-j DNAT --to-destination {ip}:{port}")
    lines += [f"-X {chain}" for chain in gone]
    lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def hairpin(interface: str, ip: str, *, add: bool) -> str:
    """The rule by which the pod of `ip` can reach itself through its Service."""
    action = "-A" if add else "-D"
    return f"*nat\n{action} POSTROUTING -s {ip}/32 -d {ip}/32 -o {interface} -j SNAT --to-source {NODE_IP}\nCOMMIT\n"


def program(name: str) -> str:
    """Where the program is. Raises `EnvironmentMissing`."""
    requirement = program_requirement(name)
    if not requirement.found:
        raise EnvironmentMissing(requirement)
    return requirement.where


def restore(text: str) -> None:
    """Apply `text` in one transaction, in the calling thread's network namespace."""
    argv = [program("iptables-restore"), *RESTORE_ARGUMENTS]
    done = subprocess.run(argv, input=text.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise SubstrateError(f"{' '.join(argv)} refused the rules: {done.stderr.decode(errors='replace').strip()}")


def rejected() -> int:
    """Packets counted so far in the calling thread's network namespace."""
    argv = [program("iptables-save"), "--counters", "-t", "raw"]
    done = subprocess.run(argv, capture_output=True, check=False)
    match = re.search(rf'\[(\d+):\d+\] -A {OUTSIDE} .*"{_COUNTED}"', done.stdout.decode())
    if match is None:
        raise SubstrateError(f"the counting rule is gone from the node: {done.stderr.decode(errors='replace')}")
    return int(match.group(1))


def service_rules(
    ports: Mapping[tuple[str, int], Sequence[tuple[str, int]]],
) -> list[ServicePortRule]:
    """(cluster IP, port) to its ready endpoints, as rules in a fixed order."""
    return [
        ServicePortRule(ip=ip, port=port, endpoints=tuple(sorted(endpoints)))
        for (ip, port), endpoints in sorted(ports.items())
    ]
