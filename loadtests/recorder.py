"""What a load run writes down, and when.

While it runs: every second one line per arm (`seconds.ndjson`), and as soon as all requests of a window have completed
its samples (`parts/`) and then its mark (`windows.ndjson`). So a mark promises a readable part, and whoever follows the
run never sees half a window. At the end: `samples.parquet` (which takes the parts' place), `histograms.json`,
`health.json`.

Times are kept in arrays as long as the schedule, indexed by arrival: nothing grows with time, and a record costs a few
array stores. Everything slower than that happens between requests, at most once per second and window, for all arms
alike.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from loadtests.client import Outcome
from loadtests.histograms import Histograms
from loadtests.schedule import WARMUP, Schedule
from loadtests.spec import (
    HEALTH,
    HISTOGRAMS,
    PARTS,
    SAMPLES,
    SECONDS,
    WINDOWS,
    Health,
    LoadSpec,
    Second,
    WindowMark,
)
from loadtests.usage import Reading, Share

Rows = npt.NDArray[np.integer] | slice
"""Which arrivals: indices into the schedule, or a run of them."""

_SCHEMA = pa.schema(
    [
        ("arm", pa.dictionary(pa.int32(), pa.string())),
        ("window", pa.int32()),
        ("seed", pa.int64()),
        ("intended_ns", pa.int64()),
        ("sent_ns", pa.int64()),
        ("done_ns", pa.int64()),
        ("status", pa.int16()),
        ("error", pa.dictionary(pa.int32(), pa.string())),
        ("bytes", pa.int32()),
    ]
)
_FIRST_ERROR_STATUS = 400
_SECOND_NS = 1_000_000_000


class Recorder:
    """The record of one run. `begin` is called when the schedule starts, `done` per completed request, `tick` a few
    times per second, `finish` at the end."""

    def __init__(self, spec: LoadSpec, schedule: Schedule) -> None:
        self.spec, self.schedule = spec, schedule
        count = len(schedule)
        self._sent = np.zeros(count, dtype=np.int64)
        self._done = np.zeros(count, dtype=np.int64)
        self._status = np.zeros(count, dtype=np.int16)
        self._bytes = np.zeros(count, dtype=np.int32)
        self._error = np.zeros(count, dtype=np.int32)
        self._errors: dict[str, int] = {"": 0}
        self._slices = {window: schedule.slice_of(window) for window in range(WARMUP, schedule.windows)}
        self._outstanding = {window: part.stop - part.start for window, part in self._slices.items()}
        self._marks: list[WindowMark] = []
        self._recent: list[int] = []  # Completed, and not in a written second yet.
        self._seconds_written = 0
        self._reopened = 0
        self._start_ns = 0
        self._first: Reading | None = None
        self._latest: Reading | None = None

    def prepare(self) -> None:
        """Pay now for what the first window would pay: the first Parquet file of a process takes 0.2 s to write."""
        (self.spec.out / PARTS).mkdir(parents=True, exist_ok=True)
        pq.write_table(self._table(slice(0, 0)), io.BytesIO(), compression="zstd")
        _quantile(np.zeros(1), 0.5)
        Reading.now()

    # === while running ===

    def begin(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._seconds: BinaryIO = (self.spec.out / SECONDS).open("wb")
        self._windows: BinaryIO = (self.spec.out / WINDOWS).open("wb")

    def intended_ns(self, index: int) -> int:
        return self._start_ns + int(self.schedule.offset_ns[index])

    def done(self, index: int, outcome: Outcome) -> None:
        self._sent[index], self._done[index] = outcome.sent_ns, outcome.done_ns
        self._status[index], self._bytes[index] = outcome.status, outcome.body_bytes
        if outcome.error:
            self._error[index] = self._errors.setdefault(outcome.error, len(self._errors))
        self._reopened += outcome.reopened
        self._outstanding[int(self.schedule.window[index])] -= 1
        self._recent.append(index)

    def tick(self, now_ns: int) -> list[WindowMark]:
        """Write what is complete by now: elapsed seconds, and windows. Returns the new windows' marks."""
        if self._first is None and now_ns >= self._start_ns + self.schedule.start_ns(0):
            self._first = self._latest = Reading.now()
        while now_ns >= self._start_ns + (self._seconds_written + 1) * _SECOND_NS:
            self._write_second()
        fresh = []
        while (window := len(self._marks)) < self.schedule.windows and self._is_over(window, now_ns):
            self._marks.append(self._write_window(window))
            fresh.append(self._marks[-1])
        return fresh

    def _is_over(self, window: int, now_ns: int) -> bool:
        return self._outstanding[window] == 0 and now_ns >= self._start_ns + self.schedule.start_ns(window + 1)

    def _write_second(self) -> None:
        self._seconds_written += 1
        end_ns = self._seconds_written * _SECOND_NS
        recent = np.array(self._recent, dtype=np.int64)
        within = self._done[recent] < self._start_ns + end_ns
        self._recent = recent[~within].tolist()
        rows = recent[within]
        done_by_arm, latency, failed = self.schedule.arm[rows], self._latency_ms(rows), self._failed(rows)
        due = int(np.searchsorted(self.schedule.offset_ns, end_ns))
        pending = self.schedule.arm[:due][self._done[:due] == 0]
        for number, arm in enumerate(self.spec.arms):
            mine = done_by_arm == number
            p50, p99 = np.quantile(latency[mine], [0.5, 0.99]) if mine.any() else (0.0, 0.0)
            line = Second(
                t=float(self._seconds_written),
                ns=self._start_ns + end_ns,
                arm=arm.name,
                requests=int(mine.sum()),
                errors=int(failed[mine].sum()),
                p50_ms=round(float(p50), 3),
                p99_ms=round(float(p99), 3),
                pending=int((pending == number).sum()),
            )
            self._seconds.write(msgspec.json.encode(line) + b"\n")
        self._seconds.flush()

    def _write_window(self, window: int) -> WindowMark:
        part = self._slices[window]
        name = f"{window:06d}.parquet"
        pq.write_table(self._table(part), self.spec.out / PARTS / name, compression="zstd")
        now = Reading.now()
        share = self._latest.until(now) if self._latest else Share(0.0, 0.0, 0.0)
        self._latest = now
        mark = WindowMark(
            window=window,
            start_ns=self._start_ns + self.schedule.start_ns(window),
            end_ns=self._start_ns + self.schedule.start_ns(window + 1),
            requests=part.stop - part.start,
            errors=int(self._failed(part).sum()),
            lateness_p99_ms=_quantile(self._lateness_ms(part), 0.99),
            cpu_fraction=share.own,
            machine_cpu_fraction=share.machine,
            steal_fraction=share.stolen,
            part=name,
        )
        self._windows.write(msgspec.json.encode(mark) + b"\n")
        self._windows.flush()
        return mark

    # === at the end ===

    def finish(self, now_ns: int, interrupted: bool) -> Health:
        """Write everything that completed. The load has ended, so this may take its time."""
        last, first = Reading.now(), self._first
        self.tick(now_ns)
        self._seconds.close()
        self._windows.close()
        begun = self._start_ns + self.schedule.start_ns(0)
        measured = np.flatnonzero((self._done > 0) & (self.schedule.window >= 0))
        elapsed = max(now_ns - begun, 0)
        planned = min(elapsed, len(self._marks) * self.schedule.window_ns) if not interrupted else elapsed
        scheduled = int(np.searchsorted(self.schedule.offset_ns, begun - self._start_ns + planned))
        scheduled -= self._slices[0].start
        # A generator that kept up sent its last request within the last window; one that did not took longer.
        last_sent = int(self._sent[measured].max()) - begun if len(measured) else 0
        took = max(planned, last_sent)
        lateness = self._lateness_ms(measured)
        share = first.until(last) if first else Share(0.0, 0.0, 0.0)
        arms = len(self.spec.arms)
        health = Health(
            target_rate=scheduled / arms / (planned / 1e9) if planned else 0.0,
            achieved_rate=len(measured) / arms / (took / 1e9) if took else 0.0,
            lateness_p50_ms=_quantile(lateness, 0.5),
            lateness_p99_ms=_quantile(lateness, 0.99),
            cpu_fraction=share.own,
            machine_cpu_fraction=share.machine,
            steal_fraction=share.stolen,
            requests=len(measured),
            errors=int(self._failed(measured).sum()),
            reopened=self._reopened,
            windows=len(self._marks),
            interrupted=interrupted,
        )
        self._write_samples()
        _write(self.spec.out / HEALTH, msgspec.json.encode(health))
        return health

    def _write_samples(self) -> None:
        histograms = Histograms([arm.name for arm in self.spec.arms])
        partial = self.spec.out / (SAMPLES + ".part")
        with pq.ParquetWriter(partial, _SCHEMA, compression="zstd") as writer:
            for part in self._slices.values():
                rows = part.start + np.flatnonzero(self._done[part])
                if not len(rows):
                    continue
                writer.write_table(self._table(rows))
                seconds = self.schedule.offset_ns[rows] // _SECOND_NS
                histograms.add(seconds, self.schedule.arm[rows], self._status[rows], self._latency_ms(rows) * 1e3)
        partial.replace(self.spec.out / SAMPLES)
        _write(self.spec.out / HISTOGRAMS, histograms.encoded())
        shutil.rmtree(self.spec.out / PARTS)

    # === columns ===

    def _latency_ms(self, rows: Rows) -> npt.NDArray[np.float64]:
        return (self._done[rows] - self._start_ns - self.schedule.offset_ns[rows]) / 1e6

    def _lateness_ms(self, rows: Rows) -> npt.NDArray[np.float64]:
        return (self._sent[rows] - self._start_ns - self.schedule.offset_ns[rows]) / 1e6

    def _failed(self, rows: Rows) -> npt.NDArray[np.bool_]:
        status = self._status[rows]
        failed: npt.NDArray[np.bool_] = (status == 0) | (status >= _FIRST_ERROR_STATUS)
        return failed

    def _table(self, rows: Rows) -> pa.Table:
        def named(codes: npt.NDArray[np.integer], names: Iterable[str]) -> pa.DictionaryArray:
            return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names, pa.string()))

        columns = {
            "arm": named(self.schedule.arm[rows], [arm.name for arm in self.spec.arms]),
            "window": self.schedule.window[rows],
            "seed": self.schedule.seed[rows],
            "intended_ns": self._start_ns + self.schedule.offset_ns[rows],
            "sent_ns": self._sent[rows],
            "done_ns": self._done[rows],
            "status": self._status[rows],
            "error": named(self._error[rows], list(self._errors)),
            "bytes": self._bytes[rows],
        }
        return pa.table(columns, schema=_SCHEMA)


def _quantile(values: npt.NDArray[np.float64], quantile: float) -> float:
    return float(np.quantile(values, quantile)) if len(values) else 0.0


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)
