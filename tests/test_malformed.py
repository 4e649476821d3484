"""Malformed inputs over every program and reader (tests/malformed): one line each, nothing accepted silently, nothing left behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from marca_common.errors import UserError
from tests.malformed.bad_tables import Trait, cells
from tests.malformed.cases import Case, judged, outcome_of
from tests.malformed.everything import all_cases


def attempt_raising(error: Exception) -> Case:
    def attempt() -> None:
        raise error

    return Case("area", "place", "kind", "refused", attempt, ("table.csv",))


def test_outcomes_are_told_apart() -> None:
    assert outcome_of(attempt_raising(UserError("table.csv: bad")))[0] == "refused"
    assert outcome_of(attempt_raising(UserError("something is bad")))[0] == "tracebacks"
    assert outcome_of(attempt_raising(ValueError("table.csv: bad")))[0] == "tracebacks"
    assert outcome_of(Case("area", "place", "kind", "refused", lambda: 1))[0] == "silent"
    assert outcome_of(Case("area", "place", "kind", "accepted", lambda: 1, base=2))[0] == "silent"
    assert outcome_of(Case("area", "place", "kind", "accepted", lambda: 1, base=1))[0] == "accepted_rightly"
    failed = judged([Case("area", "place", "kind", "refused", lambda: 1)])
    assert failed.table().to_dict("records") == [
        {
            "area": "area",
            "tried": 1,
            "refused": 0,
            "accepted_rightly": 0,
            "tracebacks": 0,
            "silent": 1,
            "refused_wrongly": 0,
        }
    ]
    assert failed.failures == ["silent          place: kind: accepted"]


def test_a_column_is_spoiled_by_what_its_kind_says() -> None:
    assert Trait.of("float? 0 100") == Trait("float", 0.0, 100.0, True, False)
    assert Trait.of("int* 1") == Trait("int", 1.0, np.inf, False, True)
    expected = {kind: what for kind, _, what in cells(Trait.of("int 0 3"))}
    assert {"a fraction", "a negative number", "a number above the range", "NaN"} <= set(expected)
    assert set(expected.values()) == {"refused"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nothing_wrong_gets_through(tmp_path: Path) -> None:
    cases = list(all_cases(tmp_path))
    seen = Counter((case.place, case.kind, case.expected) for case in cases)
    tally = judged(cases)
    print(tally.table().to_string(index=False))
    print(f"{len(seen)} distinct inputs")
    assert len(seen) >= 500
    assert not tally.failures, "\n".join(tally.failures)
