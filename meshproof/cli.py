"""The command line. Result on stdout, progress on stderr, exit codes as in `meshproof.exits`.

A verb's module is imported when the verb is used, so `meshproof --help` does not pay for pandas and gRPC. Errors
the user can act on become one clear message and an exit code here, in one place, for every verb.
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import typer

from manifests import InvalidManifests
from meshproof import __version__
from meshproof.exits import Exit

VERBS: dict[str, str] = {
    "gate": "Judge a mesh: does it conform, is every flow mutual TLS, what does it add to P99, does it survive faults.",
    "gameday": "Run chaos experiments: does the steady state hold, and does it come back.",
    "up": "Start a world, with bookinfo or your own manifests, and leave it running.",
    "status": "What runs, and whether it is ready.",
    "down": "Stop and remove a world.",
    "apply": "Change a running world or its mesh, and report when every proxy has it.",
    "validate": "Check manifests, without a world: every error at once.",
    "heal": "Undo whatever a game day left behind.",
    "report": "Render a run's report again.",
    "doctor": "What this machine has and lacks, and the command that fixes it.",
}
"""Verb to its line in `meshproof --help`. Its function is `meshproof.verbs.<verb>.<verb>`."""


_UsageError: Any = typer.BadParameter.__base__
"""What typer raises for any wrong use; it has no public name of its own."""


class _LazyVerbs(typer.core.TyperGroup):
    """A command group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"meshproof.verbs.{cmd_name}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(name=cmd_name, help=getattr(module, cmd_name).__doc__)(getattr(module, cmd_name))
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


app = typer.Typer(
    cls=_LazyVerbs, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"meshproof {__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 pass, 1 fail, 2 usage, 3 inconclusive, 4 environment missing, 130 interrupted.")
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_show_version, is_eager=True),
) -> None:
    """Prove a service mesh: does it do what it says, what does it cost, and what happens when things break."""


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line and exit. SIGTERM is treated as Ctrl-C: undo, then leave. So is SIGINT where a shell had
    it ignored, as for every background job of a script: whoever sends it means it."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted; everything it started has been stopped")
        sys.exit(Exit.INTERRUPTED)
    except _UsageError as exc:
        exc.show()
        sys.exit(Exit.USAGE)
    except InvalidManifests as exc:
        for error in exc.errors:
            _say(str(error))
        sys.exit(Exit.USAGE)
    except Exception as exc:
        code = _known(exc)
        if code is None:
            raise
        _say(f"{exc}")
        sys.exit(code)
    sys.exit(result if isinstance(result, int) else Exit.PASS)


def _known(exc: Exception) -> Exit | None:
    """The exit code of an error that has a clear message of its own; None for a defect, which keeps its traceback."""
    from harness.environment import EnvironmentMissing
    from harness.meshes.api import MeshError
    from harness.services.api import CompanionMissing
    from harness.substrate.api import SubstrateError

    if isinstance(exc, EnvironmentMissing | CompanionMissing):
        return Exit.ENVIRONMENT
    if isinstance(exc, MeshError | SubstrateError):
        return Exit.FAIL
    return None


def _say(text: str) -> None:
    print(f"meshproof: {text}", file=sys.stderr)
