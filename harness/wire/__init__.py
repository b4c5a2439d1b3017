"""What really went over the wire: packet capture, mutual-TLS coverage, and probes from outside the mesh."""

from harness.wire.coverage import gates
from harness.wire.tap import CaptureError, WireTap

__all__ = ["CaptureError", "WireTap", "gates"]
