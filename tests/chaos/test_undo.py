"""The undo stack, its journal, and the lock: what is left when things go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.lock import Engaged, engaged, held, holder, stop_holder
from chaos.undo import AwaitReady, HealError, RestoreEdges, Scale, UndoStack, read_journal, shielded

SCALE = Scale(namespace="n", deployment="d", replicas=3)


def nothing() -> None:
    pass


def test_an_entry_is_on_disk_before_anything_is_done_and_gone_after_its_undo(tmp_path: Path) -> None:
    stack = UndoStack(tmp_path)
    seen: list[list[object]] = []
    handle = stack.push(SCALE, lambda: seen.append(list(read_journal(tmp_path))))
    assert read_journal(tmp_path) == [SCALE]
    stack.undo(handle)
    assert seen == [[SCALE]]  # still written down while it is being undone
    assert read_journal(tmp_path) == []


def test_everything_is_undone_newest_first_even_when_one_undo_fails(tmp_path: Path) -> None:
    order: list[str] = []

    def fail() -> None:
        order.append("fails")
        raise OSError("no")

    stack = UndoStack(tmp_path)
    stack.push(RestoreEdges(), lambda: order.append("first"))
    failing = stack.push(SCALE, fail)
    stack.push(AwaitReady(namespace="n"), lambda: order.append("last"))
    with pytest.raises(HealError, match="no"):
        stack.close()
    assert order == ["last", "fails", "first"]
    assert read_journal(tmp_path) == [SCALE]  # what could not be undone is not forgotten
    stack._handles.remove(failing)
    stack.close()


def test_an_exception_inside_undoes(tmp_path: Path) -> None:
    undone: list[int] = []

    def broken() -> None:
        with UndoStack(tmp_path) as stack:
            stack.push(SCALE, lambda: undone.append(1))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        broken()
    assert undone == [1]


def test_undoing_twice_is_undoing_once(tmp_path: Path) -> None:
    undone: list[int] = []
    with UndoStack(tmp_path) as stack:
        handle = stack.push(SCALE, lambda: undone.append(1))
        stack.undo(handle)
        stack.undo(handle)
    assert undone == [1]


def test_a_process_that_ends_without_closing_undoes_at_exit(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from chaos.undo import UndoStack, RestoreEdges
UndoStack(Path({str(tmp_path)!r})).push(RestoreEdges(), lambda: Path({str(tmp_path / "undone")!r}).touch())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert (tmp_path / "undone").exists()
    assert read_journal(tmp_path) == []


def test_a_killed_process_leaves_its_journal(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from chaos.undo import UndoStack, RestoreEdges
UndoStack(Path({str(tmp_path)!r})).push(RestoreEdges(), lambda: None)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert read_journal(tmp_path) == [RestoreEdges()]


def test_an_interrupt_waits_for_the_heal_and_is_not_lost() -> None:
    reached = False

    def interrupted() -> None:
        nonlocal reached
        with shielded():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached = True

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached


def test_only_one_holds_a_world(tmp_path: Path) -> None:
    with engaged(tmp_path):
        assert held(tmp_path)
        assert holder(tmp_path) == os.getpid()
        with pytest.raises(Engaged, match=f"pid {os.getpid()}"), engaged(tmp_path):
            pass
    assert not held(tmp_path)
    with engaged(tmp_path):
        pass


HOLD = """
import sys, time
from pathlib import Path
from chaos.lock import engaged
import signal
{handler}
with engaged(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("handler", "deadline"), [("", 30.0), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0.3)], ids=["asks", "kills"]
)
def test_the_holder_can_be_stopped(tmp_path: Path, handler: str, deadline: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(handler=handler), str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert stop_holder(tmp_path, deadline) == process.pid
        assert not held(tmp_path)
        assert stop_holder(tmp_path) == 0
    finally:
        process.kill()
        process.wait()
