"""Timeouts, retries, ejection, limits, balance (E1-E24)."""
