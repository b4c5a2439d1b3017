"""How old an object is, and how often it has changed: what Kubernetes keeps in metadata and files do not have.

The age decides conflicts (the oldest wins), so it must outlive a restart: it is the moment the object was first seen in
force, kept in a hidden file beside the objects. An object that is deleted and made again is new.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mesh.config.decode import TIME_FORMAT
from mesh.config.snapshot import Config
from mesh.config.store import replace_file
from mesh.config.validate import Entry

log = logging.getLogger(__name__)

FILE = ".ages.json"
_TICK = timedelta(microseconds=1)


class Age(msgspec.Struct, frozen=True, kw_only=True):
    created: str
    generation: int
    content: str
    """Hash of what the object said in this generation."""


def aged(entries: Iterable[Entry], known: Mapping[str, Age], now: datetime) -> tuple[list[Config[Any]], dict[str, Age]]:
    """The objects with their ages, and the ages to remember. Objects never seen are as old as `now`, each a
    microsecond younger than the one before it, so that the order they were written in is the order of their age."""
    ages: dict[str, Age] = {}
    configs: list[Config[Any]] = []
    last = max((age.created for age in known.values()), default="")
    for entry in entries:
        if entry.config is None:
            continue
        content = _content(entry)
        age = known.get(entry.ref)
        if age is None:
            stamp = now.astimezone(UTC).strftime(TIME_FORMAT)
            if stamp <= last:  # Clocks go backwards, and two changes can share a microsecond.
                stamp = (datetime.strptime(last, TIME_FORMAT).replace(tzinfo=UTC) + _TICK).strftime(TIME_FORMAT)
            last = stamp
            age = Age(created=stamp, generation=1, content=content)
        elif age.content != content:
            age = Age(created=age.created, generation=age.generation + 1, content=content)
        ages[entry.ref] = age
        meta = msgspec.structs.replace(
            entry.config.meta, created=entry.config.meta.created or age.created, generation=age.generation
        )
        configs.append(msgspec.structs.replace(entry.config, meta=meta))
    return configs, ages


def load_ages(folder: Path) -> dict[str, Age]:
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=dict[str, Age])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as exc:
        log.warning("%s is damaged, so every object counts as new: %s", folder / FILE, exc)
        return {}


def save_ages(folder: Path, ages: Mapping[str, Age]) -> None:
    replace_file(folder / FILE, msgspec.json.encode(ages))


def _content(entry: Entry) -> str:
    return hashlib.blake2b(msgspec.json.encode(entry.document.data, order="deterministic"), digest_size=12).hexdigest()
