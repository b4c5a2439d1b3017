"""The few Linux calls that Python 3.11 does not wrap: namespaces, mounts, capabilities, hole punching.

Every function raises `OSError` with the call's name and arguments; none keeps state.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.syscall.restype = ctypes.c_long

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_SLAVE: Final = 0x80000
MNT_DETACH: Final = 2

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 0x1
# Numbers above 423 are the same on every architecture.
_SYS_MOUNT_SETATTR: Final = 442
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

LAST_CAPABILITY: Final = 63
"""One more than any kernel has; dropping an unknown one fails harmlessly."""


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), f"setns({fd}, {kind:#x})")


def setfsuid(uid: int) -> None:
    """Files and sockets the calling thread makes from now on belong to `uid`. Of this thread alone: the C library does
    not spread it to the others, as it does with setuid."""
    _libc.setfsuid(uid)
    if _libc.setfsuid(-1) != uid:  # it reports no error: ask again to see
        raise PermissionError(f"setfsuid({uid}): not permitted; run as root")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode() or None, flags, data.encode() or None)
    _check(result, f"mount({source!r}, {target!r}, {kind!r}, {flags:#x}, {data!r})")


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), f"umount2({target!r}, {flags})")


def read_only(target: str) -> None:
    """Make the mount at `target` and all below it read-only. Kernels before 5.12 cannot: then nothing changes."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def pivot_root(new: str, old: str) -> None:
    machine = os.uname().machine
    number = _SYS_PIVOT_ROOT.get(machine)
    if number is None:
        raise OSError(f"pivot_root: its number on {machine} is not known here")
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_char_p(os.fsencode(new)), ctypes.c_char_p(os.fsencode(old)))
    _check(int(result), f"pivot_root({new!r}, {old!r})")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when the *thread* that forked it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def no_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def limit_capabilities(keep: frozenset[int]) -> None:
    """Drop every capability but `keep` from the bounding set: what a program executed from now on can have."""
    for capability in range(LAST_CAPABILITY):
        if capability not in keep and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the disk blocks of a range back; the file's size and the offsets of what follows stay."""
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    _check(_libc.fallocate(fd, mode, offset, length), f"fallocate(PUNCH_HOLE, {offset}, {length})")


def net_namespace() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def new_net_namespace() -> int:
    """Make a network namespace and return its descriptor; the caller stays where it was."""
    home = net_namespace()
    try:
        unshare(CLONE_NEWNET)
        try:
            return net_namespace()
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """The calling thread is in the network namespace of `fd` inside. Nothing else of the thread may run meanwhile."""
    home = net_namespace()
    try:
        setns(fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def write_sysctl(name: str, value: str) -> None:
    """Set a sysctl of the calling thread's network namespace; `name` as in `net/ipv4/ip_forward`. One that this
    kernel does not have is left alone."""
    path = Path("/proc/sys", name)
    if path.exists():
        path.write_text(value)
