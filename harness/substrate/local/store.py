"""Every object of a world, and its mirror: one JSON file each in `cluster/`, which control planes watch.

A file is replaced atomically, and only when its content changed; a deleted object's file is removed.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from harness.substrate.local.check import DEFAULT_NAMESPACE, Key, key_of
from harness.substrate.local.paths import WorldPaths
from manifests.kube import ConfigMap, CoreObject, Namespace, ObjectMeta, to_dict

O = TypeVar("O", bound=CoreObject)  # noqa: E741 - "an object" is what it is


def new_metadata(metadata: ObjectMeta, namespace: str) -> ObjectMeta:
    """As a server completes the metadata of a new object."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return msgspec.structs.replace(
        metadata, namespace=namespace, uid=str(uuid.uuid4()), creation_timestamp=now, generation=1
    )


class Store:
    def __init__(self, paths: WorldPaths) -> None:
        self._paths = paths
        self._objects: dict[Key, CoreObject] = {}
        self._written: dict[Key, bytes] = {}
        self._version = 0
        self.put(Namespace(metadata=new_metadata(ObjectMeta(name=DEFAULT_NAMESPACE), "")))

    @property
    def objects(self) -> Mapping[Key, CoreObject]:
        return self._objects

    def of(self, type_: type[O]) -> Iterator[O]:
        for obj in list(self._objects.values()):
            if isinstance(obj, type_):
                yield obj

    def config_maps(self, namespace: str) -> dict[str, ConfigMap]:
        return {found.metadata.name: found for found in self.of(ConfigMap) if found.metadata.namespace == namespace}

    def put(self, obj: CoreObject) -> bool:
        """Store `obj`, whose metadata is complete but for `resourceVersion`; whether anything changed."""
        key = key_of(obj)
        bare = msgspec.structs.replace(
            obj,
            metadata=msgspec.structs.replace(obj.metadata, resource_version=""),
        )
        content = msgspec.json.encode(to_dict(bare))
        if self._written.get(key) == content:
            return False
        self._version += 1
        metadata = msgspec.structs.replace(obj.metadata, resource_version=str(self._version))
        stored = msgspec.structs.replace(obj, metadata=metadata)
        self._objects[key] = stored
        self._written[key] = content
        self._paths.write(self._file(key), msgspec.json.format(msgspec.json.encode(to_dict(stored)), indent=1))
        return True

    def remove(self, key: Key) -> None:
        if self._objects.pop(key, None) is not None:
            del self._written[key]
            self._file(key).unlink(missing_ok=True)

    def _file(self, key: Key) -> Path:
        return self._paths.cluster / f"{'.'.join(key)}.json"
