"""`python -m mesh.inject.init`: prepares a pod for its proxy, as root, in the pod's network namespace, and exits.

Everything was decided at injection and comes in the environment; what is left is what only the pod can do: load the
interception rules, and write the proxy's files with the address the pod got. Imports nothing but the standard
library, because it stands between a pod and its start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

RULES = "MESH_INIT_RULES"
"""Text for iptables-restore."""
FILES = "MESH_INIT_FILES"
"""JSON: path to content."""
OWNER = "MESH_INIT_OWNER"
"""uid and gid the files belong to."""
INSTANCE_IP = "INSTANCE_IP"

LOCK_WAIT_SECONDS = 5
ATTEMPTS = 3


def write(path: Path, content: str, owner: int) -> None:
    """Readable by its owner only, from the first moment it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        os.fchown(fd, owner, owner)
        file.write(content)


def load(rules: str) -> None:
    """Raises `SystemExit` with what iptables-restore said."""
    command = ["iptables-restore", "--noflush", f"--wait={LOCK_WAIT_SECONDS}"]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            result = subprocess.run(command, input=rules, text=True, capture_output=True, check=False)
        except FileNotFoundError:
            sys.exit(f"{command[0]} was not found in PATH={os.environ.get('PATH', '')}: apt-get install iptables")
        if result.returncode == 0:
            return
        if attempt < ATTEMPTS:
            time.sleep(0.1 * attempt)  # another table user may hold it
    sys.exit(f"{' '.join(command)} failed ({result.returncode}): {result.stderr.strip()}")


def main() -> None:
    address = os.environ.get(INSTANCE_IP, "")
    if not address:
        sys.exit(f"{INSTANCE_IP} is empty: the pod has no address yet")
    owner = int(os.environ[OWNER])
    for path, content in json.loads(os.environ[FILES]).items():
        write(Path(path), content.replace("${INSTANCE_IP}", address), owner)
    load(os.environ[RULES])


if __name__ == "__main__":
    main()
