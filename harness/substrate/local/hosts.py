"""Names in a world: `/etc/hosts` of each pod, changed under running programs.

A hosts file is bind-mounted, so it cannot be replaced, only written to; and a program may read it at any moment. So
a line keeps its place for life: a new name is appended, a gone one is blanked with `#` in a write of its own.
Whoever reads sees whole lines of what was, plus what is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

CLUSTER_DOMAIN: Final = "cluster.local"
_COMPACT_ABOVE: Final = 1 << 20
"""Bytes at which blank lines are given up; only then may a reader see a line twice or half."""


def service_names(service: str, namespace: str, seen_from: str) -> list[str]:
    """Every name of a Service, for pods of the namespace `seen_from`."""
    qualified = [
        f"{service}.{namespace}.svc.{CLUSTER_DOMAIN}",
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}",
    ]
    return [*qualified, service] if namespace == seen_from else qualified


def line(ip: str, names: Iterable[str]) -> str:
    return f"{ip} {' '.join(names)}"


LOCALHOST: Final = line("127.0.0.1", ["localhost"])


class HostsFile:
    """One file and the lines in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[str, int] = {}
        self._size = 0
        path.touch(mode=0o644)

    def update(self, lines: Iterable[str]) -> None:
        """Make `lines` the whole content."""
        wanted = list(dict.fromkeys(lines))
        gone = [text for text in self._offsets if text not in set(wanted)]
        new = [text for text in wanted if text not in self._offsets]
        if not gone and not new:
            return
        fd = os.open(self.path, os.O_WRONLY)
        try:
            if self._size > _COMPACT_ABOVE:
                self._offsets, self._size, gone, new = {}, 0, [], wanted
                os.ftruncate(fd, 0)
            if new:
                body = "".join(f"{text}\n" for text in new).encode()
                os.pwrite(fd, body, self._size)
                for text in new:
                    self._offsets[text] = self._size
                    self._size += len(text.encode()) + 1
            for text in gone:
                os.pwrite(fd, b"#" * len(text.encode()), self._offsets.pop(text))
        finally:
            os.close(fd)
