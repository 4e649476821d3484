from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marca_common.config import load_config
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.scores import ScoreMatrix, read_long_scores, read_scores, write_scores
from tests.reference.long_scores import write_long_scores

SMALL = RequestSpec(
    state={"u": "category", "x": "numeric"},
    agents={"one": ["a1"], "two": ["a2", "a3"]},
    sizes={"a1": 2, "a2": 3, "a3": 2},
    timestamp=None,
    propensity=None,
    results=[],
)


def test_joint_index_is_row_major_with_the_last_sub_action_fastest() -> None:
    table = SMALL.joint_table()
    assert SMALL.n_joint == 12
    assert table[:3].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    frame = pd.DataFrame(table, columns=list(SMALL.sub_actions))
    assert SMALL.joint_index(frame).tolist() == list(range(12))


@pytest.mark.parametrize(
    "text, message",
    [
        ("sizes: {a1: 4}", "sizes must name"),
        ("{agents: {r: [a1, a1]}, sizes: {a1: 2}}", "sizes must name|one agent only"),
        ("{agents: {r: [a1]}, sizes: {a1: 0}}", "at least one choice"),
        ("state: {}", "at least one state column"),
        ("state: {u: words}", "state.u"),
    ],
)
def test_specs_that_contradict_themselves(tmp_path: Path, text: Any, message: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(RequestSpec, tmp_path / "s.yaml")


def test_rows_come_back_in_time_order(tmp_path: Path) -> None:
    spec = RequestSpec(state={"u": "category"}, agents={"r": ["a1"]}, sizes={"a1": 2}, results=[], propensity=None)
    (tmp_path / "log.csv").write_text("timestamp,u,a1,revenue\n2026-01-02,b,1,2\n2026-01-01,a,0,1\n")
    assert spec.read(tmp_path / "log.csv")["u"].astype(str).tolist() == ["a", "b"]


def test_the_papers_headerless_log_is_read_by_configuration_alone(tmp_path: Path) -> None:
    spec = RequestSpec(
        state={"uv": "category", "w": "category", "g": "category", "i": "category"},
        reward="reward",
        header=["uv", "w", "g", "i", "a1", "a2", "a3", "a4", "a5", "reward"],
        timestamp=None,
        propensity=None,
        results=[],
    )
    (tmp_path / "log.csv").write_text("3,1,0,2,3,4,0,1,2,0.5\n4,1,0,2,0,0,0,0,0,0\n")
    frame = spec.read(tmp_path / "log.csv")
    assert frame["reward"].tolist() == [0.5, 0.0]
    assert spec.joint_index(frame).tolist() == [((3 * 5 + 4) * 5 + 0) * 10 + 1 * 5 + 2, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_distinct_states_rebuild_the_log(rows: Any) -> None:
    spec = RequestSpec(state={"u": "category", "v": "category"}, agents={"r": ["a1"]}, sizes={"a1": 2})
    frame = pd.DataFrame(rows, columns=["u", "v"]).astype(str)
    states, ids, counts = spec.distinct_states(frame)
    assert len(states) == len(set(rows))
    assert states.iloc[ids].to_numpy().tolist() == frame.to_numpy().tolist()
    assert counts.tolist() == np.bincount(ids).tolist()


def test_unseen_categories_share_code_zero_and_numbers_are_standardised() -> None:
    train = pd.DataFrame({"u": ["b", "a", "b"], "x": [1.0, 3.0, 5.0]})
    encoder = StateEncoder.fit(train, SMALL.state)
    codes, numbers = StateEncoder.from_dict(encoder.to_dict()).transform(
        pd.DataFrame({"u": ["b", "z"], "x": [3.0, 5.0]})
    )
    assert codes.tolist() == [[2], [0]]
    np.testing.assert_allclose(numbers[:, 0], [0.0, 2 / np.sqrt(8 / 3)], rtol=1e-6)
    assert encoder.sizes == [3]
    with pytest.raises(UserError, match="state column 'x' is missing"):
        encoder.transform(pd.DataFrame({"u": ["a"]}))


def matrix() -> Any:
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    return ScoreMatrix(pd.DataFrame({"u": ["a", "b"], "x": ["1.0", "2.0"]}), {"q": values, "p": values * 2})


def test_scores_read_back_equal_wide_and_long(tmp_path: Path) -> None:
    write_scores(matrix(), tmp_path / "wide.parquet")
    write_long_scores(matrix(), SMALL, tmp_path / "long.csv")
    wide = read_scores(tmp_path / "wide.parquet", SMALL)
    long = read_long_scores(tmp_path / "long.csv", SMALL, ["q", "p"])
    for name, values in matrix().scores.items():
        np.testing.assert_array_equal(wide.scores[name], values)
        np.testing.assert_array_equal(long.scores[name], values)
    assert wide.keys().tolist() == long.keys().tolist() == ["a_1", "b_2"]


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda f: f.drop(index=5), "the pair state 'a_1', action '0_2_1' is missing"),
        (lambda f: pd.concat([f, f.iloc[[3]]]), "row 25: .*expected each pair once"),
        (lambda f: f.assign(action=f["action"].replace("0_0_0", "9_9_9")), "expected a known joint action"),
        (lambda f: f.assign(q=f["q"].where(f.index != 2)), "row 3, column 'q'"),
        (lambda f: f.assign(state="a_1"), "row 13: .*expected each pair once"),
        (
            lambda f: f.assign(state="only"),
            "row 1, column 'state': got the state 'only'; expected 2 values joined by '_'",
        ),
    ],
)
def test_long_scores_with_gaps_doubles_and_strangers(tmp_path: Path, edit: Any, message: str) -> None:
    write_long_scores(matrix(), SMALL, tmp_path / "long.csv")
    edit(pd.read_csv(tmp_path / "long.csv")).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(UserError, match=message):
        read_long_scores(tmp_path / "bad.csv", SMALL, ["q"])


def _write_unchecked(matrix: ScoreMatrix, path: Path) -> None:
    lists = {name: list(values.astype(np.float32)) for name, values in matrix.scores.items()}
    kinds = {name: pa.list_(pa.float32(), values.shape[1]) for name, values in matrix.scores.items()}
    table = pa.table({name: pa.array(matrix.states[name].astype(str)) for name in matrix.states})
    for name, rows in lists.items():
        table = table.append_column(name, pa.array(rows, kinds[name]))
    pq.write_table(table, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_scores_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    broken = matrix()
    broken.scores["q"] = broken.scores["q"].astype(np.float64)
    broken.scores["q"][1, 3] = value
    with pytest.raises(UserError, match=r"row 2, column 'q', joint action 3: got (nan|inf)"):
        write_scores(broken, tmp_path / "scores.parquet")
    assert not list(tmp_path.iterdir())


def test_wide_scores_that_are_not_finite_or_of_other_sizes(tmp_path: Path) -> None:
    broken = matrix()
    broken.scores["q"][1, 3] = np.nan
    _write_unchecked(broken, tmp_path / "nan.parquet")
    with pytest.raises(UserError, match="row 2, column 'q', joint action 3: got nan"):
        read_scores(tmp_path / "nan.parquet", SMALL)
    write_scores(matrix(), tmp_path / "wide.parquet")
    with pytest.raises(UserError, match="expected a list of 1000 numbers"):
        read_scores(tmp_path / "wide.parquet", RequestSpec(state=SMALL.state))
