"""`meshproof apply FILE...`: change a running world or its mesh, and report when every proxy has it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from manifests import Document, InvalidManifests, ManifestError, load_paths
from manifests.decode import decode
from manifests.kube import CORE_KINDS
from meshproof.exits import Exit

if TYPE_CHECKING:
    from harness.meshes.api import Mesh, Receipt
    from harness.substrate.api import World


def apply(
    files: Annotated[list[Path], typer.Argument(help="Manifest files or folders.", metavar="FILE...")],
    world: Annotated[
        str, typer.Option(metavar="NAME", help="The world to change; may be left out if only one runs.")
    ] = "",
    mesh: Annotated[str, typer.Option(metavar="NAME", help="The mesh that is installed there.")] = "envoy",
    delete: Annotated[bool, typer.Option("--delete", "-d", help="Remove the objects instead.")] = False,
    deadline: Annotated[float, typer.Option(help="Seconds to wait for the proxies.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as JSON.")] = False,
) -> int:
    """Change a running world (Kubernetes kinds) or its mesh (Istio and Gateway API kinds), and report when every
    proxy has ACKed the change."""
    from harness import stage
    from harness.meshes.api import MeshError

    missing = [path for path in files if not path.exists()]
    if missing:
        return _usage(f"no such file: {', '.join(map(str, missing))}")
    core, rest = split(load_paths(files))
    try:
        name = world or only_world()
    except LookupError as exc:
        return _usage(str(exc))
    running, installed = stage.attach(name, mesh)
    started = time.monotonic()
    try:
        receipt = (_delete if delete else _apply)(running, installed, core, rest, deadline)
    except MeshError as exc:
        sys.stderr.write(f"{exc}\n")
        return int(Exit.FAIL)
    seconds = time.monotonic() - started
    if as_json:
        body = {"objects": [name_of(document) for document in [*core, *rest]], "seconds": round(seconds, 3)}
        shown = body | ({} if receipt is None else {"receipt": msgspec.to_builtins(receipt)})
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n")
    else:
        for document in [*core, *rest]:
            print(f"{name_of(document)} {'deleted' if delete else 'applied'}")
        print(_sentence(receipt, len(core), seconds))
    return int(Exit.PASS if receipt is None or receipt.complete else Exit.FAIL)


def split(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """Kubernetes' own kinds, and the mesh's. Raises `InvalidManifests` with every mistake in the former."""
    core = [d for d in documents if (d.api_version, d.kind) in CORE_KINDS]
    errors: list[ManifestError] = []
    for document in core:
        try:
            decode(document, CORE_KINDS[document.api_version, document.kind])
        except InvalidManifests as exc:
            errors.extend(exc.errors)
    if errors:
        raise InvalidManifests(errors)
    return core, [d for d in documents if (d.api_version, d.kind) not in CORE_KINDS]


def only_world() -> str:
    """The world that is meant when none is named. Raises `LookupError` when that is not clear."""
    from harness.substrate.local import LocalWorld

    names = LocalWorld.list()
    if len(names) == 1:
        return names[0]
    if not names:
        raise LookupError("no world is running; make one: meshproof up")
    raise LookupError(f"several worlds are running; name one with --world: {', '.join(sorted(names))}")


def _usage(message: str) -> int:
    sys.stderr.write(f"meshproof: {message}\n")
    return int(Exit.USAGE)


def name_of(document: Document) -> str:
    where = f"{document.namespace}/" if document.namespace else ""
    return f"{document.kind.lower()}/{where}{document.name}"


def _apply(world: World, mesh: Mesh, core: list[Document], rest: list[Document], deadline: float) -> Receipt | None:
    # A route may name a Service of the same file, so such a file cannot be judged before its Services are there.
    if rest and not any(document.kind == "Service" for document in core):
        mesh.validate(rest)
    if core:
        world.apply(core)
    return mesh.apply(rest, deadline) if rest else None


def _delete(world: World, mesh: Mesh, core: list[Document], rest: list[Document], deadline: float) -> Receipt | None:
    receipt = mesh.delete(rest, deadline) if rest else None
    for document in reversed(core):
        world.delete(document.kind, document.namespace, document.name)
    return receipt


def _sentence(receipt: Receipt | None, core: int, seconds: float) -> str:
    if receipt is None:
        return f"{core} object{'s' if core != 1 else ''} in {seconds * 1000:.0f} ms"
    if receipt.nacked:
        refused = "; ".join(f"{proxy}: {error}" for proxy, error in sorted(receipt.nacked.items()))
        return f"refused by {len(receipt.nacked)} of {receipt.proxies} proxies: {refused}"
    if receipt.proxies == 0:
        return "in force; no proxy is connected yet"
    return f"every proxy has it: {receipt.acked} of {receipt.proxies} ACKed in {receipt.elapsed_ms:.0f} ms"
