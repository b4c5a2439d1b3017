"""`python -m harness.substrate.local.trial`: do once, in scratch namespaces, what a world will need of the kernel.

Prints a JSON object: what was tried to what came of it (empty when it worked). Everything made here is in
namespaces of this process and ends with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from harness.substrate.local import syscalls

INTERCEPTION: Final = """*nat
:OUTPUT ACCEPT [0:0]
-A OUTPUT -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
"""What a sidecar's init container loads: REDIRECT, and a match on who sent it."""

SERVICE: Final = """*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 192.0.2.1:80
COMMIT
*filter
:OUTPUT ACCEPT [0:0]
-A OUTPUT -p tcp -m conntrack ! --ctstate DNAT -m comment --comment x -j REJECT --reject-with tcp-reset
COMMIT
"""
"""What the node loads: DNAT to a random endpoint, connection tracking, REJECT."""


def _namespaces() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)


def _process_namespace() -> None:
    home = os.open("/proc/self/ns/pid", os.O_RDONLY)
    syscalls.unshare(syscalls.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        os._exit(0 if os.getpid() == 1 else 1)
    _, status = os.waitpid(child, 0)
    syscalls.setns(home, syscalls.CLONE_NEWPID)
    if status != 0:
        raise OSError("the child is not process 1")


def _veth() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as node:
        node.link("add", ifname="trial0", kind="veth", peer={"ifname": "trial1"})


def _rules(text: str) -> Callable[[], None]:
    def load() -> None:
        from harness.substrate.local.netfilter import RESTORE_ARGUMENTS, program

        argv = [program("iptables-restore"), *RESTORE_ARGUMENTS]
        done = subprocess.run(argv, input=text.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace").strip())

    return load


def _mounts() -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        syscalls.mount("tmpfs", name, "tmpfs")
        for folder in ("lower", "upper", "work", "merged"):
            (base / folder).mkdir()
        layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
        syscalls.mount("overlay", f"{base}/merged", "overlay", 0, layers)
        syscalls.umount(f"{base}/merged")
        syscalls.umount(name)


STEPS: Final[dict[str, Callable[[], None]]] = {
    "network, mount and host-name namespaces": _namespaces,
    "PID namespaces": _process_namespace,
    "veth links": _veth,
    "iptables REDIRECT and owner match": _rules(INTERCEPTION),
    "iptables DNAT, random choice and REJECT": _rules(SERVICE),
    "tmpfs and overlay mounts": _mounts,
}


def main() -> None:
    outcome: dict[str, str] = {}
    for name, step in STEPS.items():
        try:
            step()
        except Exception as exc:  # whatever goes wrong is the finding
            outcome[name] = f"{type(exc).__name__}: {exc}"
            if step is _namespaces:
                break  # nothing else may be tried outside of them
        else:
            outcome[name] = ""
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    main()
