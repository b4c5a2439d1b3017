"""`python -m loadtests.run` as its callers meet it: a process, a spec file, exit codes, the files it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hdrh.histogram import HdrHistogram

from loadtests.schedule import WARMUP, schedule
from loadtests.spec import (
    HEALTH,
    HISTOGRAMS,
    PARTS,
    SAMPLE_COLUMNS,
    SAMPLES,
    SECONDS,
    WINDOWS,
    Arm,
    Health,
    LoadSpec,
    Second,
    WindowMark,
    encode_spec,
)

Program = Callable[..., int]
PROFILED = Path(__file__).with_name("profiled.py")


def make(out: Path, port: int, path: str = "/page", **changes: Any) -> LoadSpec:
    base: dict[str, Any] = {
        "arms": [Arm(name=name, url=f"http://127.0.0.1:{port}{path}") for name in ("direct", "meshed")],
        "rate": 50.0,
        "windows": 2,
        "window_seconds": 1.0,
        "warmup_seconds": 0.5,
        "users": 16,
        "timeout_seconds": 2.0,
        "seed": 5,
        "out": out,
    }
    return LoadSpec(**{**base, **changes})


def start(spec: LoadSpec, *arguments: str) -> subprocess.Popen[bytes]:
    spec.out.mkdir(parents=True, exist_ok=True)
    path = spec.out / "spec.json"
    path.write_bytes(encode_spec(spec))
    command = [sys.executable, "-m", "loadtests.run", str(path), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def run(spec: LoadSpec) -> tuple[int, list[dict[str, Any]]]:
    _, errors = (process := start(spec)).communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in errors.splitlines()]


def lines(path: Path, kind: type[Any]) -> list[Any]:
    return [msgspec.json.decode(line, type=kind) for line in path.read_bytes().splitlines()]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_every_arrival_of_the_schedule_is_made_recorded_and_accounted_for(tmp_path: Path, program: Program) -> None:
    spec = make(tmp_path, program("profiled"))
    code, events = run(spec)
    assert code == 0
    samples = pd.read_parquet(tmp_path / SAMPLES)
    made_as_planned(spec, samples, events[0]["start_ns"])
    files_agree(tmp_path, samples)
    finished = events[-1]
    assert finished["event"] == "finished"
    assert sum(finished["locust"].values()) == len(samples), "Locust's own statistics saw every request"


def made_as_planned(spec: LoadSpec, samples: pd.DataFrame, start_ns: int) -> None:
    assert tuple(samples.columns) == SAMPLE_COLUMNS
    planned = schedule(spec)
    assert len(samples) == len(planned)
    for arm in (0, 1):
        for window in range(WARMUP, 2):
            part = planned.slice_of(window)
            want = sorted(planned.seed[part][planned.arm[part] == arm])
            mine = samples[(samples["arm"] == spec.arms[arm].name) & (samples["window"] == window)]
            assert sorted(mine["seed"]) == want
    np.testing.assert_array_equal(np.sort(samples["intended_ns"]) - start_ns, planned.offset_ns)
    assert (samples["sent_ns"] >= samples["intended_ns"]).all()
    assert (samples["done_ns"] > samples["sent_ns"]).all()
    assert set(samples["status"]) == {200}
    assert set(samples["bytes"]) == {4000}
    assert set(samples["error"]) == {""}


def files_agree(out: Path, samples: pd.DataFrame) -> None:
    measured = samples[samples["window"] >= 0]

    health = msgspec.json.decode((out / HEALTH).read_bytes(), type=Health)
    assert (health.requests, health.errors, health.windows, health.interrupted) == (len(measured), 0, 2, False)
    assert health.target_rate == pytest.approx(len(measured) / 2 / 2)
    assert health.achieved_rate == pytest.approx(health.target_rate, rel=0.02)
    lateness = (measured["sent_ns"] - measured["intended_ns"]) / 1e6
    assert health.lateness_p99_ms == pytest.approx(lateness.quantile(0.99))
    assert 0 < health.cpu_fraction < 1

    seconds = lines(out / SECONDS, Second)
    assert {second.arm for second in seconds} == {"direct", "meshed"}
    assert sum(second.requests for second in seconds) == int((samples["done_ns"] < seconds[-1].ns).sum()), (
        "a second holds what completed in it"
    )

    marks = lines(out / WINDOWS, WindowMark)
    assert [mark.window for mark in marks] == [0, 1]
    assert [mark.requests for mark in marks] == [int((samples["window"] == window).sum()) for window in (0, 1)]
    assert not (out / PARTS).exists(), "samples.parquet took their place"

    document = json.loads((out / HISTOGRAMS).read_bytes())
    merged = HdrHistogram(document["lowest"], document["highest"], document["digits"])
    for entry in document["histograms"]:
        assert entry["status"] == 200
        merged.add(HdrHistogram.decode(entry["hdr"]))
    latency = (samples["done_ns"] - samples["intended_ns"]) / 1e3
    assert merged.get_total_count() == len(samples)
    low, high = latency.quantile([0.88, 0.92])
    assert low <= merged.get_value_at_percentile(90) <= high


def test_windows_can_be_read_while_the_run_goes_on_and_a_stop_file_ends_it(tmp_path: Path, program: Program) -> None:
    stop = tmp_path / "stop"
    spec = make(tmp_path, program("profiled"), windows=50, stop_file=stop)
    process = start(spec)
    try:
        path = tmp_path / WINDOWS
        wait_for(lambda: path.exists() and bool(path.read_bytes()))
        mark = msgspec.json.decode(path.read_bytes().splitlines()[0], type=WindowMark)
        part = pd.read_parquet(tmp_path / PARTS / mark.part)
        assert len(part) == mark.requests > 0
        assert set(part["window"]) == {0}
        stop.touch()
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    marks = lines(tmp_path / WINDOWS, WindowMark)
    samples = pd.read_parquet(tmp_path / SAMPLES)
    assert 1 <= len(marks) < 10
    assert sorted(set(samples["window"])) == [WARMUP, *range(len(marks))], "the window in progress was completed"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_what_was_measured(
    tmp_path: Path, program: Program, number: signal.Signals, code: int
) -> None:
    process = start(make(tmp_path, program("profiled"), windows=50))
    try:
        wait_for(lambda: (tmp_path / WINDOWS).exists() and bool((tmp_path / WINDOWS).read_bytes()))
        process.send_signal(number)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == code
    health = msgspec.json.decode((tmp_path / HEALTH).read_bytes(), type=Health)
    assert health.interrupted
    samples = pd.read_parquet(tmp_path / SAMPLES)
    assert 0 < health.requests == int((samples["window"] >= 0).sum())
    assert len(lines(tmp_path / WINDOWS, WindowMark)) == health.windows >= 1


def test_it_ends_with_the_process_that_started_it(tmp_path: Path, program: Program) -> None:
    spec = make(tmp_path, program("profiled"), windows=300)
    (tmp_path / "spec.json").write_bytes(encode_spec(spec))
    starter = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'loadtests.run', sys.argv[1], '--parent', str(os.getpid())])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, str(tmp_path / "spec.json")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        wait_for(lambda: (tmp_path / SECONDS).exists() and bool((tmp_path / SECONDS).read_bytes()))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_for(lambda: (tmp_path / HEALTH).exists())
    wait_for(lambda: not running(child))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_failures_are_samples_that_name_themselves(tmp_path: Path, program: Program) -> None:
    port = program("profiled")
    kinds = {
        "/status/503": (503, ""),
        "/drop": (0, "closed before a response"),
        "/half": (0, "closed within a response"),
        "/garbage": (0, "malformed response"),
        "/hang": (0, "timeout"),
        "refused": (0, "Connection refused"),
    }
    arms = [Arm(name=path, url=f"http://127.0.0.1:{port}{path}") for path in kinds if path != "refused"]
    arms.append(Arm(name="refused", url="http://127.0.0.1:1/"))
    spec = make(tmp_path, port, arms=arms, windows=1, rate=10.0, warmup_seconds=0.0, timeout_seconds=0.5)
    code, _ = run(spec)
    assert code == 0
    samples = pd.read_parquet(tmp_path / SAMPLES)
    assert len(samples) == len(schedule(spec)), "nothing is lost, and nothing hangs"
    for kind, (status, error) in kinds.items():
        mine = samples[samples["arm"] == kind]
        assert len(mine)
        assert set(mine["status"]) == {status}
        assert [found for found in set(mine["error"]) if not found.startswith(error)] == [], kind
    health = msgspec.json.decode((tmp_path / HEALTH).read_bytes(), type=Health)
    assert health.errors == len(samples)
    assert health.reopened == 0, "a connection that never carried a response was not closed while idle"


def test_an_idle_connection_that_was_closed_is_reopened_and_counted(tmp_path: Path, program: Program) -> None:
    code, _ = run(make(tmp_path, program("profiled"), "/twice", users=4))
    assert code == 0
    samples = pd.read_parquet(tmp_path / SAMPLES)
    assert set(samples["status"]) == {200}
    health = msgspec.json.decode((tmp_path / HEALTH).read_bytes(), type=Health)
    # Every connection carries one request; of those, 4 users have one open to each of 2 arms beforehand.
    assert health.errors == 0
    assert health.reopened == len(samples) - 4 * 2


def test_a_stall_is_billed_to_the_requests_it_delayed(tmp_path: Path, program: Program) -> None:
    """Coordinated omission: with 8 users and a server that stands still half of every second, sending times alone
    would show few slow requests. From intended starts, about half of all requests meet the stall."""
    port = program("profiled", "--stall", "0.5")
    spec = make(tmp_path, port, "/stall", users=8, rate=100.0, windows=3)
    code, _ = run(spec)
    assert code == 0
    samples = pd.read_parquet(tmp_path / SAMPLES)
    latency = (samples["done_ns"] - samples["intended_ns"]) / 1e6
    service = (samples["done_ns"] - samples["sent_ns"]) / 1e6
    assert 0.35 < (latency > 25).mean() < 0.65
    assert latency.quantile(0.9) == pytest.approx(400, abs=60)
    assert (service > 25).mean() < 0.2, "which the time since sending hides"
    assert len(samples) == len(schedule(spec))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "spec.json"),
        (b'{"arms": [], "rate": 1}', "arms: at least one is needed"),
        (b'{"arms": [{"name": "a", "url": "http://127.0.0.1:1/"}], "rate": "many"}', "$.rate"),
        (b'{"arms": [{"name": "a", "url": "https://127.0.0.1:1/"}], "rate": 1}', "want http://"),
        (b'{"arms": [{"name": "a", "url": "http://localhost/"}], "rate": 1}', "must be an IPv4 address"),
    ],
)
def test_a_wrong_spec_is_refused_with_its_reason(tmp_path: Path, document: bytes, message: str) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(document)
    done = subprocess.run([sys.executable, "-m", "loadtests.run", str(path)], capture_output=True, timeout=30)
    assert done.returncode == 2
    event = json.loads(done.stderr)
    assert event["event"] == "invalid"
    assert message in event["message"]


@contextlib.contextmanager
def namespace() -> Iterator[int]:
    """An anonymous network namespace with loopback up; gives the pid of the process that holds it."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")
