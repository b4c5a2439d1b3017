"""Kubernetes YAML: the one description of what runs and how it is meshed.

Every other package reads manifests through this one, so a mistake is reported the same way whoever finds
it: file, line, field, value, and what was expected.

* `load`: YAML text to `Document`s that remember the line of every field.
* `decode`: a `Document` to a typed object, all errors at once.
* `kube`: the core Kubernetes kinds.
* `errors`: `ManifestError` and the exception that carries them.
"""

from manifests.errors import InvalidManifests, ManifestError
from manifests.load import Document, load_file, load_paths, load_text

__all__ = [
    "Document",
    "InvalidManifests",
    "ManifestError",
    "load_file",
    "load_paths",
    "load_text",
]
