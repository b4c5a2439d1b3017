"""A `Document` to a typed object, with every mistake reported at once.

msgspec stops at its first error; a person fixing a manifest wants them all. `decode` therefore walks the
document beside the type and collects, and only converts when nothing was found. Nothing is converted silently: text is
not a number, a number is not text, and a `null` is only accepted where the field may be absent.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from manifests.errors import InvalidManifests, ManifestError
from manifests.kube import ObjectMeta
from manifests.load import Document, FieldPath
from manifests.metadata import guess_for, metadata_errors
from manifests.scalars import Scalar

T = TypeVar("T")

MAX_ERRORS = 200
"""Errors collected per document; whoever has more than these has one mistake, repeated."""

_TEXT_MAPS = frozenset({"labels", "annotations", "matchLabels", "selector", "data", "sourceLabels", "nodeSelector"})
"""Maps whose unquoted numbers and booleans are the classic mistake."""

Unsupported = Mapping[str, str]
"""Field pattern to a note that helps. `[]` is any list item, `{}` any key of a map, `=VALUE` at the end that value."""


def decode(document: Document, type_: type[T], *, unsupported: Unsupported | None = None) -> T:
    """`document` as a `type_`. Raises `InvalidManifests` with every error: unknown fields, wrong types, missing
    required fields, values outside their enumeration or range, fields known but listed as `unsupported`."""
    errors = decode_errors(document, type_, unsupported=unsupported)
    if errors:
        raise InvalidManifests(errors)
    try:
        return msgspec.convert(document.data, type_, dec_hook=read_scalar, str_keys=True)
    except msgspec.ValidationError as exc:  # A rule of msgspec that the walk does not know: still an error of the user.
        raise InvalidManifests([document.error((), str(exc))]) from None


def decode_errors(
    document: Document, type_: type[Any], *, unsupported: Unsupported | None = None
) -> list[ManifestError]:
    """What `decode` would raise, as a list."""
    walk = _Walk(document, unsupported or {})
    walk.visit(document.data, _type_info(type_), (), "")
    return walk.errors


def decode_partly(
    document: Document, type_: type[T], *, unsupported: Unsupported | None = None
) -> tuple[T | None, list[ManifestError]]:
    """As much of the object as can be made without its wrong fields, and the errors: so that what is right can be
    judged further in the same pass. None when the wrong cannot be left out (a list item, a required field)."""
    walk = _Walk(document, unsupported or {})
    walk.visit(document.data, _type_info(type_), (), "")
    data = document.data
    if walk.errors:
        if len(walk.errors) >= MAX_ERRORS:
            return None, walk.errors
        data = copy.deepcopy(data)
        if not all(_without(data, path) for path in walk.wrong):
            return None, walk.errors
    try:
        return msgspec.convert(data, type_, dec_hook=read_scalar, str_keys=True), walk.errors
    except msgspec.ValidationError as exc:
        return None, walk.errors or [document.error((), str(exc))]


def _without(data: Any, path: FieldPath) -> bool:
    """Take the field out of `data`; whether that was possible. Items of lists stay, or the others' numbers change."""
    for part in path[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return True  # It went with something around it.
    if not path or isinstance(path[-1], int) or not isinstance(data, dict):
        return False
    data.pop(path[-1], None)
    return True


def read_scalar(type_: type, value: object) -> object:
    """msgspec's `dec_hook` for the types of `manifests.scalars`."""
    if issubclass(type_, Scalar):
        return type_.parse(value)
    raise NotImplementedError(f"no way to read a {type_.__name__}")


_TYPES: dict[type[Any], inspect.Type] = {}


def _type_info(type_: type[Any]) -> inspect.Type:
    """`inspect.type_info`, remembered: it takes far longer than a walk. There are as many as types in the program."""
    if type_ not in _TYPES:
        _TYPES[type_] = inspect.type_info(type_)
    return _TYPES[type_]


class _Walk:
    """One pass over a document beside its type."""

    def __init__(self, document: Document, unsupported: Unsupported) -> None:
        self.document = document
        self.unsupported = unsupported
        self.errors: list[ManifestError] = []
        self.wrong: list[FieldPath] = []
        """Where the errors are."""

    def visit(self, value: object, type_: inspect.Type, path: FieldPath, pattern: str) -> None:
        if len(self.errors) >= MAX_ERRORS:
            return
        if self._refused(value, path, pattern):
            return
        match type_:
            case inspect.StructType():
                self._struct(value, type_, path, pattern)
            case inspect.UnionType():
                self._union(value, type_, path, pattern)
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                self._list(value, item, path, pattern)
            case inspect.DictType():
                self._dict(value, type_, path, pattern)
            case inspect.CustomType(cls=cls) if issubclass(cls, Scalar):
                try:
                    cls.parse(value)
                except ValueError as exc:
                    self._error(path, str(exc), value, cls.expected)
            case inspect.AnyType() | inspect.RawType():
                pass
            case _:
                problem = scalar_problem(value, type_)
                if problem:
                    message, expected = problem
                    self._error(path, message + _hint(path, value, type_), value, expected)

    def _refused(self, value: object, path: FieldPath, pattern: str) -> bool:
        note = self.unsupported.get(pattern)
        if note is None and isinstance(value, str):
            note = self.unsupported.get(f"{pattern}={value}")
        if note is None:
            return False
        self._error(path, "is not supported by this mesh yet" + (f": {note}" if note else ""), value)
        return True

    def _struct(self, value: object, type_: inspect.StructType, path: FieldPath, pattern: str) -> None:
        if not isinstance(value, dict):
            self._error(path, _wrong(value), value, "a mapping")
            return
        fields = {field.encode_name: field for field in type_.fields}
        guessed: set[str] = set()
        for name, item in value.items():
            child: FieldPath = (*path, name)
            child_pattern = f"{pattern}.{name}" if pattern else str(name)
            field = fields.get(name)
            if field is not None:
                self.visit(item, field.type, child, child_pattern)
            elif type_.forbid_unknown_fields and not self._refused(item, child, child_pattern):
                guessed.add(self._unknown(child, item, fields))
        for name, field in fields.items():
            if field.required and name not in value and name not in guessed:
                self._error((*path, name), "is missing", expected=describe(field.type))
        if type_.cls is ObjectMeta and len(self.errors) < MAX_ERRORS:
            self.errors.extend(metadata_errors(self.document, path, named=path == ("metadata",)))

    def _unknown(self, path: FieldPath, value: object, fields: Iterable[str]) -> str:
        """Reports the field; returns the name that was probably meant, so that it is not reported missing as well."""
        known = sorted(fields)
        guess = guess_for(str(path[-1]), known)
        message = "is an unknown field" + (f'; did you mean "{guess}"?' if guess else "")
        expected = "" if guess else ("one of " + ", ".join(known) if known else "nothing here")
        self._error(path, message, value, expected)
        return guess

    def _union(self, value: object, type_: inspect.UnionType, path: FieldPath, pattern: str) -> None:
        if value is None and any(isinstance(t, inspect.NoneType) for t in type_.types):
            return
        options = [t for t in type_.types if not isinstance(t, inspect.NoneType)]
        if len(options) == 1:
            self.visit(value, options[0], path, pattern)
        elif all(scalar_problem(value, option) for option in options):
            self._error(path, _wrong(value), value, " or ".join(describe(option) for option in options))

    def _list(self, value: object, item: inspect.Type, path: FieldPath, pattern: str) -> None:
        if not isinstance(value, list):
            self._error(path, _wrong(value), value, f"a list of {_plural(item)}")
            return
        for index, element in enumerate(value):
            self.visit(element, item, (*path, index), f"{pattern}[]")

    def _dict(self, value: object, type_: inspect.DictType, path: FieldPath, pattern: str) -> None:
        if not isinstance(value, dict):
            self._error(path, _wrong(value), value, "a mapping")
            return
        for key, element in value.items():
            child: FieldPath = (*path, key)
            if isinstance(type_.key_type, inspect.IntType) and not _is_int_key(key):
                self._error(child, "is not a number", key, describe(type_.key_type))
            self.visit(element, type_.value_type, child, f"{pattern}{{}}")

    def _error(self, path: FieldPath, message: str, value: object = "", expected: str = "") -> None:
        self.wrong.append(path)
        shown = "" if isinstance(value, dict | list) else value
        self.errors.append(self.document.error(path, message, value=shown, expected=expected))


def scalar_problem(value: object, type_: inspect.Type) -> tuple[str, str] | None:
    """What is wrong with a single value, and what was expected; None when it fits."""
    match type_:
        case inspect.StrType():
            ok: bool = isinstance(value, str) and _length_fits(len(value), type_)
            message = "has the wrong length" if isinstance(value, str) else _wrong(value)
        case inspect.BoolType():
            ok, message = isinstance(value, bool), _wrong(value)
        case inspect.IntType():
            integral = isinstance(value, int) and not isinstance(value, bool)
            ok = isinstance(value, int) and integral and _in_range(value, type_)
            message = "is out of range" if integral else _wrong(value)
        case inspect.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            ok = isinstance(value, int | float) and number and math.isfinite(value) and _in_range(value, type_)
            message = "is out of range" if number else _wrong(value)
        case inspect.LiteralType():
            ok = any(value == allowed and type(value) is type(allowed) for allowed in type_.values)
            guess = guess_for(value, [v for v in type_.values if isinstance(v, str)]) if isinstance(value, str) else ""
            message = "is not one of the allowed values" + (f'; did you mean "{guess}"?' if guess else "")
        case inspect.NoneType():
            ok, message = value is None, _wrong(value)
        case _:
            ok, message = True, ""
    return None if ok else (message, describe(type_))


def describe(type_: inspect.Type) -> str:
    """A type in words a person who writes YAML uses."""
    match type_:
        case inspect.StrType():
            return "text" + _length_range(type_)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _range(type_)
        case inspect.FloatType():
            return "a number" + _range(type_)
        case inspect.LiteralType():
            values = [v for v in type_.values if v not in ("", 0)]
            return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
        case inspect.CustomType(cls=cls) if issubclass(cls, Scalar):
            return cls.expected
        case inspect.ListType() | inspect.VarTupleType():
            return f"a list of {_plural(type_.item_type)}"
        case inspect.UnionType():
            return " or ".join(describe(t) for t in type_.types if not isinstance(t, inspect.NoneType))
        case _:
            return "a mapping"


def _plural(item: inspect.Type) -> str:
    match item:
        case inspect.StrType():
            return "texts"
        case inspect.IntType() | inspect.FloatType():
            return "numbers"
        case inspect.StructType() | inspect.DictType():
            return "mappings"
        case _:
            return "values"


def _wrong(value: object) -> str:
    """What `value` is, when it is of the wrong type."""
    match value:
        case None:
            return "is empty (null)"
        case bool():
            return "is true/false (YAML also reads yes, no, on and off so)"
        case int() | float():
            return "is a number"
        case str():
            return "is text"
        case list():
            return "is a list"
        case dict():
            return "is a mapping"
        case _:
            return "is of the wrong type"


def _hint(path: FieldPath, value: object, type_: inspect.Type) -> str:
    """The fix of the usual quoting mistakes."""
    if isinstance(type_, inspect.StrType) and isinstance(value, bool | int | float):
        where = path[-2] if len(path) > 1 and path[-2] in _TEXT_MAPS else ""
        return f": every value of {where} is text, put it in quotes" if where else ": put it in quotes"
    numeric = isinstance(type_, inspect.IntType | inspect.FloatType)
    if numeric and isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit():
        return ": remove the quotes"
    if isinstance(type_, inspect.BoolType) and isinstance(value, str) and value.lower() in ("true", "false"):
        return ": remove the quotes"
    return ""


def _is_int_key(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 19


def _in_range(value: float, type_: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (type_.ge is None or value >= type_.ge)
        and (type_.gt is None or value > type_.gt)
        and (type_.le is None or value <= type_.le)
        and (type_.lt is None or value < type_.lt)
    )


def _length_fits(length: int, type_: inspect.StrType) -> bool:
    return (type_.min_length or 0) <= length and (type_.max_length is None or length <= type_.max_length)


def _range(type_: inspect.IntType | inspect.FloatType) -> str:
    if type_.ge is not None and type_.le is not None:
        return f" from {type_.ge:g} to {type_.le:g}" if abs(type_.le) < 1e6 else f" from {type_.ge} to {type_.le}"
    for bound, words in ((type_.ge, "of at least"), (type_.gt, "above"), (type_.le, "of at most"), (type_.lt, "below")):
        if bound is not None:
            return f" {words} {bound:g}"
    return ""


def _length_range(type_: inspect.StrType) -> str:
    if type_.min_length is not None and type_.max_length is not None:
        return f" of {type_.min_length} to {type_.max_length} characters"
    if type_.max_length is not None:
        return f" of at most {type_.max_length} characters"
    return f" of at least {type_.min_length} characters" if type_.min_length else ""
