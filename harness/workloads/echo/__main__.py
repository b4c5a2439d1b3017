"""`python -m harness.workloads.echo`: listens on every port of `protocol`, the control API on loopback only.

Environment: `POD_NAME`, `POD_NAMESPACE`, `SERVICE_VERSION`, `SERVICE_ACCOUNT` say who answers.
"""

from __future__ import annotations

import asyncio
import sys

from harness.workloads.echo.server import run


def main() -> int:
    try:
        asyncio.run(run())
    except OSError as exc:
        print(f"echo: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
