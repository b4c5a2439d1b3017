"""The capture, a process of its own so that it neither waits for the harness's interpreter nor slows it.

`python -m harness.wire.capture --pcap FILE` is started inside the node's network namespace and captures on every
veth there. It speaks lines on its standard input and output: `snapshot FILE` writes what has been seen so far as a
`Table` in JSON and answers `ok FILE`; `stop FILE` does the same and ends. It ends too when its standard input does.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import socket
import sys
import time
from pathlib import Path

import msgspec
from pyroute2 import IPRoute

from harness.wire.classify import FlowTable
from harness.wire.packets import parse
from harness.wire.pcap import PcapWriter
from harness.wire.ring import Ring
from harness.wire.table import Table

_SETTLE = 0.15  # three times what the kernel may hold a block back


class Capture:
    def __init__(self, ring: Ring, pcap: PcapWriter, ports: frozenset[int]) -> None:
        self._ring = ring
        self._pcap = pcap
        self._flows = FlowTable(ports)
        self._packets = 0
        self._started = time.time()

    def drain(self) -> None:
        for frame in self._ring.frames():
            packet = parse(frame.ethertype, frame.data[frame.network :])
            if packet is None:
                continue
            self._packets += 1
            when = frame.seconds + frame.nanoseconds / 1e9
            if self._flows.packet(packet, when, frame.interface, frame.outgoing):
                self._pcap.write(frame.seconds, frame.nanoseconds, frame.data, frame.length)

    def table(self) -> Table:
        """Everything that happened before the call: waits until the kernel has handed it over."""
        taken = time.time()
        deadline = time.monotonic() + _SETTLE
        while (left := deadline - time.monotonic()) > 0:
            self._ring.wait(left)
            self.drain()
        self._pcap.flush()
        return Table(
            started=self._started,
            taken=taken,
            packets=self._packets,
            dropped=self._ring.dropped() + self._flows.overflow,
            omitted=self._pcap.omitted,
            cpu_seconds=time.process_time(),
            addresses=_addresses(),
            flows=list(self._flows.records()),
        )


def _addresses() -> list[str]:
    with IPRoute() as netlink:
        return sorted({message.get("address") for message in netlink.get_addr()} - {None})


def _write(path: Path, table: Table) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(msgspec.json.encode(table))
    temporary.replace(path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.wire.capture", description="capture and classify flows")
    parser.add_argument("--pcap", type=Path, required=True, help="evidence file to write")
    parser.add_argument("--pcap-bytes", type=int, default=16 << 20, help="its largest size")
    parser.add_argument("--ring-megabytes", type=int, default=32, help="what may pile up in the kernel")
    parser.add_argument("--port", type=int, action="append", default=[], help="a port known to be listened on")
    options = parser.parse_args(argv)
    try:
        ring = Ring(options.ring_megabytes)
    except OSError as error:
        print(f"cannot capture: {error.strerror or error} (packet sockets need CAP_NET_RAW: run as root)", flush=True)
        return 4
    with ring, PcapWriter(options.pcap, options.pcap_bytes) as pcap:
        capture = Capture(ring, pcap, frozenset(options.port))
        gc.freeze()
        interfaces = ",".join(name for _, name in socket.if_nameindex())
        print(f"ready {interfaces}", flush=True)
        commands = sys.stdin.fileno()
        pending = b""
        while True:
            readable, _, _ = select.select([ring, commands], [], [])
            capture.drain()
            if commands not in readable:
                continue
            chunk = os.read(commands, 4096)
            if not chunk:
                return 0
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                command, _, argument = line.decode().partition(" ")
                _write(Path(argument), capture.table())
                print(f"ok {argument}", flush=True)
                if command == "stop":
                    return 0


if __name__ == "__main__":
    sys.exit(main())
