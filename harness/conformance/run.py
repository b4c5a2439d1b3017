"""Running the suite in a process of its own, against a world that runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from harness.conformance.suite import RESULTS
from reports.model import ConformanceResult

LOG = "suite.log"
_HERE = Path(__file__).parent
_POLL_SECONDS = 0.2
_FINISHED = (0, 1)
"""What pytest ends with when it ran what it was told to: everything passed, or something failed."""


class SuiteError(Exception):
    """The suite did not run to its end; the message holds its last words."""


def run(
    world: str,
    mesh: str,
    out: Path,
    *,
    profile: str = "core",
    deadline: float = 180.0,
    options: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> ConformanceResult:
    """Run the checks of `profile` in the world named `world`; log, results and evidence go to `out`.

    `options` are further pytest options, such as `-k mirror`. Raises `SuiteError` when there is no result within
    `deadline` seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    found, log = out / RESULTS, out / LOG
    found.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "--pyargs", "harness.conformance", "-p", "no:cacheprovider"),
        # Not the settings of whatever project we were called in, and no plugin that claims our options.
        *("-c", os.devnull, "--rootdir", str(_HERE), "-p", "no:locust", "-p", "no:chaostoolkit"),
        *("-v", "--tb=short", "--no-header"),
        *("--world", world, "--mesh", mesh, "--mesh-profile", profile, "--evidence", str(out)),
        *options,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            _watch(process, log, time.monotonic() + deadline, progress)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if not found.exists() or process.returncode not in _FINISHED:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SuiteError(f"the conformance suite gave no result (exit {process.returncode}):\n{tail}")
    return msgspec.json.decode(found.read_bytes(), type=ConformanceResult)


def _watch(
    process: subprocess.Popen[bytes], log: Path, deadline: float, progress: Callable[[str], None] | None
) -> None:
    """Wait for the suite's end, telling `progress` which check it has come to."""
    shown = 0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        if progress is not None:
            lines = [line for line in log.read_text(errors="replace").splitlines() if "::" in line]
            if len(lines) > shown:
                shown = len(lines)
                progress(f"check {shown}: {lines[-1].split('::', 1)[1].split(' ')[0]}")
