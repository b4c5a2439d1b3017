"""The catalogue of checks, as text: `docs/checks.md` is this module's output.

python -m meshproof.catalogue > docs/checks.md
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import harness.conformance
from harness.conformance.checks import AREAS, Check

HEADER = """# The checks

Each check is one assertion about behaviour that can fail, written as an ordinary pytest test. It is judged by what the
echo servers received and the clients got, never by what the mesh says of itself; and each is shown to fail on at least
one *mutant*, a mesh that was broken on purpose.

This page is written by `python -m meshproof.catalogue`.
"""


def checks() -> Iterator[tuple[str, Check]]:
    """Every check there is, with where it stands (`module::function`)."""
    for module in pkgutil.walk_packages(harness.conformance.__path__, "harness.conformance."):
        if not module.name.rsplit(".", 1)[-1].startswith("test_"):
            continue
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            for mark in getattr(function, "pytestmark", []):
                if mark.name == "check" and function.__module__ == module.name:
                    yield f"{module.name}::{name}", mark.args[0]


def page() -> str:
    """`docs/checks.md`."""
    lines = [HEADER]
    found = sorted(checks(), key=lambda item: (list(AREAS).index(item[1].id[0]), int(item[1].id[1:]), item[0]))
    for letter, area in AREAS.items():
        lines += [
            f"\n## {area[0].upper()}{area[1:]}\n",
            "| id | what must hold | feature | fails on |",
            "|---|---|---|---|",
        ]
        for _, spec in found:
            if spec.id[0] == letter:
                mutants = ", ".join(f"`{name}`" for name in spec.mutants)
                lines.append(f"| {spec.id} | {spec.title} | {spec.feature} | {mutants} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
