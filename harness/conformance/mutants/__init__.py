"""Broken meshes, on purpose.

A check that passes on a mesh without the behaviour proves nothing. Two kinds of mutant:

* Transformations of xDS resources in flight, applied for every proxy (`routing`, `connections`, `policy`; found and
  registered by `xds`). They need nothing of the mesh under test but that it speaks xDS; `MUTANTS` holds them all, and
  a control plane loads them by this package's name.
* `operator`: a mesh whose operations misbehave (accepts any manifest, forgets to delete, is slow): wrapped around the
  mesh's adapter.
"""

from harness.conformance.mutants import connections, policy, routing
from harness.conformance.mutants.xds import MUTANTS

__all__ = ["MUTANTS", "connections", "policy", "routing"]
