"""No field is accepted and ignored: what compilation does not read is refused by name, and the table is no fiction."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec.inspect as inspect
import pytest

import mesh
from manifests import load_text
from mesh.config.decode import decode_partly
from mesh.config.support import UNSUPPORTED
from mesh.config.types import API_VERSIONS, SPEC_TYPES

READERS = ("model", "compile", "registry")


def fields(type_: inspect.Type, pattern: str) -> Iterator[tuple[str, str]]:
    """(pattern, attribute) of every field below `type_`, except below a field that is refused."""
    match type_:
        case inspect.UnionType():
            for option in type_.types:
                yield from fields(option, pattern)
        case inspect.VarTupleType() | inspect.ListType():
            yield from fields(type_.item_type, f"{pattern}[]")
        case inspect.DictType():
            yield from fields(type_.value_type, f"{pattern}{{}}")
        case inspect.StructType():
            for field in type_.fields:
                below = f"{pattern}.{field.encode_name}"
                yield below, field.name
                yield from fields(field.type, below)


def refused(kind: str, pattern: str) -> bool:
    return any(
        pattern == entry or pattern.startswith((f"{entry}.", f"{entry}[", f"{entry}{{")) for entry in UNSUPPORTED[kind]
    )


def attributes_read() -> set[str]:
    """Every attribute name that code which gives configuration its meaning reads."""
    root = Path(mesh.__file__).parent
    return {
        node.attr
        for folder in READERS
        for file in (root / folder).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
    }


@pytest.mark.parametrize("kind", sorted(SPEC_TYPES))
def test_every_accepted_field_is_read_by_something(kind: str) -> None:
    read = attributes_read()
    found = fields(inspect.type_info(SPEC_TYPES[kind]), "spec")
    ignored = [pattern for pattern, name in found if not refused(kind, pattern) and name not in read]
    assert ignored == [], "accepted and never read: implement them, or list them in mesh/config/support.py"


def test_the_table_knows_every_kind() -> None:
    assert UNSUPPORTED.keys() == SPEC_TYPES.keys() == API_VERSIONS.keys()


@pytest.mark.parametrize(
    ("kind", "pattern"), [(kind, pattern) for kind, table in UNSUPPORTED.items() for pattern in table]
)
def test_every_entry_refuses_its_field_by_name(kind: str, pattern: str) -> None:
    path, _, value = pattern.partition("=")
    spec: object = value or {}
    for part in reversed(path.split(".")[1:]):
        name = part.rstrip("[]{}")
        if part.endswith("{}"):
            spec = {"key": spec}
        elif part.endswith("[]"):
            spec = [spec]
        spec = {name: spec}
    header = f"apiVersion: {API_VERSIONS[kind][0]}\nkind: {kind}\nmetadata: {{name: a}}\n"
    document = load_text(f"{header}spec: {json.dumps(spec)}\n")[0]
    _, errors = decode_partly(document)
    field = path.replace("[]", "[0]").replace("{}", ".key")
    named = [error.message for error in errors if error.field == field]
    assert len(named) == 1
    assert named[0].startswith("is not supported by this mesh yet")
