"""The cluster's services and pods, from a folder of JSON files (one per object, replaced atomically), kept up to date.

A change costs what it touches: only changed files are read, and only the endpoints of Services that select, or
selected, a changed pod are built again. `ClusterState` is the bookkeeping without I/O; `ClusterSource` reads files and
is told of changes by the kernel.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec

from mesh.config.latest import Latest
from mesh.config.watch import FolderWatch
from mesh.registry.build import CLUSTER_DOMAIN, endpoints_of, selects, service_of, workload_of
from mesh.registry.objects import DECODERS, ClusterObject, NamespaceObject, PodObject, ServiceObject
from mesh.registry.types import Registry, Service, Workload

log = logging.getLogger(__name__)

Signature = tuple[int, int, int]
"""Inode, size and modification time: equal means that the file was not touched."""

EMPTY = Registry(services={}, endpoints={}, workloads={}, namespaces={})


class ClusterState:
    """Objects by the name of the file they came from, and the registry they make."""

    def __init__(self, domain: str = CLUSTER_DOMAIN) -> None:
        self._domain = domain
        self._objects: dict[str, ClusterObject] = {}
        self._services: dict[str, dict[str, tuple[Service, bool]]] = {}
        """Namespace to name to (service, publishNotReadyAddresses)."""
        self._workloads: dict[str, dict[str, Workload]] = {}
        self._registry = EMPTY

    @property
    def registry(self) -> Registry:
        return self._registry

    def update(self, changes: Iterable[tuple[str, ClusterObject | None]]) -> Registry:
        """Apply (file name, object or None when it is gone). Returns the new registry, or the same one when nothing
        it shows has changed."""
        touched: dict[str, list[Workload]] = {}
        stale: set[tuple[str, str]] = set()
        namespaces: dict[str, dict[str, str]] | None = None
        for file, new in changes:
            old = self._objects.get(file)
            if old == new:
                continue
            if new is None:
                self._objects.pop(file, None)
            else:
                self._objects[file] = new
            if isinstance(old, NamespaceObject) or isinstance(new, NamespaceObject):
                namespaces = namespaces or {name: dict(labels) for name, labels in self._registry.namespaces.items()}
                self._namespace(namespaces, old, new)
            for workload in self._pod(old, new):
                touched.setdefault(workload.namespace, []).append(workload)
            stale |= self._service(old, new)
        for namespace, workloads in touched.items():
            for name, (service, _) in self._services.get(namespace, {}).items():
                if any(selects(service.selector, workload.labels) for workload in workloads):
                    stale.add((namespace, name))
        if stale or touched or namespaces is not None:
            self._registry = self._rebuilt(stale, touched, namespaces)
        return self._registry

    def _namespace(
        self, namespaces: dict[str, dict[str, str]], old: ClusterObject | None, new: ClusterObject | None
    ) -> None:
        if isinstance(old, NamespaceObject):
            namespaces.pop(old.metadata.name, None)
        if isinstance(new, NamespaceObject):
            namespaces[new.metadata.name] = new.metadata.labels

    def _pod(self, old: ClusterObject | None, new: ClusterObject | None) -> list[Workload]:
        """The workload as it was and as it is; nothing when it is the same (a restart count, an annotation)."""
        before = workload_of(old) if isinstance(old, PodObject) else None
        after = workload_of(new) if isinstance(new, PodObject) else None
        if before == after:
            return []
        if before is not None:
            self._workloads.get(before.namespace, {}).pop(before.name, None)
        if after is not None:
            self._workloads.setdefault(after.namespace, {})[after.name] = after
        return [workload for workload in (before, after) if workload is not None]

    def _service(self, old: ClusterObject | None, new: ClusterObject | None) -> set[tuple[str, str]]:
        stale = set()
        if isinstance(old, ServiceObject):
            self._services.get(old.metadata.namespace, {}).pop(old.metadata.name, None)
            stale.add((old.metadata.namespace, old.metadata.name))
        if isinstance(new, ServiceObject):
            service = service_of(new, self._domain)
            by_name = self._services.setdefault(new.metadata.namespace, {})
            by_name[new.metadata.name] = (service, new.spec.publish_not_ready_addresses)
            stale.add((new.metadata.namespace, new.metadata.name))
        return stale

    def _rebuilt(
        self,
        stale: set[tuple[str, str]],
        touched: dict[str, list[Workload]],
        namespaces: dict[str, dict[str, str]] | None,
    ) -> Registry:
        services = dict(self._registry.services)
        endpoints = dict(self._registry.endpoints)
        workloads = dict(self._registry.workloads)
        for namespace, name in stale:
            current = self._services.get(namespace, {}).get(name)
            hostname = f"{name}.{namespace}.svc.{self._domain}"
            before = services.pop(hostname, None)
            for port in before.ports if before else ():
                endpoints.pop((hostname, port.number), None)
            if current is not None:
                service, unready = current
                services[hostname] = service
                endpoints.update(endpoints_of(service, self._workloads.get(namespace, {}).values(), unready=unready))
        for namespace, pods in touched.items():
            for pod in pods:
                now = self._workloads.get(namespace, {}).get(pod.name)
                if now is None:
                    workloads.pop((namespace, pod.name), None)
                else:
                    workloads[namespace, pod.name] = now
        return Registry(
            services=services,
            endpoints=endpoints,
            workloads=workloads,
            namespaces=self._registry.namespaces if namespaces is None else namespaces,
        )


class ClusterSource:
    """Follows a folder of cluster objects.

    Use: `source = ClusterSource(folder)`, `source.load()` once (blocking; the registry is complete afterwards), then
    keep `source.run()` as a task, and follow with `async for registry in source.changes()`, which yields the present
    registry first and then only newer ones (a slow follower skips). `source.registry` is the newest at any time.
    Add what configuration declares with `mesh.registry.service_entries.with_service_entries(registry, snapshot)`.
    """

    def __init__(self, folder: Path, domain: str = CLUSTER_DOMAIN) -> None:
        self.folder = folder
        self._state = ClusterState(domain)
        self._seen: dict[str, Signature] = {}
        """Files as they were last read."""
        self._latest: Latest[Registry] = Latest(EMPTY)

    @property
    def registry(self) -> Registry:
        return self._latest.value

    def changes(self) -> AsyncIterator[Registry]:
        return self._latest.follow()

    def load(self) -> Registry:
        """Take in what the folder holds now, without waiting to be told: one listing, and what changed is read."""
        found = self._listing()
        changed = {name for name, signature in found.items() if self._seen.get(name) != signature}
        self._take(changed | (self._seen.keys() - found.keys()))
        return self.registry

    async def run(self) -> None:
        """Follow the folder until cancelled. Raises `FolderGone` when it is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FolderWatch(self.folder) as watch:
            self.load()
            async for names in watch.batches():
                if names is None:
                    self.load()
                else:
                    self._take(names)
                await asyncio.sleep(0)

    def _listing(self) -> dict[str, Signature]:
        found: dict[str, Signature] = {}
        if not self.folder.is_dir():
            return found
        with os.scandir(self.folder) as items:
            for item in items:
                try:
                    stat = item.stat()
                except FileNotFoundError:
                    continue
                found[item.name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found

    def _take(self, names: Iterable[str]) -> None:
        changes: list[tuple[str, ClusterObject | None]] = []
        for name in names:
            decoder = DECODERS.get(name.partition(".")[0])
            if decoder is None or not name.endswith(".json"):
                continue
            try:
                changes.append((name, self._read(name, decoder)))
            except (msgspec.DecodeError, OSError) as exc:
                log.warning("%s cannot be read, the object stays as it was: %s", self.folder / name, exc)
        before = self._latest.value
        registry = self._state.update(changes)
        if registry is not before:
            self._latest.set(registry)

    def _read(self, name: str, decoder: msgspec.json.Decoder[Any]) -> ClusterObject | None:
        try:
            with (self.folder / name).open("rb") as file:
                stat = os.fstat(file.fileno())
                data = file.read()
        except FileNotFoundError:
            self._seen.pop(name, None)
            return None
        self._seen[name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        obj: ClusterObject = decoder.decode(data)
        return obj
