"""HDR histograms per second, arm and status: 1 µs to 60 s in three digits, encoded as HdrHistogram V2 (base64).

Merging is adding, so nights, workers and machines can be put together later:
`HdrHistogram.decode(text)`, then `add`. They are made after the load has ended: a histogram costs milliseconds to
encode, which during a run would be lateness.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

LOWEST_US, HIGHEST_US, DIGITS = 1, 60_000_000, 3


class Histograms:
    """Feed it in the order of time: a second is encoded and let go when the next begins, which bounds memory."""

    def __init__(self, arms: list[str]) -> None:
        self._arms = arms
        self._entries: list[dict[str, object]] = []
        self._second = -1
        self._open: dict[tuple[int, int], HdrHistogram] = {}

    def add(
        self,
        seconds: npt.NDArray[np.int64],
        arms: npt.NDArray[np.int16],
        statuses: npt.NDArray[np.int16],
        latencies_us: npt.NDArray[np.float64],
    ) -> None:
        rows = zip(seconds.tolist(), arms.tolist(), statuses.tolist(), latencies_us.tolist(), strict=True)
        for second, arm, status, latency in rows:
            if second != self._second:
                self._close()
                self._second = second
            histogram = self._open.get((arm, status))
            if histogram is None:
                histogram = self._open[arm, status] = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
            histogram.record_value(min(max(round(latency), LOWEST_US), HIGHEST_US))

    def _close(self) -> None:
        for (arm, status), histogram in sorted(self._open.items()):
            self._entries.append(
                {
                    "second": self._second,
                    "arm": self._arms[arm],
                    "status": status,
                    "count": histogram.get_total_count(),
                    "hdr": histogram.encode().decode(),
                }
            )
        self._open.clear()

    def encoded(self) -> bytes:
        """The document of `histograms.json`."""
        self._close()
        document = {
            "unit": "us",
            "lowest": LOWEST_US,
            "highest": HIGHEST_US,
            "digits": DIGITS,
            "histograms": self._entries,
        }
        return msgspec.json.encode(document)
