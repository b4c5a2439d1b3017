"""Meaning to Envoy v3 resources: pure, deterministic, a function of the view alone, never of one proxy."""

from mesh.compile.view import compile_endpoints, compile_view

__all__ = ["compile_endpoints", "compile_view"]
