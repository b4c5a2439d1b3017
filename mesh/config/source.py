"""The mesh's configuration from a watched folder: always the last set of objects that was valid as a whole.

Invariants: the snapshot only ever moves from one valid set to another; an error anywhere in the folder keeps the last
good set in force and is shown in `status`; `apply` and `delete` validate the set that would result and change nothing
when it has an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifests import Document, InvalidManifests, ManifestError
from mesh.config.ages import Age, aged, load_ages, save_ages
from mesh.config.decode import is_mesh_kind, key_of
from mesh.config.latest import Latest
from mesh.config.snapshot import EMPTY, Config, ConfigSnapshot
from mesh.config.status import ConfigStatus, status_of
from mesh.config.store import Folder, dump, file_name
from mesh.config.validate import Entry, Validation, inspect, known_hosts, validate_set
from mesh.config.watch import FolderWatch
from mesh.registry.types import Registry

log = logging.getLogger(__name__)


class FileSource:
    """Configuration from a folder.

    Use: `source = FileSource(folder)`, `source.load()` once, keep `source.run()` as a task, and follow with
    `async for snapshot in source.changes()`, which yields the present snapshot first and then only newer ones (a slow
    follower skips). `source.snapshot` is the one in force; `source.status` says what became of every object.

    `registry` arguments are what the cluster has now: with it, a changed object that routes to a Service nobody has is
    refused. All methods belong to one event loop.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = Folder(folder)
        self._ages: dict[str, Age] = {}
        self._opened = False
        self._latest: Latest[ConfigSnapshot] = Latest(EMPTY)
        self._changing = asyncio.Lock()
        self._status = ConfigStatus(objects={}, digest=EMPTY.digest)

    @property
    def snapshot(self) -> ConfigSnapshot:
        return self._latest.value

    @property
    def status(self) -> ConfigStatus:
        return self._status

    def changes(self) -> AsyncIterator[ConfigSnapshot]:
        return self._latest.follow()

    def load(self) -> ConfigSnapshot:
        """Take in what the folder holds now. Cheap when nothing changed. Errors are in `status`."""
        if not self._opened:
            self._store.open()
            self._ages = load_ages(self.folder)
            self._opened = True
        if self._store.refresh():
            # A file was edited behind our back: nobody waits for an answer, and Services come and go, so
            # a reference to one that is not there (yet) is a warning here.
            self._publish(validate_set(self._store.entries, strict=()))
        return self.snapshot

    async def run(self) -> None:
        """Follow the folder until cancelled. Raises `FolderGone` when it is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FolderWatch(self.folder) as watch:
            self.load()
            async for _ in watch.batches():
                async with self._changing:
                    self.load()

    async def apply(self, documents: Iterable[Document], registry: Registry | None = None) -> Validation:
        """Create or replace objects, one file each, all or none. Returns the judgement, whose warnings concern these
        documents. Raises `InvalidManifests`; then nothing has changed."""
        documents = list(documents)
        async with self._changing:
            self.load()
            entries, validation = self._judge(documents, registry)
            validation.raise_errors()
            write = {self._file_for(entry): dump(entry.document) for entry in entries if self._differs(entry)}
            self._store.change(write, ())
            self._settle()
            return validation

    async def delete(self, documents: Iterable[Document], registry: Registry | None = None) -> Validation:
        """Remove objects, all or none; those that are not there are no error. Raises `InvalidManifests` when what
        remains would be invalid, such as a route to a subset that nobody defines any more."""
        documents = list(documents)
        async with self._changing:
            self.load()
            refs = {key_of(document) for document in documents}
            errors = [*self._kinds(documents), *self._store.errors, *self._not_alone(documents)]
            if errors:
                raise InvalidManifests(errors)
            rest = [entry for entry in self._store.entries if entry.ref not in refs]
            validation = validate_set(rest, hosts=_hosts(registry), strict=())
            validation.raise_errors()
            found = [self._store.locate(ref) for ref in sorted(refs)]
            self._store.change({}, [located[0] for located in found if located is not None])
            self._settle()
            return validation

    def validate(self, documents: Iterable[Document], registry: Registry | None = None) -> tuple[ManifestError, ...]:
        """What `apply` would say, without doing it: warnings of these documents. Raises `InvalidManifests`."""
        documents = list(documents)
        self.load()
        _, validation = self._judge(documents, registry)
        validation.raise_errors()
        return validation.warnings

    # === what would result ===

    def _judge(self, documents: Sequence[Document], registry: Registry | None) -> tuple[list[Entry], Validation]:
        entries = [inspect(document) for document in documents]
        refs = {entry.ref for entry in entries}
        rest = [entry for entry in self._store.entries if entry.ref not in refs]
        validation = validate_set([*rest, *entries], hosts=_hosts(registry), strict=refs)
        errors = {*validation.errors, *self._store.errors, *self._not_alone(documents)}
        mine = {document.file for document in documents}
        return entries, Validation(
            entries=validation.entries,
            errors=tuple(sorted(errors)),
            warnings=tuple(warning for warning in validation.warnings if warning.file in mine),
        )

    def _kinds(self, documents: Iterable[Document]) -> list[ManifestError]:
        return [error for d in documents if not is_mesh_kind(d) for error in inspect(d).errors]

    def _not_alone(self, documents: Iterable[Document]) -> list[ManifestError]:
        """Objects that somebody wrote into one file with others: not ours to take apart."""
        errors = []
        for document in documents:
            located = self._store.locate(key_of(document))
            if located is not None and not located[2]:
                errors.append(
                    document.error(
                        ("metadata", "name"),
                        f"is kept in {located[1].document.file}:{located[1].document.line} together with other objects",
                        value=document.name,
                        expected="to be changed there",
                    )
                )
        return errors

    def _file_for(self, entry: Entry) -> str:
        located = self._store.locate(entry.ref)
        return located[0] if located is not None else file_name(entry.document)

    def _differs(self, entry: Entry) -> bool:
        located = self._store.locate(entry.ref)
        return located is None or located[1].document.data != entry.document.data

    # === what is in force ===

    def _settle(self) -> None:
        """Take in our own change, which was judged already."""
        self._store.refresh()
        self._publish(validate_set(self._store.entries, strict=()))

    def _publish(self, validation: Validation) -> None:
        errors = (*validation.errors, *self._store.errors)
        if errors:
            for error in errors:
                log.error("configuration is not taken over: %s", error)
        else:
            known = dict(self._ages)
            configs, self._ages = aged(validation.entries, known, datetime.now(UTC))
            if self._ages != known:
                save_ages(self.folder, self._ages)
            self._take(configs)
        self._status = status_of(validation, self.snapshot, self._store.errors)

    def _take(self, configs: list[Config[Any]]) -> None:
        snapshot = ConfigSnapshot(configs)
        if snapshot != self.snapshot:
            self._latest.set(snapshot)


def _hosts(registry: Registry | None) -> dict[str, frozenset[int]] | None:
    return None if registry is None else known_hosts(registry)
