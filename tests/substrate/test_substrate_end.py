"""How worlds end: told to, with their maker, or killed. Nothing may be left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from manifest import documents, namespace, pod, server, service, shell
from talk import eventually, get

from harness.substrate.api import SubstrateError
from harness.substrate.local import LocalWorld, cgroups

pytestmark = pytest.mark.privileged

OBJECTS = (
    namespace("shop"),
    service("web", "shop"),
    pod("web", "shop", server()),
    pod("batch", "shop", shell("setsid sleep 1000 & sleep 1000")),
)


class Traces:
    """What worlds of this machine consist of, as the kernel tells. `mine` are the processes of one world."""

    def __init__(self, name: str) -> None:
        self.name = name

    def groups(self) -> list[Path]:
        folders = [root / cgroups.ROOT / self.name for root in cgroups.layout().roots]
        return [folder for folder in folders if folder.exists()]

    def processes(self) -> list[int]:
        pids = []
        for folder in self.groups():
            for procs in folder.rglob("cgroup.procs"):
                pids += [int(pid) for pid in procs.read_text().split()]
        return sorted(set(pids) | set(processes_with(self.name)))


def processes_with(word: str) -> list[int]:
    """Pids of other processes that have `word` as an argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in arguments:
                found.append(int(entry.name))
    return found


def namespaces_of(pids: list[int]) -> set[str]:
    return {os.readlink(f"/proc/{pid}/ns/net") for pid in pids}  # noqa: PTH115


def live_namespaces() -> set[str]:
    """Network namespaces that some process is in or holds open."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        for link in [entry / "ns" / "net", *folder(entry / "fd")]:
            try:
                target = os.readlink(link)  # noqa: PTH115
            except OSError:
                continue
            if target.startswith("net:"):
                found.add(target)
    return found


def folder(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def root_network() -> tuple[str, ...]:
    """Links and packet rules of the machine itself."""
    links = sorted(os.listdir("/sys/class/net"))  # noqa: PTH208
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    kept = [line for line in rules.splitlines() if not line.startswith("#")]
    return (*links, *kept)


@pytest.fixture
def root_untouched() -> Iterator[None]:
    before = root_network()
    yield
    assert root_network() == before


def gone(traces: Traces, spaces: set[str]) -> bool:
    return not traces.processes() and not spaces & live_namespaces()


def running(world: LocalWorld) -> tuple[Traces, set[str]]:
    """Fill a world; its traces and namespaces."""
    world.apply(documents(*OBJECTS))
    world.wait_ready(30)
    helper = world.popen(["sleep", "1000"], source=world.pods("shop")[0])
    traces = Traces(world.name)
    pids = traces.processes()
    assert len(pids) >= 5
    spaces = namespaces_of(pids) - {os.readlink("/proc/self/ns/net")}  # noqa: PTH115
    assert len(spaces) == 3  # the node's and two pods'
    assert helper.poll() is None
    return traces, spaces


@pytest.mark.usefixtures("root_untouched")
def test_down_leaves_nothing(new_name: Callable[[], str]) -> None:
    world = LocalWorld.create(new_name(), attached=True)
    traces, spaces = running(world)
    began = time.monotonic()
    world.down()
    assert time.monotonic() - began < 10
    assert gone(traces, spaces)
    assert traces.groups() == []
    assert not world.state_dir.exists()
    world.down()
    with pytest.raises(SubstrateError, match="does not answer"):
        world.pods()
    with pytest.raises(SubstrateError, match=f"no world {world.name}"):
        LocalWorld.attach(world.name)


@pytest.mark.usefixtures("root_untouched")
@pytest.mark.parametrize("paused", [False, True])
def test_killed_supervisor_leaves_only_what_down_all_removes(new_name: Callable[[], str], paused: bool) -> None:
    world = LocalWorld.create(new_name(), attached=True)
    traces, spaces = running(world)
    if paused:
        world.pause("shop", "web")
    os.kill(world.supervisor_pid, signal.SIGKILL)
    eventually(lambda: gone(traces, spaces), what="processes and namespaces to be gone")
    assert world.state_dir.exists()
    assert world.name in LocalWorld.down_all()
    assert traces.groups() == []
    assert not world.state_dir.exists()


def test_name_of_a_crashed_world_can_be_used_again(new_name: Callable[[], str]) -> None:
    world = LocalWorld.create(new_name(), attached=True)
    world.apply(documents(namespace("former")))
    os.kill(world.supervisor_pid, signal.SIGKILL)
    eventually(lambda: world.name not in LocalWorld.list(), what="the supervisor's end")
    with LocalWorld.create(world.name, attached=True) as again:
        assert not (again.state_dir / "cluster" / "Namespace..former.json").exists()
        with pytest.raises(SubstrateError, match="already there"):
            LocalWorld.create(world.name, attached=True)


MAKER = """
import sys, time
from harness.substrate.local import LocalWorld
world = LocalWorld.create(sys.argv[1], attached=sys.argv[2] == "attached")
print("made", flush=True)
time.sleep(1000)
"""


@contextlib.contextmanager
def maker(name: str, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that makes a world; it is killed in the end."""
    with subprocess.Popen([sys.executable, "-c", MAKER, name, mode], stdout=subprocess.PIPE) as made:
        try:
            assert made.stdout is not None
            assert made.stdout.readline() == b"made\n"
            yield made
        finally:
            made.kill()


