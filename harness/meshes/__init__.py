"""Meshes under test, one folder each: `load(name)` gives the adapter.

An adapter knows one mesh: how to install it into a world, configure it and ask it. Nobody else does.
"""

from __future__ import annotations

import importlib

from harness.meshes.api import CertificateAuthority, Mesh, MeshError, ProxyStatus, Receipt

ADAPTERS: dict[str, str] = {
    "envoy": "harness.meshes.envoy:EnvoyMesh",
    "none": "harness.meshes.none:NoMesh",
}
"""Name to module and class."""

__all__ = ["ADAPTERS", "CertificateAuthority", "Mesh", "MeshError", "ProxyStatus", "Receipt", "load"]


def load(name: str) -> Mesh:
    """The adapter called `name`; raises `MeshError` for one that does not exist."""
    if name not in ADAPTERS:
        raise MeshError(f"no mesh is called {name!r}; there are: {', '.join(sorted(ADAPTERS))}")
    module, _, attribute = ADAPTERS[name].partition(":")
    mesh: Mesh = getattr(importlib.import_module(module), attribute)()
    return mesh
