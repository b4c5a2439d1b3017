"""The node-side redirect: which new connections of which pod go to Toxiproxy instead of straight on.

One iptables chain, at the head of the node's nat PREROUTING, rewritten whole in one transaction each time: what is
there is always a function of the rules last given, and removal is complete because it is one chain and one jump. A
rule names the pod by interface and address, so no other pod's traffic can match.

A destination may be a pod (what a sidecar dials) or a Service address (what an unmeshed app dials). The latter must
not lose its load balancing: for it there is a rule per endpoint, with the probabilities kube-proxy would use, of
which only those of the edge lead to Toxiproxy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence

import msgspec

from chaos.sockets import Endpoint
from harness.services.place import Place

CHAIN = "MESHPROOF-CHAOS"
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_COUNTED = re.compile(r"^\[(\d+):\d+\] -A " + CHAIN + r' .*--comment "?([^"\s]+)"?', re.MULTILINE)
_TARGET = re.compile(r"-A " + CHAIN + r" .*--to-destination (\d+\.\d+\.\d+\.\d+):(\d+)")


class RedirectError(Exception):
    """iptables refused, or did not do what it was asked to; the message has its words."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """New connections of one pod to one address go to `to`."""

    interface: str
    """The pod's end in the node namespace."""
    source: str
    destination: Endpoint
    to: Endpoint
    label: str = ""
    """What hits are counted under; empty for a rule that only keeps a Service's balance."""
    probability: float = 1.0
    """Chance of this rule, given that none before it took the connection."""

    def text(self) -> str:
        parts = [
            f"-A {CHAIN} -i {self.interface} -s {self.source}/32 -d {self.destination[0]}/32",
            f"-p tcp -m tcp --dport {self.destination[1]}",
        ]
        if self.probability < 1.0:
            parts.append(f"-m statistic --mode random --probability {self.probability:.10f}")
        if self.label:
            parts.append(f'-m comment --comment "{self.label}"')
        parts.append(f"-j DNAT --to-destination {self.to[0]}:{self.to[1]}")
        return " ".join(parts)


def balanced(
    interface: str,
    source: str,
    service: Endpoint,
    endpoints: Sequence[tuple[Endpoint, Endpoint | None, str]],
) -> list[Rule]:
    """Rules for one Service address: each endpoint with its proxy (None: straight on) and label, equally likely. No
    rule when no endpoint has a proxy: the Service's own rules do the same."""
    if not any(proxy for _, proxy, _ in endpoints):
        return []
    return [
        Rule(
            interface=interface,
            source=source,
            destination=service,
            to=proxy or endpoint,
            label=label if proxy else "",
            probability=1 / (len(endpoints) - position),
        )
        for position, (endpoint, proxy, label) in enumerate(endpoints)
    ]


def render(rules: Iterable[Rule], *, jumps: int) -> str:
    """The transaction that makes the chain hold exactly `rules`; `jumps` says how many jumps to it exist now."""
    lines = ["*nat", f":{CHAIN} - [0:0]", f"-F {CHAIN}"]
    lines += [rule.text() for rule in rules]
    if jumps == 0:
        lines.append(f"-I PREROUTING 1 -j {CHAIN}")
    lines += [f"-D PREROUTING -j {CHAIN}"] * (jumps - 1)
    return "\n".join([*lines, "COMMIT", ""])


def render_removal(*, jumps: int) -> str:
    """The transaction after which neither chain nor jump exists."""
    lines = ["*nat", f":{CHAIN} - [0:0]", *[f"-D PREROUTING -j {CHAIN}"] * jumps, f"-F {CHAIN}", f"-X {CHAIN}"]
    return "\n".join([*lines, "COMMIT", ""])


class Redirects:
    """The chain in one place's network namespace."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def apply(self, rules: Sequence[Rule]) -> None:
        """Make the chain hold exactly `rules` (removing it when there are none). Returns when the kernel has them."""
        if not rules:
            self.remove()
            return
        self._run("iptables-restore", "--noflush", "--wait", stdin=render(rules, jumps=self._jumps()))
        seen = self.targets()
        if seen != frozenset(rule.to for rule in rules):
            raise RedirectError(
                f"the node should redirect to {sorted({r.to for r in rules})}, and does to {sorted(seen)}"
            )

    def remove(self) -> None:
        """Remove chain and jump. Idempotent."""
        saved = self._saved()
        if CHAIN not in saved:
            return
        self._run("iptables-restore", "--noflush", "--wait", stdin=render_removal(jumps=self._jumps(saved)))
        if CHAIN in self._saved():
            raise RedirectError(f"chain {CHAIN} is still in the node's nat table after its removal")

    def present(self) -> bool:
        return CHAIN in self._saved()

    def targets(self) -> frozenset[Endpoint]:
        """Where the chain sends connections now."""
        return frozenset((host, int(port)) for host, port in _TARGET.findall(self._saved()))

    def hits(self) -> dict[str, int]:
        """Label to connections taken since the chain was last applied."""
        counted: dict[str, int] = {}
        for count, label in _COUNTED.findall(self._saved()):
            counted[label] = counted.get(label, 0) + int(count)
        return counted

    def _jumps(self, saved: str | None = None) -> int:
        text = self._saved() if saved is None else saved
        return len(re.findall(rf"-A PREROUTING .*?-j {CHAIN}\b", text))

    def _saved(self) -> str:
        return self._run("iptables-save", "--counters", "-t", "nat")

    def _run(self, program: str, *arguments: str, stdin: str = "") -> str:
        found = shutil.which(program) or shutil.which(program, path=_SBIN)
        if found is None:
            raise RedirectError(f"{program} was not found on PATH or in {_SBIN}; run: apt-get install iptables")
        process = self._place.popen(
            [found, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(stdin.encode(), timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise RedirectError(f"{program} did not end within 15 s") from None
        if process.returncode != 0:
            raise RedirectError(f"{program} refused: {err.decode(errors='replace').strip()[:600]}")
        return out.decode(errors="replace")
