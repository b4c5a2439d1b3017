"""The experiment file: a strict subset of the Chaos Toolkit's format, so that its own tools read it too.

Everything that format leaves open is closed here: providers are Python functions of two modules and nothing else (a
file could otherwise run anything), their arguments are checked against the functions' signatures, rollbacks
always run, and what only meshproof knows (blast radius, abort conditions, recovery, load) stands in `extensions`. Every
mistake is reported at once, with file, line and field.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from chaos.targets import parse_edge, parse_workload
from manifests import Document, InvalidManifests, ManifestError, load_file
from manifests.decode import decode_errors, read_scalar
from manifests.load import FieldPath, show_path
from manifests.scalars import Duration

EXTENSION = "meshproof"
ACTIONS = "chaos.actions"
PROBES = "chaos.probes"

Positive = Annotated[float, msgspec.Meta(gt=0)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    pass


class Range(_Strict, frozen=True, kw_only=True):
    type: Literal["range"]
    range: list[float]
    """Lowest and highest value that is fine, both included."""


class Pauses(_Strict, frozen=True, kw_only=True):
    """Seconds; the load runs and the steady state is watched meanwhile."""

    before: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0
    after: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0


class Provider(_Strict, frozen=True, kw_only=True):
    type: Literal["python"]
    module: Literal["chaos.actions", "chaos.probes"]
    func: str
    arguments: dict[str, Any] = {}

    def function(self) -> Callable[..., Any]:
        """The function meant; `validate` has made sure that it exists."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.func)
        return found

    def call(self) -> Any:
        """Call it, with every argument converted to what the signature asks for."""
        function = self.function()
        hints = typing.get_type_hints(function)
        return function(**{name: msgspec.convert(value, hints[name]) for name, value in self.arguments.items()})


class Probe(_Strict, frozen=True, kw_only=True):
    """A measurement of the steady state and what it may be."""

    type: Literal["probe"]
    name: Annotated[str, msgspec.Meta(min_length=1)]
    provider: Provider
    tolerance: bool | int | str | Range

    def holds(self, value: object) -> bool:
        """Whether the value is tolerated. No value (nothing was measured) is not."""
        if isinstance(self.tolerance, Range):
            low, high = self.tolerance.range
            return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return type(value) is type(self.tolerance) and value == self.tolerance

    @property
    def expectation(self) -> str:
        if isinstance(self.tolerance, Range):
            return f"{self.tolerance.range[0]:g} to {self.tolerance.range[1]:g}"
        return repr(self.tolerance)


class Activity(_Strict, frozen=True, kw_only=True):
    """One step of the method or the rollbacks. A probe here is noted, not judged."""

    type: Literal["action", "probe"]
    name: Annotated[str, msgspec.Meta(min_length=1)]
    provider: Provider
    pauses: Pauses = Pauses()


class Hypothesis(_Strict, frozen=True, kw_only=True):
    title: Annotated[str, msgspec.Meta(min_length=1)]
    probes: list[Probe]


class RollbackRuntime(_Strict, frozen=True, kw_only=True):
    strategy: Literal["always"]
    """meshproof knows no other: a fault is undone however the experiment ends."""


class HypothesisRuntime(_Strict, frozen=True, kw_only=True):
    strategy: Literal["continuously"]
    """Judged every second from the injection until recovery."""


class Runtime(_Strict, frozen=True, kw_only=True):
    rollbacks: RollbackRuntime
    hypothesis: HypothesisRuntime


class BlastRadius(_Strict, frozen=True, kw_only=True):
    """All that may be touched, and for how long."""

    edges: list[str] = []
    workloads: list[str] = []
    max_duration: Duration


