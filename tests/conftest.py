"""What every test relies on."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    # A shell has Ctrl-C ignored in the background jobs of a script, and children inherit that; here it is part of what
    # is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)
