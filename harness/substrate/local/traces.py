"""What a world leaves when its supervisor was killed: empty control groups and files. And their removal."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Final

from harness.substrate.api import SubstrateError
from harness.substrate.local import cgroups
from harness.substrate.local.paths import WorldPaths, run_dir

_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.01


def lock(paths: WorldPaths) -> int:
    """Hold the world for as long as this process lives (a POSIX lock: not inherited, gone with the process)."""
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise SubstrateError(f"world {paths.name} is held by another supervisor") from None
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def alive(paths: WorldPaths) -> bool:
    """Whether a supervisor holds the world."""
    try:
        fd = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def holder(paths: WorldPaths) -> int:
    """Pid of the supervisor that holds the world, as it wrote it into its lock; 0 when there is none."""
    try:
        return int(paths.lock.read_text() or "0") if alive(paths) else 0
    except (OSError, ValueError):
        return 0


def names() -> list[str]:
    """Every world that has a state folder, running or not."""
    folder = run_dir()
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def remove(paths: WorldPaths) -> None:
    """Remove every trace of a world that has no supervisor any more. Idempotent."""
    groups = [root / cgroups.ROOT / paths.name for root in cgroups.layout().roots]
    deadline = time.monotonic() + _SECONDS
    while [group for group in groups if not _remove_group(group)]:
        if time.monotonic() > deadline:
            left = ", ".join(str(group) for group in groups if group.exists())
            raise SubstrateError(f"control groups of world {paths.name} cannot be removed: {left}")
        time.sleep(_PAUSE_SECONDS)
    shutil.rmtree(paths.state, ignore_errors=True)
    if paths.state.exists():
        raise SubstrateError(f"{paths.state} cannot be removed; is something mounted or writing there?")


def _remove_group(group: Path) -> bool:
    if not group.exists():
        return True
    cgroups.kill_below(group)
    return cgroups.remove(group)
