"""Where worlds keep their state: `/run/meshproof/<world>/`, private to root but for what pods are handed.

`MESHPROOF_RUN_DIR` moves the folder of all worlds, so that two users of one machine (or a test of `down --all`) do
not see each other's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from harness.substrate.api import SubstrateError

RUN_DIR_VARIABLE: Final = "MESHPROOF_RUN_DIR"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


def run_dir() -> Path:
    return Path(os.environ.get(RUN_DIR_VARIABLE) or "/run/meshproof")


class WorldPaths:
    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise SubstrateError(
                f"{name!r} cannot name a world; expected up to 40 lower-case letters, digits and hyphens (a DNS label)"
            )
        self.name = name
        self.state = run_dir() / name
        self.socket = self.state / "supervisor.sock"
        self.lock = self.state / "lock"
        self.log = self.state / "logs" / "supervisor.log"
        self.logs = self.state / "logs"
        self.cluster = self.state / "cluster"
        self.issuer = self.state / "issuer"
        self.pods = self.state / "pods"
        self.temporary = self.state / "tmp"
        self.staging = self.state / "root"
        self.hosts = self.state / "hosts"
        self.resolver = self.state / "resolver"
        """Folder of `resolv.conf` and `nsswitch.conf`: names come from the hosts file, and nobody is asked."""

    def make(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        private = (self.pods, self.temporary, self.staging)
        for folder in (self.logs, self.cluster, self.issuer, self.resolver, *private):
            folder.mkdir()
            folder.chmod(0o700 if folder in private else 0o755)  # whatever the umask
        (self.resolver / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1 ndots:1\n")
        (self.resolver / "nsswitch.conf").write_text(
            "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\n"
            "protocols: files\nservices: files\nethers: files\nrpc: files\n"
        )

        for file in self.resolver.iterdir():
            file.chmod(0o644)

    def write(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """Replace `path` atomically; a watcher of its folder sees one event and never a part."""
        temporary = self.temporary / f"{path.parent.name}.{path.name}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        temporary.chmod(mode)
        temporary.replace(path)

    @property
    def resolver_files(self) -> dict[str, str]:
        return {f"/etc/{path.name}": str(path) for path in sorted(self.resolver.iterdir())}
