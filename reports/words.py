"""Numbers as people read them. A value is never rounded past what it means: no `100 %` that is not all."""

from __future__ import annotations

import re
from datetime import datetime

_UNIT = re.compile(r"(\d) (%|ms|s|min|MiB|KiB)(?!\w)")


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    digits = 0 if value >= 1000 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} ms"


def delta(value_ms: float) -> str:
    """A difference in milliseconds, with its sign."""
    return f"{value_ms:+.2f} ms".replace("-", "−")


def seconds(value: float) -> str:
    if value >= 90:
        return f"{int(value // 60)} min {value % 60:.0f} s"
    return f"{value:.1f} s" if value >= 1 else milliseconds(value * 1000)


def percent_of_ratio(ratio: float) -> str:
    """1.031 is +3.1 %; digits by size, since a tenth of a percent matters near the limit and not at +80 %."""
    change = (ratio - 1) * 100
    digits = 0 if abs(change) >= 99.5 else 1
    text = f"{change:+.{digits}f} %"
    return "0.0 %" if text in ("+0.0 %", "-0.0 %") else text.replace("-", "−")


def share(part: int, whole: int) -> str:
    """Whole percents, but never 100 unless it is all, nor 0 unless it is none."""
    if whole == 0:
        return "–"
    if part == whole:
        return "100 %"
    value = min(max(100 * part / whole, 0.1 if part else 0.0), 99.9)
    return f"{value:.1f} %" if value > 99 or 0 < value < 1 else f"{value:.0f} %"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def quantile_name(quantile: float) -> str:
    """0.999 is P99.9."""
    return "fastest" if quantile == 0 else f"P{quantile * 100:.6g}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def moment(iso: str) -> str:
    """An ISO 8601 time for reading; what does not parse is shown as it is."""
    try:
        return datetime.fromisoformat(iso).strftime("%-d %B %Y, %H:%M:%S %Z").strip()
    except ValueError:
        return iso


def tied(text: str) -> str:
    """Numbers stay on one line with their units."""
    return _UNIT.sub("\\1\u00a0\\2", text)


def printable_hex(first_bytes: str) -> str:
    """Hex as in a dump's right-hand column: printable characters, and dots."""
    try:
        data = bytes.fromhex(first_bytes)
    except ValueError:
        return first_bytes
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in data)
