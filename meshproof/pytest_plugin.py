"""The pytest plugin: makes the checks runnable as ordinary tests.

    pytest --pyargs harness.conformance --mesh envoy            # stands a world up, judges, takes it down
    pytest --pyargs harness.conformance --world NAME -k mirror  # against a world that runs

It is loaded in every pytest run of an environment that has meshproof, so it imports nothing heavy until a check is
collected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.conformance.lab import Lab
    from harness.conformance.suite import Suite


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("meshproof", "judging a service mesh")
    group.addoption("--mesh", default="envoy", metavar="NAME", help="the mesh under test (envoy, none); default envoy")
    group.addoption("--world", default="", metavar="NAME", help="judge in this running world instead of a new one")
    group.addoption("--mesh-profile", default="core", metavar="NAME", help="core or extended; default core")
    group.addoption("--evidence", default="", metavar="DIR", help="write conformance.json and evidence here")
    group.addoption(
        "--mutant",
        default="",
        metavar="NAME",
        help="break the mesh on purpose, so that the checks must fail: one mutant, or `all` for each check's own",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "check(spec): a conformance check; see harness.conformance.checks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any(item.get_closest_marker("check") for item in items) and not config.pluginmanager.has_plugin(
        "meshproof-suite"
    ):
        from harness.conformance.suite import Suite

        suite = Suite(config)
        config.pluginmanager.register(suite, "meshproof-suite")
        suite.select(items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = str(metafunc.config.getoption("--mutant"))
    mark = metafunc.definition.get_closest_marker("check")
    if wanted and mark is not None and "mutant" in metafunc.fixturenames:
        names = mark.args[0].mutants
        metafunc.parametrize("mutant", names if wanted == "all" else [n for n in names if n == wanted])


@pytest.fixture
def mutant() -> str:
    """The mutant that is active during the check; none by default."""
    return ""


@pytest.fixture
def lab(request: pytest.FixtureRequest, mutant: str) -> Iterator[Lab]:
    """The bench a check works at; see `harness.conformance.lab`."""
    suite: Suite | None = request.config.pluginmanager.get_plugin("meshproof-suite")
    if suite is None:
        raise pytest.UsageError("the `lab` fixture is for checks: mark the test with harness.conformance.checks.check")
    yield from suite.lab(request.node, mutant)
