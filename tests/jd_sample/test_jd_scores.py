"""The paper's sample files of module 4, as they stand, through the programs that judge allocations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.keyed_tables import KeyedTable
from marca_common.requests import RequestSpec
from marca_common.scores import read_long_scores
from revenue_sim.config import EvaluateConfig, RunConfig
from revenue_sim.evaluate import evaluate
from revenue_sim.run import RunResult, run
from tests.jd_sample.files import STATE, action_counts, predictions, scores, state_counts, write
from tests.reference.table_edits import with_columns

RUN, EVALUATE = "configs/jd_sample/revenue_sim_run.yaml", "configs/jd_sample/revenue_sim_evaluate.yaml"
SPARSE = ["truth.missing=0", "models.model.missing=0"]
WORDS = ["truth.words=[IDC_0, IDC_1]", "models.model.words=[IDC_0, IDC_1]"]
SPEC = RequestSpec(state={"u": "category", "i": "category"}, agents={"one": ["a"]}, sizes={"a": 2})


def _run(folder: Path, *settings: str, kinds: int = 25, idc: str = "idc", **edits: Any) -> RunResult:
    counts = state_counts(idc=idc)
    tables = {"states": counts, "actions": action_counts(kinds=kinds)}
    tables |= {"truth": scores(counts, kinds), "scores": scores(counts, kinds, seed=3)}
    tables = {name: edits.get(name, lambda f: f)(table) for name, table in tables.items()}
    keyed = {"truth", "scores"} | set(edits.get("headed", ()))
    paths = {name: write(table, folder / f"{name}.csv", header=name in keyed) for name, table in tables.items()}
    files = [f"states.file={paths['states']}", f"quotas.file={paths['actions']}"]
    files += [f"truth.files=[{paths['truth']}]", f"models.model.files=[{paths['scores']}]", "bootstrap_draws=10"]
    return run(load_config(RunConfig, RUN, [*files, *settings]), folder / "run")


def test_counts_and_full_scores_give_return_percent(tmp_path: Path) -> None:
    result = _run(tmp_path, kinds=1000)
    assert result.summary["requests"] == 200
    assert 0 < result.summary["return_pct"]["model"]["optimal"] < 100


def test_headed_counts_need_only_header_null(tmp_path: Path) -> None:
    plain = _run(tmp_path, *SPARSE).summary
    headed = _run(tmp_path, *SPARSE, "states.header=null", "quotas.header=null", headed=("states", "actions")).summary
    assert str(headed) == str(plain)  # nan and all


def test_sparse_scores_need_a_declared_worth_of_missing_pairs(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"truth\.csv: the pair state '.*', action '0_0_0_0_1' is missing, as are .* missing\)"
    ):
        _run(tmp_path)
    warnings = read_json(_run(tmp_path, *SPARSE).out / "summary.json")["warnings"]
    assert any("pairs that a score file lacks" in note for note in warnings)


def test_idc_0_beside_the_separator_is_read_where_it_is_declared(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"row 1, column 'key': got the state '\d_\d_\d_IDC_\d'; expected 4 values .*words"
    ):
        _run(tmp_path, *SPARSE, idc="IDC_")
    assert _run(tmp_path, *SPARSE, *WORDS, idc="IDC_").summary["requests"] == 200


@pytest.mark.parametrize(
    ("edits", "settings", "message"),
    [
        ({"truth": lambda f: f.assign(key=f["key"].str[2:])}, [], r"row 1, column 'key': got the state '\d_\d_idc\d'; expected 4"),
        ({"truth": with_columns(key="1_2_3")}, [], r"row 1, column 'key': got '1_2_3'; expected 9 values joined by '_': uv, w, g"),
        ({"truth": lambda f: f.assign(key="9_" + f["key"])}, [], r"row 1, .*got the state '9_.*'; expected 4 values"),
        ({"states": lambda f: f.drop(columns="sn")}, [], "row 1 has 5 fields; header names 6 columns: uv, w, g, i, sn, num"),
        ({"headed": ("states",)}, [], "its first row holds the column name 'uv' while header says"),
        ({}, ["quotas.header=null"], r"its first row holds '\d+', expected column names"),
        ({"states": with_columns(num=-3)}, [], r"row 1, column 'num': got -3; expected a whole number of at least 0"),
        ({"states": lambda f: f.assign(num=[-3, *f["num"][1:]])}, ["states.negative={num: clip}"], "the quotas sum to 200"),
        ({}, ["states.state=[uv, w, g]"], r"row 1, columns 'uv', 'w', 'g': got '\d_\d_\d'; expected a state of the scores"),
        ({}, ["states.separator=;"], "its first line holds ',' where ';' is expected; set separator: ','"),
    ],
)  # fmt: skip
def test_files_that_are_not_as_declared_are_refused(
    edits: dict[str, Any], settings: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"\.csv: {message}"):
        _run(tmp_path, *SPARSE, *settings, **edits)
    assert not (tmp_path / "run").exists()


def _evaluate(
    frame: pd.DataFrame, folder: Path, *settings: str, header: bool = False, separator: str = "\t"
) -> dict[str, Any]:
    table = write(frame, folder / "predictions.tsv", header=header, separator=separator)
    truth = write(scores(state_counts(400), 25), folder / "truth.csv")
    files = [f"allocation.file={table}", f"truth.files=[{truth}]", "truth.missing=0"]
    return evaluate(load_config(EvaluateConfig, EVALUATE, [*files, *settings]), folder / "run").summary


def test_predictions_are_judged_request_by_request(tmp_path: Path) -> None:
    frame, truth = predictions(300, 25), scores(state_counts(400), 25).set_index("key")["value"]
    summary = _evaluate(frame, tmp_path)
    columns = [*STATE, *(name for name in frame if name.startswith("a") and name.endswith("_output"))]
    keys = ["_".join(map(str, row)) for row in frame[columns].itertuples(index=False)]
    assert summary["requests"] == 300
    assert summary["value"] == pytest.approx(truth[keys].sum(), rel=1e-5)
    assert _evaluate(frame, tmp_path, "allocation.header=null", header=True) == summary


@pytest.mark.parametrize(
    ("edit", "written", "message"),
    [
        (lambda f: f.drop(columns="t"), {}, "row 1 has 18 fields; header names 19 columns"),
        (lambda f: f, {"separator": ","}, r"first line holds ',' where '\\t' is expected; set separator: ','"),
        (lambda f: f, {"header": True}, "first row holds the column name 't' while header says"),
        (with_columns(a1_output=9), {}, "row 1, columns 'a1_output', .*: got '9_.*'; expected a declared joint action"),
    ],
)
def test_predictions_that_are_not_as_declared_are_refused(
    edit: Any, written: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"predictions\.tsv: .*{message}"):
        _evaluate(edit(predictions(30, 25)), tmp_path, **written)


def _long(folder: Path, keys: list[str], **layout: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"key": keys, "value": np.arange(len(keys), dtype=float)})
    table = KeyedTable(pair="key", **layout)
    return read_long_scores(write(frame, folder / "scores.csv"), SPEC, ["value"], table, 7.0)


def test_missing_pairs_are_worth_what_is_declared(tmp_path: Path) -> None:
    matrix = _long(tmp_path, ["x_y_1", "z_y_0"])
    assert matrix.states.to_numpy().tolist() == [["x", "y"], ["z", "y"]]
    assert matrix.scores["value"].tolist() == [[7.0, 0.0], [1.0, 7.0]]


def test_a_key_with_declared_words_is_read_in_one_way_or_not_at_all(tmp_path: Path) -> None:
    matrix = _long(tmp_path, ["IDC_0_y_1", "x_IDC_0_1", "IDC_1_1"], words=["IDC_0"])
    assert matrix.states.to_numpy().tolist() == [["IDC_0", "y"], ["x", "IDC_0"], ["IDC", "1"]]
    with pytest.raises(UserError, match=r"row 2, column 'key': got the state 'p_q_r'; it can be read in several ways"):
        _long(tmp_path, ["x_y_1", "p_q_r_0"], words=["p_q", "q_r"])
    with pytest.raises(UserError, match=r"row 1, .*got the state 'x_'; expected 2 values"):
        _long(tmp_path, ["x__1"])
