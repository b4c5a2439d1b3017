"""What this machine must offer for a local run, and how to get what it lacks.

`check_local` looks without changing anything: what it tries, it tries in a child process with namespaces of its own.
"""

from __future__ import annotations

import os

import msgspec


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


def root_requirement() -> Requirement:
    return Requirement(
        name="root",
        found=os.geteuid() == 0,
        looked_for="root (to make namespaces, links and packet rules)",
        where=f"this process, which runs as uid {os.geteuid()}",
        fix="run the command as root, for example with sudo",
    )
