"""`python -m harness.workloads.bookinfo productpage|details|reviews|ratings`

Environment: `PORT` (9080), `HOST` (0.0.0.0), `SERVICE_VERSION` (v1), `POD_NAME`, `<NAME>_HOSTNAME` and
`<NAME>_SERVICE_PORT` of upstreams, `SERVICES_DOMAIN`, and the profile's (see `profile`).
"""

from __future__ import annotations

import asyncio
import os
import sys

from harness.workloads.bookinfo.profile import InvalidProfile
from harness.workloads.bookinfo.services import PORT, SERVICES, context_here
from harness.workloads.clock import Clock
from harness.workloads.http1 import Server
from harness.workloads.process import serve_until_stopped


async def run(service: str) -> None:
    context = context_here(service, Clock())
    server = Server(SERVICES[service](context))
    await serve_until_stopped(server, os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", PORT)))


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in SERVICES:
        print(f"usage: python -m harness.workloads.bookinfo {'|'.join(SERVICES)}", file=sys.stderr)
        return 2
    try:
        asyncio.run(run(sys.argv[1]))
    except (InvalidProfile, OSError) as exc:
        print(f"bookinfo {sys.argv[1]}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
