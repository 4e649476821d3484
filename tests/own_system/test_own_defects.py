"""The checker names each seeded defect and nothing else, and is silent on clean logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from marca_common.config import load_config
from own_system.catalogue import CATALOGUE
from own_system.check import find_all
from tests.own_system.defects import DEFECTS, Defect
from tests.own_system.foreign import ROLES, SMALL, declared, findings_of, write_example

QUICK = DEFECTS[::6]  # the others take a minute together


def cases() -> list[Any]:
    marks = {one.name: () if one in QUICK else (pytest.mark.slow,) for one in DEFECTS}
    return [pytest.param(one, marks=marks[one.name], id=one.name) for one in DEFECTS]


@pytest.mark.parametrize("defect", cases())
def test_a_seeded_defect_is_found_and_nothing_else(defect: Any, example: Path, tmp_path: Path) -> None:
    found = findings_of(defect, example, tmp_path, seed=0)
    assert is_named(defect, found), [str(one) for one in found]
    assert {one.kind for one in found} <= {defect.kind, *defect.among}, [str(one) for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [21, 22])
def test_defects_in_other_logs_are_found(seed: Any, tmp_path: Path) -> None:
    """Thresholds were chosen on other seeds."""
    example = other_example(seed, tmp_path)
    missed = []
    for number, defect in enumerate(DEFECTS):
        folder = tmp_path / f"copy_{number}"
        folder.mkdir()
        if not is_named(defect, findings_of(defect, example, folder, seed)):
            missed.append(defect.name)
    assert missed == []


def test_a_clean_log_is_silent(example: Path) -> None:
    for overrides in ([], ["requests.columns.propensity=null"]):
        findings, tables = find_all(declared(example, overrides))
        assert [str(one) for one in findings] == []
        assert [tables.rows[f"{example}/{role}.csv"] for role in ROLES[:1]] == [20000]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [23, 24, 25])
def test_other_clean_logs_are_silent(seed: Any, tmp_path: Path) -> None:
    example = other_example(seed, tmp_path)
    for overrides in ([], ["requests.columns.propensity=null"]):
        assert [str(one) for one in find_all(declared(example, overrides))[0]] == []


def test_every_kind_of_finding_has_a_seeded_defect() -> None:
    assert len(DEFECTS) > 70  # as the page says
    seeded = {one.kind for one in DEFECTS}
    assert set(CATALOGUE) - seeded == {"not_a_category", "missing_support", "too_many_states"}  # test_own_findings


def is_named(defect: Defect, found: list[Any]) -> bool:
    """Whether a finding has the defect's kind, file and column."""
    files = (f"{defect.role}.csv", "gone.csv")
    return any(one.kind == defect.kind and one.file.endswith(files) and one.column == defect.column for one in found)


def other_example(seed: int, folder: Path) -> Path:
    config = load_config(WorldConfig, SMALL, [f"seed={seed}", "truth.cache=null", "truth.draws=20"])
    generate(config, folder / "world")
    return write_example(folder / "world", folder / "foreign")