def test_each_arm_calls_from_its_own_network_namespace(tmp_path: Path, program: Program) -> None:
    """The same address is a different server in each namespace: what answers shows where the socket lived."""
    with contextlib.ExitStack() as stack:
        ports = {"own": program("profiled", "--median", "0.001")}
        arms = [Arm(name="own", url=f"http://127.0.0.1:{ports['own']}/page")]
        for name, path in (("left", "/status/201"), ("right", "/status/202")):
            pid = stack.enter_context(namespace())
            server = subprocess.Popen(
                ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, str(PROFILED), "--port", "8080"],
                stdout=subprocess.PIPE,
            )
            stack.callback(server.wait)
            stack.callback(server.kill)
            assert server.stdout is not None
            assert server.stdout.readline() == b"8080\n"
            arms.append(Arm(name=name, url=f"http://127.0.0.1:8080{path}", netns=f"/proc/{pid}/ns/net"))
        code, _ = run(make(tmp_path, 0, arms=arms, windows=1))
        assert code == 0
    samples = pd.read_parquet(tmp_path / SAMPLES)
    found = samples.groupby("arm", observed=True)["status"].unique().map(list).to_dict()
    assert found == {"own": [200], "left": [201], "right": [202]}


def test_a_namespace_that_is_not_there_is_named(tmp_path: Path) -> None:
    arms = [Arm(name="a", url="http://127.0.0.1:1/", netns="/proc/0/ns/net")]
    code, events = run(make(tmp_path, 1, arms=arms))
    assert code == 1
    assert "/proc/0/ns/net" in events[-1]["message"]
