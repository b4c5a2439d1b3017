"""Mutual TLS: who may speak, how it is proved, what is seen on the wire (M1-M20)."""
