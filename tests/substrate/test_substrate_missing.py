"""Where no world can be made, the user learns what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.substrate.local.paths import WorldPaths


@pytest.mark.privileged
def test_in_a_chroot(tmp_path: Path) -> None:
    # The root of a chroot is no mount point, so mounts cannot be kept from spreading.
    root = tmp_path / "root"
    root.mkdir()
    script = """
        set -e
        for entry in /*; do
            if [ -L "$entry" ]; then cp -P "$entry" "$1/"
            elif [ -d "$entry" ]; then mkdir "$1$entry"; mount --rbind "$entry" "$1$entry"
            fi
        done
        root=$1; shift
        exec chroot "$root" "$@"
    """
    world = "no-world-in-a-chroot"
    argv = [sys.executable, "-m", "meshproof", "up", "--world", world]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(root), *argv],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "network, mount and host-name namespaces: missing" in done.stderr
    assert "in a chroot, use a container instead" in done.stderr
    assert not WorldPaths(world).state.exists()
