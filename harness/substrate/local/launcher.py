"""Process 1 of a world: the parent of every container, in a PID namespace of its own.

The supervisor forks it before it grows (a fork copies page tables) and asks it, over a pair of Unix sockets, to start
programs. Because it is the first process of the PID namespace, its death is the death of everything in the world,
by the kernel's hand; and the kernel kills it when the supervisor ends, however that happens. So a world cannot outlive
its supervisor, not even one that was killed.

It is single-threaded and does three things: fork, reap, report. All set-up of a container happens in the forked child.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from harness.substrate.api import SubstrateError
from harness.substrate.local import rootfs
from harness.substrate.local import syscalls as sys_calls

PREPARED: Final = b"prepared"

MAX_REQUEST: Final = 1 << 20
"""Bytes of one launch request; environment and arguments dominate it (the kernel itself stops at 2 MiB)."""

# Capabilities of root in a container: the usual engine's default set, and what traffic interception needs.
_CAPABILITIES: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SETFCAP": 31,
}
ROOT_CAPABILITIES: Final = frozenset(_CAPABILITIES.values())
ALL_CAPABILITIES: Final = frozenset(range(sys_calls.LAST_CAPABILITY))


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Start one program. Three descriptors travel with it: network namespace, output, and a pipe on which the child
    writes why it could not be started (nothing and end of file when it could)."""

    id: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    uid: int
    gid: int
    hostname: str
    privileged: bool
    cgroups: tuple[str, ...]
    """`cgroup.procs` files to join, just before the program is executed: set-up is not the container's cost."""
    root: rootfs.RootPlan | None
    join: int = 0
    """Pid (of this namespace) whose mount namespace to enter instead of building `root`."""


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A pidfd of the child travels with it."""

    id: int
    pid: int
    """In the PID namespace of the world."""


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pid: int
    code: int
    """As `os.waitstatus_to_exitcode`: negative is a signal."""
    peak_rss_bytes: int


Report = Started | Ended


def start(node_hosts: Path, resolver_files: dict[str, str]) -> tuple[socket.socket, int]:
    """Fork process 1. Returns the supervisor's end of the conversation and the child's pid. `resolver_files` are
    bind-mounted in the launcher's own view, which programs of the harness share: target to source.

    Raises `SubstrateError` when process 1 cannot make itself at home."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_REQUEST)
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    sys_calls.unshare(sys_calls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            os.close(home)
            try:
                _prepare({"/etc/hosts": str(node_hosts), **resolver_files})
            except OSError as exc:
                theirs.send(str(exc).encode())
                raise
            theirs.send(PREPARED)
            _serve(theirs)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    # Threads cannot be made while children are to be born in another PID namespace.
    sys_calls.setns(home, sys_calls.CLONE_NEWPID)
    os.close(home)
    said = ours.recv(1024)
    if said != PREPARED:
        raise SubstrateError(f"process 1 of the world: {said.decode(errors='replace') or 'it died'}")
    return ours, pid


def _prepare(files: dict[str, str]) -> None:
    sys_calls.die_with_parent(signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    sys_calls.unshare(sys_calls.CLONE_NEWNS)
    # A slave: what the host mounts later is seen here, nothing done here is seen there.
    sys_calls.mount("", "/", flags=sys_calls.MS_REC | sys_calls.MS_SLAVE)
    sys_calls.mount("proc", "/proc", "proc", sys_calls.MS_NOSUID | sys_calls.MS_NODEV | sys_calls.MS_NOEXEC)
    for target, source in files.items():
        if Path(target).exists():
            sys_calls.mount(source, target, flags=sys_calls.MS_BIND)


def _serve(channel: socket.socket) -> None:
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    decoder = msgspec.json.Decoder(Launch)
    while True:
        readable, _, _ = select.select([channel.fileno(), wake_read], [], [])
        if channel.fileno() in readable:
            data, ancillary, _, _ = channel.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(3 * 4), socket.MSG_CMSG_CLOEXEC)
            if not data:
                return  # the supervisor has gone
            _fork(channel, decoder.decode(data), descriptors(ancillary))
        if wake_read in readable:
            os.read(wake_read, 4096)
            _reap(channel)


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _fork(channel: socket.socket, launch: Launch, fds: list[int]) -> None:
    try:
        pid = os.fork()
    except OSError as exc:
        os.write(fds[2], f"fork: {exc.strerror}".encode())
        for fd in fds:
            os.close(fd)
        return
    if pid == 0:
        _child(launch, *fds)
    pidfd = os.pidfd_open(pid)
    report = msgspec.json.encode(Started(id=launch.id, pid=pid))
    socket.send_fds(channel, [report], [pidfd])
    for fd in (pidfd, *fds):
        os.close(fd)


def _reap(channel: socket.socket) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        ended = Ended(pid=pid, code=os.waitstatus_to_exitcode(status), peak_rss_bytes=usage.ru_maxrss * 1024)
        channel.send(msgspec.json.encode(ended))


def _child(launch: Launch, net: int, output: int, trouble: int) -> NoReturn:
    """Become the program; never returns."""
    try:
        _become(launch, net, output)
    except BaseException as exc:  # whatever it is, the supervisor is told and this copy of the launcher must not go on
        step = f"{type(exc).__name__}: {exc}"
        os.write(trouble, step.encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _become(launch: Launch, net: int, output: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    # Opened while the host's file system is in view, written last.
    groups = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in launch.cgroups]
    if launch.join:
        mounts = os.open(f"/proc/{launch.join}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        names = os.open(f"/proc/{launch.join}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        sys_calls.setns(mounts, sys_calls.CLONE_NEWNS)
        sys_calls.setns(names, sys_calls.CLONE_NEWUTS)
    elif launch.root is not None:
        sys_calls.unshare(sys_calls.CLONE_NEWNS | sys_calls.CLONE_NEWUTS)
        socket.sethostname(launch.hostname)
        rootfs.build(launch.root)
    sys_calls.setns(net, sys_calls.CLONE_NEWNET)
    os.chdir(launch.cwd)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for group in groups:
        os.write(group, b"0")
    os.umask(0o022)
    if launch.uid != 0:
        sys_calls.limit_capabilities(frozenset())
    elif not launch.privileged:
        sys_calls.limit_capabilities(ROOT_CAPABILITIES)
    sys_calls.no_new_privileges()
    os.setgroups([])
    os.setresgid(launch.gid, launch.gid, launch.gid)
    os.setresuid(launch.uid, launch.uid, launch.uid)
    os.execvpe(launch.argv[0], list(launch.argv), launch.env)


def pid_of(pidfd: int) -> int:
    """The pid behind `pidfd` as this process's /proc shows it; 0 when it has ended."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "Pid":
            return max(0, int(value))
    print(f"no Pid in fdinfo of {pidfd}", file=sys.stderr)
    return 0
