"""The suite's machinery as a pytest plugin: selection, the world, mutants, evidence, results.

Registered by `meshproof.pytest_plugin` as soon as a check is collected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from harness import stage
from harness.conformance import checks, fleet
from harness.conformance.lab import Lab, isolated
from harness.conformance.mutants import MUTANTS
from harness.conformance.mutants.operator import OPERATOR_MUTANTS
from harness.meshes.api import Mesh, MeshError
from harness.substrate.api import World
from reports.model import CheckResult, ConformanceResult, Evidence

RESULTS = "conformance.json"

MUTANT_BUDGET = 1.5
"""Seconds a broken mesh is given to converge; it will not, and a whole one needs far less."""

VERDICTS = (AssertionError, pytest.fail.Exception, MeshError)
"""What a check ends in when it has something against the mesh. Anything else is an error of the check: it proves
nothing, and a broken mesh that only brings the check down has not been told from a whole one."""

_LAB = pytest.StashKey[Lab]()


class Suite:
    """One run of the checks against one mesh."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.profile = str(config.getoption("--mesh-profile"))
        self.mutant = str(config.getoption("--mutant"))
        self.results: list[CheckResult] = []
        self.convergence_ms: list[float] = []
        self._evidence = str(config.getoption("--evidence"))
        self._stack = ExitStack()
        self._bench: tuple[World, Mesh, fleet.Fleet] | None = None
        if self.profile not in checks.PROFILES:
            raise pytest.UsageError(f"--mesh-profile {self.profile!r}: expected one of {', '.join(checks.PROFILES)}")
        if self.mutant not in {"", "all", *MUTANTS, *OPERATOR_MUTANTS}:
            known = ", ".join(sorted([*MUTANTS, *OPERATOR_MUTANTS]))
            raise pytest.UsageError(f"--mutant {self.mutant!r}: unknown; there are {known}")

    def select(self, items: list[pytest.Item]) -> None:
        """Keep the checks of the profile (and, with a mutant, those it must break: the others have no parameter)."""
        kept: list[pytest.Item] = []
        dropped: list[pytest.Item] = []
        for item in items:
            spec = checks.of(item)
            wanted = spec is None or (
                (self.profile == "extended" or spec.profile == "core") and self.mutant in {"", "all", *spec.mutants}
            )
            (kept if wanted else dropped).append(item)
        if dropped:
            self.config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    # --- the bench

    def bench(self) -> tuple[World, Mesh, fleet.Fleet]:
        """World, mesh and fleet: attached to, or stood up once for the session."""
        if self._bench is None:
            name, mesh_name = str(self.config.getoption("--world")), str(self.config.getoption("--mesh"))
            if name:
                world, mesh = stage.attach(name, mesh_name)
            else:
                world, mesh = self._stack.enter_context(stage.opened(mesh_name))
            if world.pods(fleet.NAMESPACE):
                self._bench = world, mesh, fleet.Fleet(world)
            else:
                self._bench = world, mesh, fleet.deploy(world)
                mesh.settled(20.0)
        return self._bench

    def lab(self, item: pytest.Item, mutant: str) -> Iterator[Lab]:
        """The `lab` fixture's body: the mesh broken by `mutant`, if any, for just this check."""
        lab = Lab(*self.bench())
        item.stash[_LAB] = lab
        with ExitStack() as stack:
            if mutant:
                lab.budget = MUTANT_BUDGET
            if mutant in MUTANTS:
                stack.enter_context(lab.mesh.mutant(mutant))
            stack.enter_context(isolated(lab))
            if mutant in OPERATOR_MUTANTS:
                OPERATOR_MUTANTS[mutant](lab)
            yield lab

    # --- results

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:  # the yielded value is the report
        report: pytest.TestReport = yield  # type: ignore[assignment]
        spec = checks.of(item)
        if spec is not None:
            self._record(item, spec, report, call.excinfo.type if call.excinfo else None)
        return report  # type: ignore[return-value]

    def _record(
        self, item: pytest.Item, spec: checks.Check, report: pytest.TestReport, raised: type[BaseException] | None
    ) -> None:
        if report.when == "call":
            crashed = report.outcome == "failed" and not (raised and issubclass(raised, VERDICTS))
            self._add(item, spec, report, "error" if crashed else report.outcome)
        elif report.outcome == "failed":
            # What could not be prepared, or was left behind, is an error of the check, not a verdict on the mesh.
            existing = next((r for r in self.results if _same(r, item, spec)), None)
            if existing is None:
                self._add(item, spec, report, "error")
            elif existing.outcome == "passed":
                existing.outcome, existing.message = "error", _message(report)
        elif report.outcome == "skipped":
            self._add(item, spec, report, "skipped")
        if report.when == "teardown":
            lab = item.stash.get(_LAB, None)
            for result in self.results:
                if lab is not None and _same(result, item, spec):
                    result.evidence.extend(lab.evidence)
            if lab is not None:
                self.convergence_ms.extend(lab.convergence_ms)

    def _add(self, item: pytest.Item, spec: checks.Check, report: pytest.TestReport, outcome: str) -> None:
        self.results.append(
            CheckResult(
                id=spec.id,
                title=spec.title,
                area=spec.area,
                feature=spec.feature,
                profile=spec.profile,
                outcome=outcome,
                duration_s=round(report.duration, 3),
                message=_message(report) if outcome != "passed" else "",
                evidence=[Evidence(title="test", text=item.nodeid)],
            )
        )

    def result(self) -> ConformanceResult:
        return ConformanceResult(
            profile=self.profile,
            checks=self.results,
            supported_features=sorted({r.feature for r in self.results if r.outcome == "passed"}),
            unsupported_features=sorted({r.feature for r in self.results if r.outcome == "skipped"}),
            convergence_ms=self.convergence_ms,
        )

    def pytest_sessionfinish(self) -> None:
        try:
            if self._evidence:
                path = Path(self._evidence, RESULTS)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(msgspec.json.format(msgspec.json.encode(self.result()), indent=1))
        finally:
            self._stack.close()


def _same(result: CheckResult, item: pytest.Item, spec: checks.Check) -> bool:
    return result.id == spec.id and result.evidence[0].text == item.nodeid


def _message(report: pytest.TestReport) -> str:
    return report.longreprtext[-8_000:]
