"""The checks as a whole: what is promised is there, and every one of them can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.conformance.checks import check
from harness.conformance.mutants import MUTANTS
from harness.conformance.mutants.operator import OPERATOR_MUTANTS
from meshproof import catalogue

PROMISED = (
    "R1 R2 R3 R4 R5 R6 R7 R8 R12 R13 R15 R16 R17 F1 F2 F4 F5 F6 F7 F8 F14 F15 E1 E3 E6 E8 E9 E12 E13 "
    "M1 M2 M3 M4 M6 M9 M10 M11 M12 M17 A1 A2 A6 A8 J1 J2 J3 T1 T2 T7 C1 C11 C12 C13 C15"
).split()


CHECKS = dict(catalogue.checks())


def test_every_promised_check_exists() -> None:
    assert set(PROMISED) - {spec.id for spec in CHECKS.values()} == set()


@pytest.mark.parametrize("where", sorted(CHECKS))
def test_a_check_names_mutants_that_exist(where: str) -> None:
    unknown = set(CHECKS[where].mutants) - set(MUTANTS) - set(OPERATOR_MUTANTS)
    assert not unknown


def test_every_mutant_is_used() -> None:
    used = {mutant for spec in CHECKS.values() for mutant in spec.mutants}
    assert set(MUTANTS) | set(OPERATOR_MUTANTS) == used


def test_a_check_without_a_mutant_is_refused() -> None:
    with pytest.raises(ValueError, match="names no mutant"):
        check("R1", "reach", feature="Mesh", mutants=())


@pytest.mark.parametrize("id", ["", "X1", "R", "1"])
def test_an_id_outside_the_catalogue_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        check(id, "nothing", feature="Mesh", mutants=("exact-to-prefix",))


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "checks.md"
    assert page.read_text() == catalogue.page(), "run: python -m meshproof.catalogue > docs/checks.md"
