"""Findings that no seeded defect of the example shows, numbers worked out by hand, and what the checker writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from own_system.catalogue import CATALOGUE
from own_system.check import check, check_and_leave
from own_system.checks.over_time import distance
from own_system.checks.propensities import check_propensities
from own_system.checks.states import check_states
from own_system.coded_log import CodedLog, Grouped, joined
from own_system.declaration import OwnSystem
from own_system.findings import Findings
from own_system.fitted_propensity import foretell
from tests.own_system.foreign import REPOSITORY, declared


def log_of(
    states: dict[str, list[str]], actions: dict[str, list[int]], sizes: dict[str, int], **columns: list[float]
) -> CodedLog:
    frame = pd.DataFrame({name: pd.Categorical(values) for name, values in states.items()} | columns)
    frame["revenue"] = columns.get("revenue", np.ones(len(frame)))
    groups = {n: Grouped(frame[n].cat.codes.to_numpy().astype(np.int64), list(frame[n].cat.categories)) for n in states}
    taken = {n: Grouped(np.array(codes), [str(i) for i in range(sizes[n])]) for n, codes in actions.items()}
    return CodedLog("log.csv", frame, taken, groups)


def test_propensities_of_one_state_that_sum_to_more_than_one() -> None:
    """State x: actions 0 and 1 with .6 and .7; the smallest of an action counts: min(.6, .35) + .7 = 1.05 > 1.01."""
    states = {"s": ["x", "x", "x", "y"]}
    findings = Findings()
    log = log_of(states, {"a": [0, 0, 1, 1]}, {"a": 2}, propensity=[0.6, 0.35, 0.7, 1.0])
    check_propensities(log, "p", findings)
    (one,) = [one for one in findings if one.kind == "propensity_sum"]
    assert "2 joint actions" in one.value
    assert "1.05" in one.value
    assert one.row == 1
    findings = Findings()
    log = log_of(states, {"a": [0, 0, 1, 1]}, {"a": 2}, propensity=[0.6, 0.3, 0.7, 1.0])
    check_propensities(log, "p", findings)
    assert "propensity_sum" not in {one.kind for one in findings}


def test_a_log_that_never_takes_half_of_the_actions_lacks_support() -> None:
    """Two actions of four, each with .5: the mean of 1/propensity is 2, and 4 would be full support."""
    draw = np.random.default_rng(0)
    taken = draw.integers(0, 2, 2000).tolist()
    findings = Findings()
    check_propensities(log_of({"s": ["x"] * 2000}, {"a": taken}, {"a": 4}, propensity=[0.5] * 2000), "p", findings)
    (one,) = list(findings)
    assert one.kind == "missing_support"
    assert "50 %" in one.value


def test_states_that_hardly_occur_twice_are_too_many() -> None:
    draw = np.random.default_rng(0)
    columns = {name: [str(one) for one in draw.integers(0, 100, 3000)] for name in ("s", "t")}
    findings = Findings()
    check_states(log_of(columns, {"a": [0] * 3000}, {"a": 1}), findings)
    assert [one.kind for one in findings] == ["too_many_states"]


def test_distance_of_distributions_by_hand() -> None:
    """.3 of the rows moved from the first value to the others."""
    assert distance(np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])) == pytest.approx(0.3)
    assert distance(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0.0


def test_fitted_propensities_find_the_columns_that_decide_and_no_others() -> None:
    draw = np.random.default_rng(0)
    rows = 8000
    state, noise = draw.integers(0, 4, rows), draw.integers(0, 4, rows)
    first = np.where(draw.random(rows) < 0.8, state % 2, 1 - state % 2)
    second = draw.integers(0, 2, rows)
    words = {"s": [f"v{one}" for one in state], "noise": [f"v{one}" for one in noise]}
    log = log_of(words, {"a": first.tolist(), "b": second.tolist()}, {"a": 2, "b": 2})
    found = foretell(log)
    assert found["a"].columns == ["s"]
    assert found["b"].columns == []
    right = np.where(first == state % 2, 0.8, 0.2)
    assert np.abs(found["a"].probability - right).max() < 0.04
    assert np.abs(found["b"].probability - 0.5).max() < 0.03


def test_joined_columns_number_distinct_rows() -> None:
    key = joined([np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0]), np.array([2, 2, 2, 2])])
    assert len(set(key.tolist())) == 3
    assert key[2] == key[3]


def test_every_kind_says_what_it_means_and_what_to_do() -> None:
    for kind, one in CATALOGUE.items():
        assert one.meaning.endswith("."), kind
        assert one.advice.endswith("."), kind


def test_what_is_written_says_the_same_thrice(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = declared(example, ["agents.preranking={cut: [4, 10, 30, 70]}"])
    with pytest.raises(
        UserError, match=r"1 error found, first undeclared_action: .*requests.csv: row \d+, column 'cut'"
    ):
        check_and_leave(own, tmp_path / "out")
    (plain,) = read_json(tmp_path / "out/findings.json")["findings"]
    assert (plain["kind"], plain["level"], plain["column"]) == ("undeclared_action", "error", "cut")
    assert "'150'" in plain["value"]
    printed, page = capsys.readouterr().out, (tmp_path / "out/findings.html").read_text(encoding="utf-8")
    for part in (plain["kind"], CATALOGUE["undeclared_action"].advice):
        assert part in printed
        assert part.replace("_", " ") in page
    assert "src=" not in page  # nothing is loaded from elsewhere
    assert read_json(tmp_path / "out/summary.json")["errors"] == 1
    row = pd.read_csv(example / "requests.csv")["cut"].iloc[plain["row"] - 1]
    assert row == 150


def test_a_finding_names_the_row_of_the_file(example: Path, tmp_path: Path) -> None:
    log = pd.read_csv(example / "requests.csv").sample(frac=1.0, random_state=0)
    log.iloc[41, log.columns.get_loc("when")] = "2036-01-09 10:00:00"
    log.to_csv(tmp_path / "requests.csv", index=False)
    own = declared(example, [f"requests.file={tmp_path}/requests.csv"])
    (one,) = list(check(own, tmp_path / "out").findings)
    assert (one.kind, one.row) == ("odd_time", 42)


@pytest.mark.slow
def test_the_program_leaves_with_2_where_an_error_was_found_and_with_0_on_clean_tables(
    example: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "own_system.check", "--out", str(tmp_path / "out")]
    command += [
        part
        for role in ("requests", "minutes", "load_tests")
        for part in ("--set", f"{role}.file={example}/{role}.csv")
    ]
    clean = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert clean.returncode == 0, clean.stderr
    broken = subprocess.run(
        [*command, "--set", "timezone=UTC", "--set", "minutes.cpu=percent"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert broken.returncode == 2
    assert "cpu_unit" in broken.stdout
    assert "Traceback" not in broken.stderr


def test_the_shipped_sample_is_sound_and_short(tmp_path: Path) -> None:
    """400 rows: a warning of what they are too few for, and no error."""
    result = check(load_config(OwnSystem, REPOSITORY / "configs/own_sample.yaml"), tmp_path)
    assert {one.kind for one in result.findings} == {"rare_action", "too_many_states", "sparse_revenue"}
    assert result.summary["errors"] == 0
