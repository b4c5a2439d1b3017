"""Telemetry, checked against what the client counted (T1-T10)."""
