"""What must be undone, written down before it is done.

An entry is plain data, so that another process can perform it: after SIGKILL, `meshproof heal` reads the journal
and undoes what is left, newest first. Every entry is idempotent and says how to undo, not what was done; performing one
whose fault never happened changes nothing.

Invariants: an entry is on disk before its fault acts; it leaves the disk only after its undo has succeeded; one
failing undo does not keep the others from running.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec

JOURNAL = "undo.json"


class _Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="undo"):
    pass


class RestoreEdges(_Entry, frozen=True, kw_only=True, tag="restore-edges"):
    """No edge is redirected any more; connections through Toxiproxy are made anew, directly."""


class StopCompanion(_Entry, frozen=True, kw_only=True, tag="stop-companion"):
    """No process that carries `mark` in its environment runs any more. The mark is made up before the process is, so
    that there is no moment at which a process runs and nobody knows how to find it."""

    mark: str
    port: int
    """Where its API listens in the node namespace."""


class Resume(_Entry, frozen=True, kw_only=True, tag="resume"):
    """The pod, or one container of it, is not frozen any more."""

    namespace: str
    pod: str
    container: str = ""


class Scale(_Entry, frozen=True, kw_only=True, tag="scale"):
    """The Deployment has its replicas back, all ready."""

    namespace: str
    deployment: str
    replicas: int


class AwaitReady(_Entry, frozen=True, kw_only=True, tag="await-ready"):
    """What the substrate restarts by itself is back."""

    namespace: str


Undo = RestoreEdges | StopCompanion | Resume | Scale | AwaitReady


class HealError(Exception):
    """Something could not be undone; the message lists what, and why."""


class Handle(msgspec.Struct, frozen=True, eq=False):
    """One pushed entry."""

    entry: Undo
    act: Callable[[], None]


class UndoStack:
    """Undo actions of one process, newest last, mirrored in `folder`'s journal. Heals on close, and at interpreter exit
    if nobody closed it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handles: list[Handle] = []
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        atexit.register(self.close)

    def push(self, entry: Undo, act: Callable[[], None]) -> Handle:
        """Note that `act` undoes what is about to be done; `entry` says the same to another process."""
        handle = Handle(entry, act)
        with self._lock:
            self._handles.append(handle)
            self._write()
        return handle

    def undo(self, handle: Handle) -> None:
        """Undo one entry now; nothing when it has been undone already. When its undo fails, it stays on the stack."""
        with self._lock, shielded():
            if handle in self._handles:
                handle.act()
                self._handles.remove(handle)
                self._write()

    def close(self) -> None:
        """Undo everything, newest first. Raises `HealError` with every failure after all have been tried."""
        failures: list[str] = []
        with self._lock, shielded():
            for handle in reversed(self._handles.copy()):
                try:
                    self.undo(handle)
                except Exception as exc:
                    failures.append(f"{handle.entry}: {type(exc).__name__}: {exc}")
            if not self._handles:
                atexit.unregister(self.close)
        if failures:
            raise HealError("not everything could be undone: " + "; ".join(failures))

    def __enter__(self) -> UndoStack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def entries(self) -> tuple[Undo, ...]:
        return tuple(handle.entry for handle in self._handles)

    def _write(self) -> None:
        write_journal(self._folder, [handle.entry for handle in self._handles])


def write_journal(folder: Path, entries: list[Undo]) -> None:
    """Replace the journal; no entries, no file. A folder that is gone took its world, and so every fault, with it."""
    path = folder / JOURNAL
    with contextlib.suppress(FileNotFoundError):
        if entries:
            temporary = path.with_suffix(".part")
            temporary.write_bytes(msgspec.json.encode(entries))
            temporary.replace(path)
        else:
            path.unlink()


def read_journal(folder: Path) -> list[Undo]:
    """What is left to undo, oldest first."""
    try:
        return msgspec.json.decode((folder / JOURNAL).read_bytes(), type=list[Undo])
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done: an interrupted heal is no heal. They are not lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        pending.append(signum)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if pending:
            signal.raise_signal(pending[0])
