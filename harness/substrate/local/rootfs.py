"""The file system a container sees: the host's, read-only, with private `/tmp`, `/run` and `/dev/shm`, its own
`/proc` and the volumes of its pod.

There are no images: what runs is what the host has. The interpreter may live below a home that nobody else may enter
(`/root`, mode 0700); such a folder is replaced by an empty one in which only the trees that programs need (interpreter,
virtual environment, this project) are present.

`plan` is pure but for `stat`; `build` acts on the calling process, which must have a mount namespace of its own and be
in the PID namespace that `/proc` is to show. Nothing is ever written to the host's file systems: a mount point
that the host does not have is made in an overlay whose upper layer is the container's own tmpfs.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness.substrate.local import syscalls as sys_calls

PRIVATE: Final = {"/tmp": "mode=1777,size=256m", "/run": "mode=755,size=16m", "/dev/shm": "mode=1777,size=64m"}
"""Folders that are empty and writable in each container, as in an image; sizes bound what a runaway can take."""

_OVERLAYS: Final = "/.overlay"
_OLD_ROOT: Final = "/.host"
_PACKAGE_ROOT: Final = Path(__file__).resolve().parents[3]


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    target: str
    read_only: bool = False


class RootPlan(msgspec.Struct, frozen=True, kw_only=True):
    staging: str
    """An empty folder to build the new root on."""
    trees: tuple[str, ...]
    """Folders of the host that stay where they are even when an ancestor is hidden."""
    hidden: tuple[str, ...]
    """Folders replaced by an empty tmpfs, parents before children."""
    binds: tuple[Bind, ...] = ()


def needed_trees() -> tuple[str, ...]:
    """Where this interpreter, its environment and this project live."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(_PACKAGE_ROOT), sysconfig.get_path("stdlib")}
    places.add(str(Path(sys.executable).parent))
    places.add(str(Path(os.path.realpath(sys.executable)).parent))
    places |= {os.path.realpath(place) for place in places}
    return _outermost(place for place in places if Path(place).is_dir() and place != "/")


def _outermost(places: Iterable[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for place in sorted(set(places)):
        if not any(_below(place, other) for other in kept):
            kept.append(place)
    return tuple(kept)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def closed_ancestors(trees: Iterable[str]) -> tuple[str, ...]:
    """The outermost folder above each of `trees` that others than its owner may not enter."""
    closed = set()
    for tree in trees:
        for ancestor in reversed(Path(tree).parents):
            if not ancestor.stat().st_mode & stat.S_IXOTH:
                closed.add(str(ancestor))
                break
    return tuple(sorted(closed))


def plan(staging: Path, trees: Sequence[str]) -> RootPlan:
    hidden = _outermost([*closed_ancestors(trees), "/tmp", "/run"])
    return RootPlan(staging=str(staging), trees=tuple(trees), hidden=hidden)


def build(root: RootPlan) -> None:
    """Make the calling process see `root`, and nothing but `root`."""
    sys_calls.mount("", "/", flags=sys_calls.MS_REC | sys_calls.MS_PRIVATE)
    # Taken now, because what they name is about to be covered.
    trees = {tree: os.open(tree, os.O_PATH | os.O_CLOEXEC) for tree in root.trees}
    sources = [os.open(bind.source, os.O_PATH | os.O_CLOEXEC) for bind in root.binds]
    new = root.staging
    sys_calls.mount("tmpfs", new, "tmpfs", sys_calls.MS_NOSUID, "mode=755,size=64m")
    _host_entries(new, root.hidden)
    Path(new, "proc").mkdir(exist_ok=True)
    sys_calls.mount("proc", f"{new}/proc", "proc", sys_calls.MS_NOSUID | sys_calls.MS_NODEV | sys_calls.MS_NOEXEC)
    for folder in root.hidden:
        options = PRIVATE.get(folder, "mode=711,size=1m")
        sys_calls.mount("tmpfs", new + folder, "tmpfs", sys_calls.MS_NOSUID | sys_calls.MS_NODEV, options)
    if Path("/dev/shm").is_dir():
        sys_calls.mount("tmpfs", f"{new}/dev/shm", "tmpfs", sys_calls.MS_NOSUID, PRIVATE["/dev/shm"])
    for tree, fd in trees.items():
        if any(_below(tree, folder) for folder in root.hidden):
            Path(new + tree).mkdir(parents=True, exist_ok=True, mode=0o755)
            _bind_fd(fd, new + tree, read_only=True)
    Path(new + _OVERLAYS).mkdir(mode=0o755)
    Path(new + _OLD_ROOT).mkdir(mode=0o700)
    os.chdir(new)
    sys_calls.pivot_root(".", f".{_OLD_ROOT}")
    os.chdir("/")
    for bind, fd in zip(root.binds, sources, strict=True):
        _mount_point(bind.target, is_dir=stat.S_ISDIR(os.fstat(fd).st_mode))
    for bind, fd in zip(root.binds, sources, strict=True):
        _bind_fd(fd, bind.target, read_only=bind.read_only)
    for fd in (*trees.values(), *sources):
        os.close(fd)
    sys_calls.umount(_OLD_ROOT, sys_calls.MNT_DETACH)
    Path(_OLD_ROOT).rmdir()


def _host_entries(new: str, hidden: Sequence[str]) -> None:
    with os.scandir("/") as entries:
        for entry in entries:
            target = f"{new}/{entry.name}"
            if entry.is_symlink():
                Path(target).symlink_to(Path(entry.path).readlink())
            elif entry.name == "proc" or not entry.is_dir():
                continue
            else:
                os.mkdir(target, 0o755)  # noqa: PTH102 - runs between fork and exec for every container: keep it cheap
                if entry.path not in hidden:
                    sys_calls.mount(entry.path, target, flags=sys_calls.MS_BIND | sys_calls.MS_REC)
                    sys_calls.read_only(target)


def _bind_fd(fd: int, target: str, *, read_only: bool) -> None:
    sys_calls.mount(f"/proc/self/fd/{fd}", target, flags=sys_calls.MS_BIND | sys_calls.MS_REC)
    if read_only:
        sys_calls.read_only(target)


def _mount_point(target: str, *, is_dir: bool) -> None:
    """See that `target` exists; where the host has no such path, make it in an overlay of its nearest folder."""
    path = Path(os.path.realpath(target))
    if path.exists():
        return
    ancestor = next(parent for parent in path.parents if parent.is_dir())
    if not _make(path, is_dir=is_dir):
        _overlay(str(ancestor))
        if not _make(path, is_dir=is_dir):
            raise OSError(f"mount point {target} cannot be made")


def _make(path: Path, *, is_dir: bool) -> bool:
    try:
        folder = path if is_dir else path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        if not is_dir:
            path.touch()
    except OSError:
        return False
    return True


def _overlay(folder: str) -> None:
    layers = Path(_OVERLAYS, str(len(os.listdir(_OVERLAYS))))  # noqa: PTH208 - see above
    upper, work = layers / "upper", layers / "work"
    upper.mkdir(parents=True, mode=0o755)
    work.mkdir()
    lower = folder.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    sys_calls.mount("overlay", folder, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")
