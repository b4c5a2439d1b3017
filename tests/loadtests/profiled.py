"""A small HTTP/1.1 server for tests of the load generator, in a process of its own; prints its port.

/page        200 after a log-normal service time drawn from the seed header (median and sigma by option)
/stall       200 at once, but everything stands still for `--stall` seconds out of every second
/status/N    N at once
/twice       answers the first request of a connection, closes instead of answering the second
/drop        closes without answering
/half        closes within the response
/garbage     is not HTTP
/hang        never answers
/seen        the peer address and the seeds received so far, as JSON
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import time

SEEN: list[str] = []


async def answer(writer: asyncio.StreamWriter, path: str, seed: str, count: int, options: argparse.Namespace) -> bool:
    """Whether the connection stays open."""
    status, body = 200, b"x" * 4000
    if path == "/page":
        SEEN.append(seed)
        await asyncio.sleep(random.Random(seed).lognormvariate(math.log(options.median), options.sigma))
    elif path == "/stall":
        phase = time.monotonic() % 1.0
        await asyncio.sleep(max(0.0, options.stall - phase))
    elif path.startswith("/status/"):
        status = int(path.rpartition("/")[2])
    elif path == "/seen":
        body = json.dumps({"peer": writer.get_extra_info("peername")[0], "seeds": SEEN}).encode()
    elif path == "/drop" or (path == "/twice" and count > 1):
        return False
    elif path == "/half":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\nhalf")
        return False
    elif path == "/garbage":
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        return False
    elif path == "/hang":
        await asyncio.sleep(3600)
    writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
    await writer.drain()
    return True


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, options: argparse.Namespace) -> None:
    count = 0
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            count += 1
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            if not await answer(writer, lines[0].split(" ")[1], headers.get("x-profile-seed", "0"), count, options):
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--median", type=float, default=0.005, help="seconds")
    parser.add_argument("--sigma", type=float, default=0.3)
    parser.add_argument("--stall", type=float, default=0.0, help="seconds")
    options = parser.parse_args()
    server = await asyncio.start_server(lambda r, w: serve(r, w, options), options.host, options.port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
