"""Meaning to Envoy v3 resources: pure, deterministic, a function of the view alone, never of one proxy."""

from mesh.compile.view import Compiler

__all__ = ["Compiler"]
