"""The lists that the mutation benchmark goes by name things that exist (the benchmark itself: ``benchmarks/mutation.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._mutants import Mutant, breaks
from benchmarks.mutation import BREAKS, TESTS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", breaks(), ids=lambda one: one.change)
def test_a_hand_made_fault_changes_code_that_still_compiles(fault: Mutant) -> None:
    assert fault.source != (ROOT / fault.file).read_text(encoding="utf-8")
    compile(fault.source, fault.file, "exec")


def test_mutated_files_and_their_tests_exist() -> None:
    for file, tests in TESTS.items():
        assert [one for one in [*tests, *([file] if file != BREAKS else [])] if not (ROOT / one).exists()] == []
