"""The pure parts: packet rules, names, variables, quantities, layouts of control groups, logs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from manifest import documents, pod
from talk import eventually

from harness.environment import EnvironmentMissing, Requirement, check_local
from harness.substrate.api import SubstrateError
from harness.substrate.local import LocalWorld, cgroups, hosts, logfile, netfilter, rootfs, variables
from harness.substrate.local.netfilter import ServicePortRule
from harness.substrate.local.paths import WorldPaths
from harness.substrate.local.quantities import quantity

WEB = ServicePortRule(
    ip="10.96.0.10", port=80, endpoints=(("10.244.0.2", 8080), ("10.244.0.3", 8080), ("10.244.0.4", 1))
)


def test_every_endpoint_has_the_same_chance() -> None:
    text = netfilter.render([WEB])
    chances = [float(found) for found in re.findall(r"--probability ([0-9.]+)", text)]
    left, got = 1.0, []
    for chance in [*chances, 1.0]:
        got.append(left * chance)
        left -= got[-1]
    assert got == pytest.approx([1 / 3] * 3)
    assert text.count("-j DNAT") == 3


def test_rules_of_gone_services_go_in_the_same_transaction() -> None:
    gone = ServicePortRule(ip="10.96.0.11", port=80, endpoints=())
    text = netfilter.render([WEB], previous=[WEB.chain, gone.chain])
    assert f"-X {gone.chain}" in text
    assert f"-X {WEB.chain}" not in text
    assert text.startswith("*nat")
    assert text.count("COMMIT") == 1


def test_chain_names_fit_and_differ() -> None:
    chains = {
        ServicePortRule(ip=f"10.96.{a}.{b}", port=p, endpoints=()).chain
        for a in range(9)
        for b in range(9)
        for p in (80, 81)
    }
    assert len(chains) == 162
    assert max(map(len, chains)) <= 28  # the kernel's limit


def test_hosts_file_never_moves_a_line(tmp_path: Path) -> None:
    """Somebody who reads it at any moment sees every name that was there before and stays."""
    file = hosts.HostsFile(tmp_path / "hosts")
    file.update(["127.0.0.1 localhost", "10.96.0.10 a", "10.96.0.11 b"])
    inode = file.path.stat().st_ino
    where = file.path.read_bytes().index(b"10.96.0.11 b")
    file.update(["127.0.0.1 localhost", "10.96.0.11 b", "10.96.0.12 c"])
    content = file.path.read_bytes()
    assert content.index(b"10.96.0.11 b") == where
    assert [line for line in content.decode().splitlines() if not line.startswith("#")] == [
        "127.0.0.1 localhost",
        "10.96.0.11 b",
        "10.96.0.12 c",
    ]
    assert file.path.stat().st_ino == inode


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$($(A))", "$(1)"), ("$$$(A)", "$1")],
)
def test_references_expand_as_in_kubernetes(text: str, expanded: str) -> None:
    assert variables.expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(("text", "number"), [("100m", 0.1), ("64Mi", 64 << 20), (2, 2.0), ("1.5G", 1.5e9), (0.5, 0.5)])
def test_quantities(text: str | float, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "lots", "-1", "1e9", "1 Mi", "Mi"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)


V1 = """cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0"""
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0"


@pytest.mark.parametrize(
    ("mounts", "kind", "roots"),
    [
        (V1, "version 1", ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"]),
        (V2, "version 2", ["/sys/fs/cgroup"]),
        ("proc /proc proc rw 0 0", "none", []),
    ],
)
def test_layouts(mounts: str, kind: str, roots: list[str]) -> None:
    found = cgroups.layout(mounts)
    assert found.describe() == kind
    assert sorted(map(str, found.roots)) == roots


def _layouts() -> dict[str, cgroups.Layout]:
    found = cgroups.layout()
    return {
        "as mounted": found,
        "version 1 alone": cgroups.Layout(unified=None, v1=found.v1),
        "version 2 alone": cgroups.Layout(unified=found.unified, v1={}, controllers=found.controllers),
    }


@pytest.mark.privileged
@pytest.mark.parametrize("kind", _layouts())
def test_group_freezes_kills_and_accounts_in_each_layout(kind: str, new_name: Callable[[], str]) -> None:
    layout = _layouts()[kind]
    if not layout.roots:
        pytest.skip(f"this machine has no such hierarchy: {cgroups.layout().describe()}")
    world = new_name()
    group = cgroups.Group(layout, f"{world}/pod/app")
    script = 'for join in "$@"; do echo 0 > $join; done; while :; do sh -c : ; done'
    program = subprocess.Popen(["sh", "-c", script, "sh", *group.joins])
    try:
        eventually(lambda: group.usage().cpu_seconds > 0.05, what="some CPU time")
        assert group.usage().rss_bytes > 0
        group.freeze()
        # What ran at that moment is charged late: compare two readings after it.
        eventually(lambda: group.usage().cpu_seconds == group.usage().cpu_seconds, what="no more CPU time")
        held = group.usage().cpu_seconds
        assert group.pids()
        group.thaw()
        eventually(lambda: group.usage().cpu_seconds > held, what="CPU time again")
        group.freeze()
        group.kill()
        assert program.wait(10) == -signal.SIGKILL
        assert eventually(lambda: not group.pids(), what="no process left")
        assert group.usage().peak_rss_bytes > 0
    finally:
        group.thaw()
        program.kill()
        program.wait()
        assert eventually(lambda: cgroups.remove_group(layout, world), what="the group to be removable")


def test_closed_ancestors_are_found_outermost(tmp_path: Path) -> None:
    inner = tmp_path / "home" / "deep" / "venv"
    inner.mkdir(parents=True)
    for parent in inner.parents:
        if tmp_path in (parent, *parent.parents) and parent != tmp_path:
            parent.chmod(0o700)
    closed = rootfs.closed_ancestors([str(inner)])
    outermost = next(str(p) for p in reversed(inner.parents) if not p.stat().st_mode & 1)
    assert closed == (outermost,)
    assert rootfs.closed_ancestors(["/usr/bin"]) == ()


def test_log_gives_back_its_oldest_blocks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = logfile.open_log(path)
    lines = [f"line {number} {'x' * 90}" for number in range(20_000)]
    os.write(fd, "".join(f"{line}\n" for line in lines).encode())
    logfile.trim(path, keep=1 << 20, slack=1 << 16)
    os.write(fd, b"last\n")
    os.close(fd)
    assert path.stat().st_blocks * 512 < (1 << 20) + (1 << 17)
    left = logfile.read(path).splitlines()
    assert left[-1] == "last"
    assert left[:-1] == lines[-len(left) + 1 :]
    assert 5_000 < len(left) < 12_000
    assert logfile.tail(path, 2) == [lines[-1], "last"]


@pytest.mark.parametrize("name", ["", "../x", "A", "a_b", "-a", "a" * 41])
def test_bad_world_names(name: str) -> None:
    with pytest.raises(SubstrateError, match="cannot name a world"):
        WorldPaths(name)


@pytest.mark.privileged
def test_this_machine_has_what_the_substrate_needs() -> None:
    """The tests beside this one could not pass otherwise; so neither may `doctor` say no."""
    substrate = [one for one in check_local() if one.name not in {"Envoy", "Toxiproxy"}]
    assert len(substrate) > 8
    assert [str(one) for one in substrate if not one.found] == []


@pytest.mark.privileged
def test_doctor_names_what_a_lesser_process_lacks(world: LocalWorld, space: str) -> None:
    """Asked by an app of a pod: root and capabilities are missing, and nothing is tried without them."""
    script = (
        "from harness.environment import check_local\n"
        "print('\\n'.join(one.name for one in check_local() if not one.found))"
    )
    container = {"name": "app", "command": [sys.executable, "-c", script]}
    world.apply(documents(pod("one", space, container, restartPolicy="Never")))
    eventually(lambda: world.pod(space, "one").phase in {"Succeeded", "Failed"}, what="doctor's answer")
    missing = world.logs(space, "one", "app").splitlines()
    assert {"root", "capabilities", "veth links"} <= set(missing)
    assert "iptables" not in missing


def test_missing_thing_says_how_to_get_it() -> None:
    one = Requirement(name="iptables", found=False, looked_for="the program iptables", where="PATH", fix="apt-get ...")
    raised = EnvironmentMissing(one)
    assert (raised.name, raised.looked_for, raised.where, raised.fix) == (one.name, one.looked_for, one.where, one.fix)
    assert str(raised) == "iptables: missing; looked for the program iptables in PATH; to fix: apt-get ..."