class Abort(_Strict, frozen=True, kw_only=True):
    """Stop and heal when a probe of the hypothesis is past a bound for some time."""

    probe: str
    below: float | None = None
    above: float | None = None
    for_: Duration = msgspec.field(name="for")

    def triggered(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        return (self.below is not None and value < self.below) or (self.above is not None and value > self.above)


class Recovery(_Strict, frozen=True, kw_only=True):
    within: Duration
    """From the heal until the steady state holds and latency is near its baseline again."""


class Load(_Strict, frozen=True, kw_only=True):
    """Open-loop traffic that the steady state is measured on."""

    rate: Positive
    """Arrivals per second."""
    users: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    seed: Annotated[int, msgspec.Meta(ge=0)] = 1
    url: str = "http://productpage:9080/productpage"
    """The host is a Service; without a dot, one of the experiment's namespace."""
    client: str = "client"
    """Workload from whose pod the requests are made."""


class Settings(_Strict, frozen=True, kw_only=True):
    """What stands in the `meshproof` extension."""

    name: Literal["meshproof"]
    namespace: str = "bookinfo"
    """Of names that have none."""
    blast_radius: BlastRadius
    baseline: Duration = Duration(6.0)
    """How long the undisturbed system is watched first."""
    visible: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Milliseconds by which p99 must rise for the fault to have reached the user at all; 0 asks for nothing. A fault
    that bites the edge and that no request meets proves nothing."""
    abort: list[Abort] = []
    recovery: Recovery
    load: Load


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A valid experiment."""

    file: str
    title: str
    description: str
    tags: list[str]
    hypothesis: Hypothesis
    method: list[Activity]
    rollbacks: list[Activity]
    settings: Settings

    @property
    def observed(self) -> float:
        """Seconds of pauses in the method: how long the fault is watched."""
        return sum(step.pauses.before + step.pauses.after for step in self.method)


class _File(_Strict, frozen=True, kw_only=True):
    version: str = "1.0.0"
    title: Annotated[str, msgspec.Meta(min_length=1)]
    description: Annotated[str, msgspec.Meta(min_length=1)]
    tags: list[str] = []
    contributions: dict[str, str] = {}
    runtime: Runtime
    steady_state_hypothesis: Hypothesis
    method: list[Activity]
    rollbacks: list[Activity] = []
    extensions: list[Any]


def shipped() -> list[Path]:
    """The experiments that come with meshproof."""
    return sorted((Path(__file__).parent / "experiments").glob("*.yaml"))


def load_experiment(path: Path) -> Experiment:
    """The experiment in the file. Raises `InvalidManifests` with every mistake."""
    documents = load_file(path)
    if len(documents) != 1:
        message = f"holds {len(documents)} documents"
        raise InvalidManifests([ManifestError(file=str(path), line=0, field="", message=message, expected="one")])
    document = documents[0]
    errors = decode_errors(document, _File)
    position, extension = _extension(document, errors)
    if extension is not None:
        prefix = f"extensions[{position}]"
        for error in decode_errors(extension, Settings):
            errors.append(msgspec.structs.replace(error, field=f"{prefix}.{error.field}" if error.field else prefix))
    if errors:
        raise InvalidManifests(errors)
    assert extension is not None
    file = _convert(document, _File)
    settings = _convert(extension, Settings)
    errors = [*_judge(document, file), *_judge_settings(document, file, settings, ("extensions", position))]
    if errors:
        raise InvalidManifests(errors)
    return Experiment(
        file=str(path),
        title=file.title,
        description=file.description,
        tags=file.tags,
        hypothesis=file.steady_state_hypothesis,
        method=file.method,
        rollbacks=file.rollbacks,
        settings=settings,
    )


_T = TypeVar("_T")


def _convert(document: Document, type_: type[_T]) -> _T:
    try:
        return msgspec.convert(document.data, type_, dec_hook=read_scalar)
    except msgspec.ValidationError as exc:  # a rule that the walk beside the type does not know
        raise InvalidManifests([document.error((), str(exc))]) from None


def _extension(document: Document, errors: list[ManifestError]) -> tuple[int, Document | None]:
    """The `meshproof` entry of `extensions` with its place, as a document of its own; other vendors' are not ours."""
    entries = document.data.get("extensions")
    if not isinstance(entries, list):
        return 0, None  # reported already
    ours = [i for i, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("name") == EXTENSION]
    if len(ours) != 1:
        message = f"has {len(ours)} entries named {EXTENSION}"
        errors.append(document.error(("extensions",), message, expected="one, with blast-radius, recovery and load"))
        return 0, None
    prefix: FieldPath = ("extensions", ours[0])
    return ours[0], Document(
        file=document.file,
        line=document.line_of(prefix),
        data=entries[ours[0]],
        lines={path[2:]: line for path, line in document.lines.items() if path[:2] == prefix},
    )


# === what types cannot say


def _judge(document: Document, file: _File) -> Iterator[ManifestError]:
    probes = file.steady_state_hypothesis.probes
    place: FieldPath = ("steady-state-hypothesis", "probes")
    if not probes:
        yield document.error(place, "is empty", expected="at least one probe: what else would be held?")
    for i, probe in enumerate(probes):
        yield from _judge_provider(document, (*place, i), "probe", probe.provider)
        if isinstance(probe.tolerance, Range) and (
            len(probe.tolerance.range) != 2 or probe.tolerance.range[0] > probe.tolerance.range[1]
        ):
            yield document.error((*place, i, "tolerance", "range"), "is no range", expected="[lowest, highest]")
    if not any(step.type == "action" for step in file.method):
        yield document.error(("method",), "has no action", expected="at least one fault")
    for part, steps in (("method", file.method), ("rollbacks", file.rollbacks)):
        for i, step in enumerate(steps):
            yield from _judge_provider(document, (part, i), step.type, step.provider)
    seen: dict[str, str] = {}
    for path, name in (
        *(((*place, i, "name"), probe.name) for i, probe in enumerate(probes)),
        *((("method", i, "name"), step.name) for i, step in enumerate(file.method)),
    ):
        if name in seen:
            yield document.error(path, f"is also the name of {seen[name]}", value=name, expected="each name once")
        seen.setdefault(name, show_path(path[:-1]))


def _judge_provider(document: Document, path: FieldPath, type_: str, provider: Provider) -> Iterator[ManifestError]:
    """The function exists, is of the right kind, and takes the arguments."""
    place = (*path, "provider")
    wanted = ACTIONS if type_ == "action" else PROBES
    if provider.module != wanted:
        yield document.error((*place, "module"), f"is not where {type_}s are", value=provider.module, expected=wanted)
        return
    module = importlib.import_module(provider.module)
    known: tuple[str, ...] = tuple(module.__all__)
    if provider.func not in known:
        yield document.error((*place, "func"), "is unknown", value=provider.func, expected="one of " + ", ".join(known))
        return
    function = getattr(module, provider.func)
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    for name, value in provider.arguments.items():
        if name not in parameters:
            expected = "one of " + ", ".join(parameters) if parameters else "no arguments"
            yield document.error((*place, "arguments", name), "is an unknown argument", value=value, expected=expected)
            continue
        try:
            msgspec.convert(value, hints[name])
        except msgspec.ValidationError as exc:
            yield document.error((*place, "arguments", name), str(exc), value=value)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in provider.arguments:
            yield document.error((*place, "arguments", name), "is missing", expected=f"an argument of {provider.func}")


def _judge_settings(document: Document, file: _File, settings: Settings, place: FieldPath) -> Iterator[ManifestError]:
    radius = (*place, "blast-radius")
    for i, text in enumerate(settings.blast_radius.edges):
        try:
            parse_edge(text, settings.namespace)
        except ValueError as exc:
            yield document.error((*radius, "edges", i), str(exc))
    for i, text in enumerate(settings.blast_radius.workloads):
        try:
            parse_workload(text, settings.namespace)
        except ValueError as exc:
            yield document.error((*radius, "workloads", i), str(exc))
    yield from _judge_blast(document, file, settings)
    observed = sum(step.pauses.before + step.pauses.after for step in file.method)
    if observed > settings.blast_radius.max_duration:
        yield document.error(
            (*radius, "max-duration"),
            f"is shorter than the method's pauses, {observed:g} s",
            value=settings.blast_radius.max_duration,
        )
    names = [probe.name for probe in file.steady_state_hypothesis.probes]
    for i, abort in enumerate(settings.abort):
        where = (*place, "abort", i)
        if abort.probe not in names:
            expected = "a probe of the hypothesis: " + ", ".join(names)
            yield document.error((*where, "probe"), "is unknown", value=abort.probe, expected=expected)
        if (abort.below is None) == (abort.above is None):
            yield document.error(where, "needs one bound", expected="below or above")


def _judge_blast(document: Document, file: _File, settings: Settings) -> Iterator[ManifestError]:
    """Whatever an action names must have been declared."""
    radius = settings.blast_radius
    parsers: dict[str, tuple[Callable[[str, str], object], list[str], str]] = {
        "edge": (parse_edge, radius.edges, "edges"),
        "workload": (parse_workload, radius.workloads, "workloads"),
        "deployment": (parse_workload, radius.workloads, "workloads"),
    }
    for i, step in enumerate(file.method):
        for name, value in step.provider.arguments.items():
            if step.type != "action" or name not in parsers or not isinstance(value, str):
                continue
            parse, declared, field = parsers[name]
            path: FieldPath = ("method", i, "provider", "arguments", name)
            try:
                wanted = str(parse(value, settings.namespace))
            except ValueError as exc:
                yield document.error(path, str(exc))
                continue
            if wanted not in normal(declared, parse, settings.namespace):
                expected = f"what blast-radius.{field} declares: {', '.join(declared) or 'nothing'}"
                yield document.error(path, "is outside the blast radius", value=value, expected=expected)


def normal(names: list[str], parse: Callable[[str, str], object], namespace: str) -> set[str]:
    """Names as written to their full form; those that cannot be read are left out."""
    found: set[str] = set()
    for name in names:
        with contextlib.suppress(ValueError):
            found.add(str(parse(name, namespace)))
    return found
