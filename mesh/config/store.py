"""A folder of YAML files as a store of objects: what is in it, and how it is changed without ever being half changed.

A change of several files is first written to a journal; whoever opens the folder after a crash finishes what the
journal says. So every reader sees a set of objects somebody asked for. Hidden files are the store's own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from manifests import Document, InvalidManifests, ManifestError, load_file
from mesh.config.decode import DEFAULT_NAMESPACE
from mesh.config.validate import Entry, inspect

JOURNAL = ".journal.json"
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_FILE_NAME = 255

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

Signature = tuple[int, int, int]
"""Inode, size and modification time: equal means that the file was not touched."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    signature: Signature
    entries: tuple[Entry, ...] = ()
    errors: tuple[ManifestError, ...] = ()
    """Why the file as a whole could not be read."""


class _Journal(msgspec.Struct, frozen=True, kw_only=True):
    write: dict[str, str]
    """File name to its new content."""
    remove: tuple[str, ...]


class Folder:
    """The files, read again only when they change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: Mapping[str, StoredFile] = {}

    def open(self) -> None:
        """Make the folder if need be, and finish a change that a crash interrupted."""
        self.path.mkdir(parents=True, exist_ok=True)
        journal = self.path / JOURNAL
        try:
            pending = msgspec.json.decode(journal.read_bytes(), type=_Journal)
        except FileNotFoundError:
            return
        self._perform(pending)
        journal.unlink()

    def refresh(self) -> bool:
        """Read what changed. Whether anything did."""
        found: dict[str, StoredFile] = {}
        changed = False
        for name, signature in sorted(self._listing().items()):
            known = self.files.get(name)
            if known is not None and known.signature == signature:
                found[name] = known
                continue
            changed = True
            found[name] = self._read(name, signature)
        changed = changed or found.keys() != self.files.keys()
        self.files = found
        return changed

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(entry for file in self.files.values() for entry in file.entries)

    @property
    def errors(self) -> tuple[ManifestError, ...]:
        """Of files that could not be read as YAML at all."""
        return tuple(error for file in self.files.values() for error in file.errors)

    def locate(self, ref: str) -> tuple[str, Entry, bool] | None:
        """The file that holds the object, the object, and whether it is alone there."""
        for name, file in self.files.items():
            for entry in file.entries:
                if entry.ref == ref:
                    return name, entry, len(file.entries) == 1
        return None

    def change(self, write: Mapping[str, str], remove: Iterable[str]) -> None:
        """All of it or nothing, also across a crash."""
        journal = _Journal(write=dict(write), remove=tuple(remove))
        if len(journal.write) + len(journal.remove) == 0:
            return
        if len(journal.write) + len(journal.remove) > 1:
            replace_file(self.path / JOURNAL, msgspec.json.encode(journal))
            self._perform(journal)
            (self.path / JOURNAL).unlink()
        else:
            self._perform(journal)

    def _perform(self, journal: _Journal) -> None:
        for name, text in journal.write.items():
            replace_file(self.path / name, text.encode())
        for name in journal.remove:
            (self.path / name).unlink(missing_ok=True)

    def _listing(self) -> dict[str, Signature]:
        listing: dict[str, Signature] = {}
        with os.scandir(self.path) as items:
            for item in items:
                if item.name.startswith(".") or Path(item.name).suffix not in SUFFIXES:
                    continue
                try:
                    stat = item.stat()
                except FileNotFoundError:
                    continue
                listing[item.name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return listing

    def _read(self, name: str, signature: Signature) -> StoredFile:
        try:
            documents = load_file(self.path / name)
        except InvalidManifests as exc:
            return StoredFile(signature=signature, errors=exc.errors)
        return StoredFile(signature=signature, entries=tuple(inspect(document) for document in documents))


def file_name(document: Document) -> str:
    """`<Kind>.<namespace>.<name>.yaml`, with a hash instead of the end of a name that no file system would take."""
    stem = f"{document.kind}.{document.namespace or DEFAULT_NAMESPACE}.{document.name}"
    if len(stem) + len(".yaml") > MAX_FILE_NAME:
        digest = hashlib.blake2b(stem.encode(), digest_size=8).hexdigest()
        stem = f"{stem[: MAX_FILE_NAME - len('.yaml') - len(digest) - 1]}.{digest}"
    return f"{stem}.yaml"


def dump(document: Document) -> str:
    """The object as YAML."""
    text: str = yaml.dump(document.data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=100)
    return text


def replace_file(path: Path, content: bytes) -> None:
    """`path` has the old content or the new, never a part of it, whatever happens."""
    temporary = path.with_name(f".{path.name[: MAX_FILE_NAME - 10]}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
