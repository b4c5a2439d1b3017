"""`meshproof validate`: check manifests offline, every error at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from manifests import Document, InvalidManifests, ManifestError, load_paths, load_text
from manifests.kube import CORE_KINDS, Namespace, ObjectMeta
from manifests.metadata import kind_error
from meshproof.exits import Exit

STDIN = "-"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    valid: bool
    objects: int
    errors: tuple[ManifestError, ...]
    warnings: tuple[ManifestError, ...]


def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="YAML files or folders; - reads standard input.")
    ],
    strict_references: Annotated[
        bool,
        typer.Option(
            "--strict-references",
            help="The files are everything there is: a reference to what is not in them is an error, not a warning.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print errors and warnings as JSON.")] = False,
) -> int:
    """Check manifests without a world: every error at once, with file, line, field, value and what was expected."""
    report = judge(files, strict_references=strict_references)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    else:
        for warning in report.warnings:
            print(f"warning: {warning}")
        for error in report.errors:
            print(error)
        print(_summary(report), file=sys.stderr)
    return int(Exit.PASS if report.valid else Exit.FAIL)


def judge(files: Iterable[str], *, strict_references: bool = False) -> Report:
    """The objects of all files, by themselves and together. Raises `typer.BadParameter` for a missing path."""
    documents, errors = _load(files)
    warnings: list[ManifestError] = []
    core = [document for document in documents if (document.api_version, document.kind) in CORE_KINDS]
    errors += _core_errors(core, strict_references)
    mesh_errors, mesh_warnings = _mesh_findings(documents, core, strict_references)
    errors += mesh_errors
    warnings += mesh_warnings
    return Report(
        valid=not errors,
        objects=len(documents),
        errors=tuple(sorted(set(errors))),
        warnings=tuple(sorted(set(warnings))),
    )


def _load(files: Iterable[str]) -> tuple[list[Document], list[ManifestError]]:
    """Objects of the files that can be read, and the errors of those that cannot."""
    documents: list[Document] = []
    errors: list[ManifestError] = []
    for file in files:
        if file != STDIN and not Path(file).exists():
            raise typer.BadParameter(f"{file}: there is no such file or folder")
        for path in [file] if file == STDIN or not Path(file).is_dir() else _inside(Path(file)):
            try:
                documents += load_text(sys.stdin.read(), "<stdin>") if path == STDIN else load_paths([Path(path)])
            except InvalidManifests as exc:
                errors += exc.errors
    return documents, errors


def _inside(folder: Path) -> list[str]:
    found = sorted(str(p) for p in folder.iterdir() if p.suffix in {".yaml", ".yml", ".json"})
    if not found:
        raise typer.BadParameter(f"{folder}: holds no *.yaml, *.yml or *.json file")
    return found


def _core_errors(core: list[Document], strict: bool) -> list[ManifestError]:
    """What the substrate would refuse. Namespaces that are not among the files may be in the world already."""
    from harness.substrate.local.check import check

    names = set() if strict else {document.namespace for document in core if document.namespace}
    existing = {("Namespace", "", name): Namespace(metadata=ObjectMeta(name=name)) for name in names}
    try:
        check(core, existing)
    except InvalidManifests as exc:
        return list(exc.errors)
    return []


def _mesh_findings(
    documents: list[Document], core: list[Document], strict: bool
) -> tuple[list[ManifestError], list[ManifestError]]:
    from mesh.config.decode import is_mesh_kind
    from mesh.config.types import MESH_KINDS
    from mesh.config.validate import validate as validate_mesh

    known = [*CORE_KINDS, *MESH_KINDS]
    unknown = [kind_error(d, known) for d in documents if d not in core and not is_mesh_kind(d)]
    found = validate_mesh(
        (document for document in documents if is_mesh_kind(document)),
        hosts=_services(core),
        strict=None if strict else (),
        complete=strict,
    )
    return [*unknown, *found.errors], list(found.warnings)


def _services(core: list[Document]) -> dict[str, frozenset[int]]:
    """Host name to ports of the Services among the files, as far as they are readable."""
    from mesh.registry.build import service_of
    from mesh.registry.objects import ServiceObject

    hosts: dict[str, frozenset[int]] = {}
    for document in core:
        if document.kind != "Service":
            continue
        try:
            service = service_of(msgspec.convert(document.data, ServiceObject))
        except msgspec.ValidationError:
            continue  # Its errors are reported as those of a core object.
        hosts[service.hostname] = frozenset(port.number for port in service.ports)
    return hosts


def _summary(report: Report) -> str:
    def count(number: int, noun: str) -> str:
        return f"{number} {noun}" + ("" if number == 1 else "s")

    warnings = f", {count(len(report.warnings), 'warning')}" if report.warnings else ""
    if report.valid:
        return f"{count(report.objects, 'object')}: valid{warnings}"
    return f"{count(report.objects, 'object')}: {count(len(report.errors), 'error')}{warnings}"
