"""YAML text to `Document`s that remember where every field was written.

Only plain data is accepted (YAML's safe tags); duplicate keys, which YAML parsers silently resolve to the
last one, are errors, because a silently dropped route is the kind of mistake this project exists to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from manifests.errors import InvalidManifests, ManifestError, shown

MAX_BYTES = 8 << 20
"""A manifest file larger than this is refused: Kubernetes itself stops at about 1.5 MiB an object."""

MAX_NODES = 500_000
"""Nodes visited per file, counting an alias each time it is used, so that alias bombs end as an error."""

MAX_DEPTH = 64

FieldPath = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's when PyYAML was built with it: ten times faster."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One object of a manifest file, undecoded.

    `lines` maps a field path, such as `("spec", "http", 0)`, to its 1-based line.
    """

    file: str
    line: int
    data: dict[str, Any]
    lines: dict[FieldPath, int]

    @property
    def api_version(self) -> str:
        return str(self.data.get("apiVersion", ""))

    @property
    def kind(self) -> str:
        return str(self.data.get("kind", ""))

    @property
    def namespace(self) -> str:
        """The namespace as written; empty when none is."""
        return str((self.data.get("metadata") or {}).get("namespace", "") or "")

    @property
    def name(self) -> str:
        return str((self.data.get("metadata") or {}).get("name", "") or "")

    def line_of(self, path: FieldPath) -> int:
        """The line of `path`, or of its nearest parent that was written."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)

    def error(self, path: FieldPath, message: str, *, value: object = "", expected: str = "") -> ManifestError:
        return ManifestError(
            file=self.file,
            line=self.line_of(path),
            field=show_path(path),
            message=message,
            value=shown(value) if value != "" else "",
            expected=expected,
        )


def show_path(path: FieldPath) -> str:
    """`("spec", "http", 0, "route")` as `spec.http[0].route`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif "." in part or "/" in part:
            text += f'["{part}"]'
        else:
            text += f".{part}" if text else part
    return text


def load_text(text: str, file: str = "<text>") -> list[Document]:
    """Every object in `text`, a YAML stream. `kind: List` is flattened.

    Raises `InvalidManifests` with every error found.
    """
    errors: list[ManifestError] = []
    documents: list[Document] = []
    if len(text) > MAX_BYTES:
        raise InvalidManifests(
            [
                ManifestError(
                    file=file,
                    line=0,
                    field="",
                    message=f"{len(text)} bytes is too large",
                    expected=f"at most {MAX_BYTES}",
                )
            ]
        )
    try:
        too_deep = _too_deep(text, file)
        if too_deep:
            raise InvalidManifests([too_deep])
        roots = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.YAMLError as exc:
        raise InvalidManifests([_yaml_error(exc, file, text)]) from None
    for root in roots:
        if root is None or (isinstance(root, ScalarNode) and root.tag.endswith(":null")):
            continue
        line = root.start_mark.line + 1
        builder = _Builder(file)
        data = builder.build(root, (), 0)
        errors.extend(builder.errors)
        if not isinstance(data, dict):
            errors.append(
                ManifestError(
                    file=file,
                    line=line,
                    field="",
                    message="not an object",
                    value=shown(data),
                    expected="a mapping with apiVersion, kind and metadata",
                )
            )
            continue
        documents.extend(_flatten(Document(file=file, line=line, data=data, lines=builder.lines)))
    if errors:
        raise InvalidManifests(errors)
    return documents


def load_file(path: Path) -> list[Document]:
    """Every object in the file at `path`. Raises `InvalidManifests`, also when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise InvalidManifests(
            [ManifestError(file=str(path), line=0, field="", message=f"cannot be read: {reason}")]
        ) from None
    return load_text(text, str(path))


def load_paths(paths: Iterable[Path]) -> list[Document]:
    """Every object in the files, and in the `*.yaml`, `*.yml` and `*.json` files of the folders, in name order.

    Raises `InvalidManifests` once, with the errors of all files.
    """
    documents: list[Document] = []
    errors: list[ManifestError] = []
    for path in _files(paths):
        try:
            documents.extend(load_file(path))
        except InvalidManifests as exc:
            errors.extend(exc.errors)
    if errors:
        raise InvalidManifests(errors)
    return documents


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix in {".yaml", ".yml", ".json"})
        else:
            yield path


def _too_deep(text: str, file: str) -> ManifestError | None:
    """Composing recurses, and libyaml's overflows the stack; so depth is judged on the flat stream of events first."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH + 1:
                return ManifestError(
                    file=file,
                    line=event.start_mark.line + 1 if event.start_mark else 0,
                    field="",
                    message="is nested too deep",
                    expected=f"at most {MAX_DEPTH} levels",
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _yaml_error(exc: yaml.YAMLError, file: str, text: str) -> ManifestError:
    mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
    problem = getattr(exc, "problem", None) or str(exc)
    context = getattr(exc, "context", None)
    line = mark.line + 1 if mark else 0
    if isinstance(exc, yaml.reader.ReaderError):
        position = exc.position if isinstance(exc.position, int) else 0
        problem, context, line = exc.reason, None, text.count("\n", 0, position) + 1
    return ManifestError(
        file=file,
        line=line,
        field="",
        message=f"not valid YAML: {problem}" + (f", {context}" if context else ""),
        expected="well-formed YAML",
    )


def _flatten(document: Document) -> Iterator[Document]:
    if document.kind != "List" or not isinstance(document.data.get("items"), list):
        yield document
        return
    for index, item in enumerate(document.data["items"]):
        prefix: FieldPath = ("items", index)
        yield Document(
            file=document.file,
            line=document.line_of(prefix),
            data=item if isinstance(item, dict) else {},
            lines={path[2:]: line for path, line in document.lines.items() if path[:2] == prefix},
        )


class _Builder:
    """One document's nodes to plain data, noting lines and duplicate keys on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[FieldPath, int] = {}
        self.errors: list[ManifestError] = []
        self._nodes = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def build(self, node: Node, path: FieldPath, depth: int) -> Any:
        self._nodes += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            if self._nodes == MAX_NODES + 1 or depth == MAX_DEPTH + 1:
                self._error(
                    node,
                    path,
                    "is nested or repeated without end",
                    f"at most {MAX_NODES} values, {MAX_DEPTH} levels",
                )
            return None
        if isinstance(node, MappingNode | SequenceNode) and not node.tag.endswith((",2002:map", ",2002:seq")):
            self._error(node, path, f"has the tag {shown(node.tag)}", "plain YAML data")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        if node.tag.endswith((":timestamp", ":binary")):
            # Kubernetes reads these as the strings they were written as.
            return node.value
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            self._error(node, path, f"cannot be read: {getattr(exc, 'problem', exc)}", "plain YAML data")
            return None

    def _mapping(self, node: MappingNode, path: FieldPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if key is None or key_node.tag.endswith(":merge"):
                self._error(key_node, path, "has a key that is not a string", "string keys")
                continue
            child = (*path, key)
            if key in result:
                self._error(key_node, child, f"is written twice (first on line {self.lines[child]})", "each key once")
                continue
            self.lines[child] = key_node.start_mark.line + 1
            result[key] = self.build(value_node, child, depth + 1)
        return result

    def _error(self, node: Node, path: FieldPath, message: str, expected: str) -> None:
        self.errors.append(
            ManifestError(
                file=self.file,
                line=node.start_mark.line + 1,
                field=show_path(path),
                message=message,
                expected=expected,
            )
        )
