"""A `Document` to a `Config`: one object of mesh configuration, typed, with all its own mistakes reported.

Only what can be seen in the object itself is judged here; `mesh.config.validate` judges what it means among others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from manifests import Document, InvalidManifests, ManifestError, decode
from manifests.kube import Kube, ObjectMeta
from manifests.metadata import kind_error
from mesh.config.snapshot import Config, ConfigMeta
from mesh.config.support import UNSUPPORTED
from mesh.config.types import MESH_KINDS

T = TypeVar("T")

DEFAULT_NAMESPACE = "default"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


class _Object(Kube, Generic[T], frozen=True, kw_only=True):
    """What surrounds every spec. `status` is the mesh's to write, so what a manifest says there is dropped."""

    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: T
    status: Any = None


def key_of(document: Document) -> str:
    """`Kind/namespace/name`, as `Config.ref`."""
    return f"{document.kind}/{document.namespace or DEFAULT_NAMESPACE}/{document.name}"


def is_mesh_kind(document: Document) -> bool:
    """Whether the object configures the mesh; if not, it is the substrate's, or nobody's."""
    return (document.api_version, document.kind) in MESH_KINDS


def decode_config(document: Document, *, created: str = "") -> Config[Any]:
    """The object `document` describes. `created` is its age when it has no `creationTimestamp`.

    Raises `InvalidManifests` with every error, unsupported fields among them.
    """
    config, errors = decode_partly(document, created=created)
    if errors or config is None:
        raise InvalidManifests(errors)
    return config


def decode_partly(document: Document, *, created: str = "") -> tuple[Config[Any] | None, list[ManifestError]]:
    """The object without its wrong fields, if it can do without, and the errors. For use as configuration only when
    there are none; otherwise for finding more errors."""
    spec_type = MESH_KINDS.get((document.api_version, document.kind))
    if spec_type is None:
        return None, [kind_error(document, MESH_KINDS)]
    object_type: Any = _Object
    unsupported = UNSUPPORTED[document.kind]
    obj, errors = decode.decode_partly(document, object_type[spec_type], unsupported=unsupported)
    if obj is None:
        return None, errors
    metadata = obj.metadata
    if metadata.creation_timestamp:
        try:
            created = normal_time(metadata.creation_timestamp)
        except ValueError:
            errors.append(
                document.error(
                    ("metadata", "creationTimestamp"),
                    "is not a time",
                    value=metadata.creation_timestamp,
                    expected='RFC 3339, such as "2026-01-31T12:00:00Z"',
                )
            )
    config: Config[Any] = Config(
        kind=document.kind,
        namespace=metadata.namespace or DEFAULT_NAMESPACE,
        name=metadata.name,
        spec=obj.spec,
        meta=ConfigMeta(
            created=created,
            file=document.file,
            line=document.line,
            labels=metadata.labels,
            annotations=metadata.annotations,
        ),
    )
    return config, errors


def normal_time(text: str) -> str:
    """An RFC 3339 time in UTC with microseconds, so that times compare as text. Raises `ValueError`."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return time.astimezone(UTC).strftime(TIME_FORMAT)
