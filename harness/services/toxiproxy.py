"""Toxiproxy's own server as a companion: a process in a network namespace, or a container where an engine runs.

The process never outlives its owner's `with` block; in a world it also dies with the world. Its log is cut at
`MAX_LOG_BYTES`, because a fault under load logs a line per connection. Only the loopback address serves the API: who
can reach it can cut traffic.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import shutil
import socket as sockets
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil

from harness.services.api import Companion, CompanionMissing
from harness.services.place import Here, Place, free_port

VERSION = "2.12.0"
"""What the tests run against; older servers lack PATCH updates (2.6) and `reset_peer` (2.2)."""

MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"
NAMES = ("toxiproxy-server", "server")
"""`go install` names the program after its folder, `server`; packages and `make tools` call it `toxiproxy-server`."""

MARK_VARIABLE = "MESHPROOF_MARK"
IMAGE_VARIABLE = "MESHPROOF_TOXIPROXY_IMAGE"
MAX_LOG_BYTES = 1 << 20
START_DEADLINE = 10.0
_REPOSITORY = Path(__file__).resolve().parents[2]


def find_program() -> Path:
    """The server's program. Raises `CompanionMissing` with every place looked at and the command that installs it."""
    looked: list[str] = []
    for name in NAMES[:1]:  # `server` on PATH could be anything
        if found := shutil.which(name):
            return Path(found)
        looked.append(f"{name} on PATH")
    folders = [_REPOSITORY / ".tools" / "bin"]
    if tools := os.environ.get("MESHPROOF_TOOLS"):
        folders += [Path(tools), Path(tools) / "bin"]
    else:
        looked.append("$MESHPROOF_TOOLS (not set)")
    if gobin := os.environ.get("GOBIN"):
        folders.append(Path(gobin))
    folders.append(Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin")
    for folder in folders:
        for name in NAMES:
            candidate = folder / name
            if candidate.is_file() and os.access(candidate, os.X_OK) and _is_toxiproxy(candidate):
                return candidate
            looked.append(str(candidate))
    raise CompanionMissing(
        "Toxiproxy's server was not found. Looked for: "
        + ", ".join(looked)
        + f". Install it with `make setup` in the repository, or `go install {MODULE}`."
    )


def _is_toxiproxy(program: Path) -> bool:
    """Whether the program calls itself Toxiproxy: `server` is a name anybody may have used."""
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"toxiproxy" in answer.stdout.lower()


def toxiproxy_server(
    place: Place | None = None,
    *,
    kind: Literal["process", "container"] = "process",
    log: Path | None = None,
    image: str | None = None,
) -> Companion:
    """Toxiproxy's server, not yet started: enter it. `place` is where it listens, this process's namespace when None.

    A container cannot join the namespace of a closed world (it has no name an engine could be given), so
    `kind="container"` is for this process's namespace only.
    """
    if kind == "process":
        return ToxiproxyProcess(place or Here(), log=log)
    if place is not None and not isinstance(place, Here):
        raise CompanionMissing(
            "Toxiproxy as a container cannot enter a closed world's network namespace; leave `kind` at `process` there"
        )
    return ToxiproxyContainer(image=image)


class ToxiproxyProcess:
    """The server as a process of `place`."""

    name = "toxiproxy"

    def __init__(self, place: Place, *, log: Path | None = None, mark: str = "") -> None:
        self._place = place
        self._log = log
        self._port = 0
        self.mark = mark or uuid.uuid4().hex
        """In the environment of every process started, so that `end_marked` finds them when their owner was killed."""
        self._process: subprocess.Popen[bytes] | None = None
        self._logger: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self._port)

    @property
    def pids(self) -> tuple[int, ...]:
        """Host pids of what was started, so that someone else can end it when this process no longer can."""
        return tuple(process.pid for process in (self._process, self._logger) if process is not None)

    def reserve(self) -> int:
        """Choose the port now, so that it can be written down before anything runs."""
        self._port = self._port or free_port(self._place)
        return self._port

    def __enter__(self) -> Self:
        program = find_program()
        self.reserve()
        try:
            self._start(program)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process and its log writer. Idempotent."""
        for process, grace in ((self._process, 3.0), (self._logger, 1.0)):
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(grace)
        self._process = self._logger = None

    def _start(self, program: Path) -> None:
        sink: Any = subprocess.DEVNULL
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            # A process of its own, so that the log stays bounded and the server never meets a broken pipe, even when
            # whoever started both is gone.
            self._logger = self._place.popen(
                ["/bin/sh", "-c", f'head -c {MAX_LOG_BYTES} >"$1"; exec cat >/dev/null', "sh", str(self._log)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={MARK_VARIABLE: self.mark, "PATH": os.defpath},
                start_new_session=True,
            )
            sink = self._logger.stdin
        environment = {"LOG_LEVEL": "warn", MARK_VARIABLE: self.mark, "PATH": os.defpath}
        # A session of its own: Ctrl-C in a terminal must reach the game day, which heals first, and not the server.
        self._process = self._place.popen(
            [str(program), "-host", "127.0.0.1", "-port", str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink if sink is subprocess.DEVNULL else subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        if self._logger is not None and self._logger.stdin is not None:
            self._logger.stdin.close()
        deadline = time.monotonic() + START_DEADLINE
        while True:
            if self._process.poll() is not None:
                raise CompanionMissing(
                    f"{program} ended with status {self._process.returncode} while starting: {self._last_words()}"
                )
            if _answers(self._place, self.address):
                return
            if time.monotonic() > deadline:
                raise CompanionMissing(f"{program} did not answer on {self.address} within {START_DEADLINE:.0f} s")
            time.sleep(0.02)

    def _last_words(self) -> str:
        if self._log is None or not self._log.exists():
            return "it was started without a log"
        return self._log.read_text(errors="replace")[-400:].strip() or "it said nothing"


def end_marked(mark: str, grace: float = 3.0) -> list[int]:
    """End every process that was started with `mark`, wherever it was started from. Their pids; none is left then."""
    found = [process for process in psutil.process_iter() if _marked(process, mark)]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=grace)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace)
    return [process.pid for process in found]


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK_VARIABLE) == mark
    except (psutil.Error, OSError):  # it ended meanwhile, or is the kernel's
        return False


class ToxiproxyContainer:
    """The server as a container, by testcontainers, on this machine's network: the listeners of its proxies, made while
    it runs, are reachable, and its API on the loopback address alone. `image` has the server as its entry point."""

    name = "toxiproxy"

    def __init__(self, *, image: str | None = None) -> None:
        self._image = image or os.environ.get(IMAGE_VARIABLE, "")
        self._container: Any = None
        self._address = ("", 0)

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    def __enter__(self) -> Self:
        if not self._image:
            raise CompanionMissing(
                f"no image for Toxiproxy's container; set ${IMAGE_VARIABLE} to one your engine can pull, "
                f"of version {VERSION} or later"
            )
        try:
            # By name, so that the optional package is needed neither to run nor to check the types of everything else.
            containers = importlib.import_module("testcontainers.core.container")
        except ImportError:
            raise CompanionMissing(
                "testcontainers is not installed; run: pip install 'meshproof[containers]'"
            ) from None
        self._address = host, port = "127.0.0.1", free_port(Here())
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._container = containers.DockerContainer(self._image)
                self._container.with_command(["-host", host, "-port", str(port)]).with_kwargs(network_mode="host")
                self._container.start()
                self._until_it_answers()
            except CompanionMissing:
                raise
            except Exception as exc:  # the engine's client raises its own trees, requests' and urllib3's alike
                raise CompanionMissing(
                    f"Toxiproxy's container {self._image} did not start; is a container engine running "
                    f"(DOCKER_HOST={os.environ.get('DOCKER_HOST', 'not set')})? {type(exc).__name__}: {str(exc)[:300]}"
                ) from exc
            undo.pop_all()
        return self

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while not _answers(Here(), self._address):
            self._container.reload()
            ended = self._container.status == "exited"
            if ended or time.monotonic() > deadline:
                said = b"".join(self._container.get_logs()).decode(errors="replace")[-400:].strip()
                raise CompanionMissing(
                    f"Toxiproxy's container {self._image} {'ended' if ended else 'does not answer'}: "
                    + (said or "it said nothing")
                )
            time.sleep(0.05)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop and remove the container. Idempotent."""
        if self._container is not None:
            self._container.stop()
            self._container = None


def _answers(place: Place, address: tuple[str, int]) -> bool:
    """Whether the server answers `GET /version`."""
    connection = http.client.HTTPConnection(*address, timeout=1.0)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.sock = place.connect(address, timeout=1.0)
        assert isinstance(connection.sock, sockets.socket)
        connection.request("GET", "/version")
        return connection.getresponse().status == 200
    return False