def test_maker_with_a_tight_umask(new_name: Callable[[], str]) -> None:
    """Names and ConfigMaps are readable to apps although the world was made under umask 077."""
    script = "cat /etc/hosts /etc/resolv.conf > /dev/null && echo readable"
    before = os.umask(0o077)
    try:
        with LocalWorld.create(new_name(), attached=True) as world:
            world.apply(documents(pod("one", "default", shell(script), restartPolicy="Never")))
            eventually(lambda: world.pod("default", "one").phase in {"Succeeded", "Failed"}, what="its end")
            assert world.logs("default", "one", "app") == "readable\n"
    finally:
        os.umask(before)


def test_attached_world_ends_with_its_maker(new_name: Callable[[], str]) -> None:
    name = new_name()
    with maker(name, "attached"):
        world = LocalWorld.attach(name)
        traces, spaces = running(world)
    eventually(lambda: gone(traces, spaces) and not world.state_dir.exists(), what="the world's end")
    assert traces.groups() == []


def test_detached_world_stays(new_name: Callable[[], str]) -> None:
    name = new_name()
    with maker(name, "detached"):
        pass
    world = LocalWorld.attach(name)
    world.apply(documents(*OBJECTS))
    world.wait_ready(30)
    assert get(world, "web.shop")["pod"] == "web"
    assert name in LocalWorld.down_all()
    assert not world.state_dir.exists()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshproof", *arguments]


@pytest.fixture
def manifest_file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump_all(OBJECTS))
    return path


def test_up_status_down(new_name: Callable[[], str], manifest_file: Path) -> None:
    name = new_name()
    up = command("up", "--world", name, "--mesh", "none", "-f", str(manifest_file))
    subprocess.run(up, check=True, timeout=60, capture_output=True)
    assert name in LocalWorld.list()
    status = subprocess.run(command("status", "--world", name), check=True, timeout=60, capture_output=True, text=True)
    assert f"{name}: ready, 2 pods" in status.stdout
    LocalWorld.attach(name).kill("shop", "web")
    again = subprocess.run(up, check=False, timeout=60, capture_output=True, text=True)
    assert again.returncode != 0
    assert "already there" in again.stderr
    down = subprocess.run(command("down", "--world", name), check=True, timeout=60, capture_output=True, text=True)
    assert down.stdout == f"taken down: {name}\n"
    assert name not in LocalWorld.list()
    assert (
        subprocess.run(command("down", "--world", name), check=False, timeout=60, capture_output=True).returncode == 0
    )


@pytest.mark.usefixtures("root_untouched")
@pytest.mark.parametrize("progress", [0.0, 0.3, 0.6, 1.0])
def test_interrupted_up_leaves_nothing(new_name: Callable[[], str], tmp_path: Path, progress: float) -> None:
    """Ctrl-C early and late: before there is a world, while it is made, while pods start."""
    name = new_name()
    path = tmp_path / "slow.yaml"
    slow = pod("slow", "shop", server(readinessProbe={"exec": {"command": ["false"]}, "periodSeconds": 1}))
    path.write_text(yaml.safe_dump_all([*OBJECTS, slow]))
    up = subprocess.Popen(
        command("up", "--world", name, "--mesh", "none", "-f", str(path)), stdout=-3, stderr=-3, start_new_session=True
    )
    if progress:
        eventually(lambda: processes_with(name) != [up.pid] or up.poll() is not None, what="a supervisor")
    if progress == 1.0:
        eventually(lambda: name in LocalWorld.list() and LocalWorld.attach(name).pods(), what="pods")
    else:
        time.sleep(progress)
    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(30) in {130, -signal.SIGINT}
    traces = Traces(name)
    eventually(lambda: not traces.processes(), what="no process to be left")
    assert traces.groups() == []
    assert name not in LocalWorld.list()
    LocalWorld.remove(name)
