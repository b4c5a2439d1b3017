"""Broken meshes, on purpose.

A check that passes on a mesh without the behaviour proves nothing. Two kinds of mutant:

* `xds`: transformations of xDS resources in flight, applied for every proxy. They need nothing of the mesh under test
  but that it speaks xDS.
* `operator`: a mesh whose operations misbehave (accepts any manifest, forgets to delete, is slow): wrapped around the
  mesh's adapter.
"""

from harness.conformance.mutants.xds import MUTANTS

__all__ = ["MUTANTS"]
