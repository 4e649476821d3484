"""The paper's sample files of modules 1 and 2, as they stand, through the programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autobucket.results.estimator_config import TrainConfig as ResultsConfig
from autobucket.train import train as train_results
from awrq_mixer.config import TrainConfig
from awrq_mixer.train import train
from marca_common.config import load_config
from marca_common.errors import UserError
from tests.jd_sample.files import module1, module2, write
from tests.reference.table_edits import with_cell

AWRQ, RESULTS = "configs/jd_sample/awrq_mixer.yaml", "configs/jd_sample/autobucket.yaml"


def _train(path: str, out: Path, *settings: str) -> Any:
    return train(load_config(TrainConfig, AWRQ, [f"requests={path}", *settings]), out)


def _train_results(path: str, out: Path, *settings: str) -> Any:
    return train_results(load_config(ResultsConfig, RESULTS, [f"data.requests={path}", *settings]), out)


@pytest.mark.parametrize("header", [False, True])
def test_module_1_is_read_with_and_without_a_header_row(header: bool, tmp_path: Path) -> None:
    path = write(module1(400), tmp_path / "module1.csv", header=header)
    result = _train(path, tmp_path / "run", *(["spec.header=null"] if header else []))
    assert result.summary["steps"] >= 1
    state = pd.DataFrame([{"uv": 1, "w": 2, "g": 0, "i": "IDC_0"}])
    assert np.isfinite(result.model.values(state)).all()


@pytest.mark.parametrize("header", [False, True])
def test_module_2_is_read_with_and_without_a_header_row(header: bool, tmp_path: Path) -> None:
    path = write(module2(400), tmp_path / "module2.csv", header=header)
    named = ["data.spec.header=null", "data.spec.columns={label1: retrieved, label2: preranked}"]
    result = _train_results(path, tmp_path / "run", *(named if header else []))
    assert set(result.summary["test"]) == {"retrieved", "preranked"}


def test_headed_and_headerless_files_give_one_frame(tmp_path: Path) -> None:
    config = load_config(TrainConfig, AWRQ)
    plain = config.spec.read(write(module1(50), tmp_path / "plain.csv", header=False))
    headed = config.spec.model_copy(update={"header": None, "separator": ";"})
    pd.testing.assert_frame_equal(plain, headed.read(write(module1(50), tmp_path / "headed.csv", separator=";")))


@pytest.mark.parametrize(("fit", "rows"), [(_train, module1), (_train_results, module2)])
def test_ten_rows_are_too_few_to_train_on(fit: Callable[..., Any], rows: Any, tmp_path: Path) -> None:
    path = write(rows(10), tmp_path / "ten.csv", header=False)
    with pytest.raises(UserError, match=r"ten\.csv: 8 rows to learn from are too few for the effects of 21 choices"):
        fit(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("edit", "written", "message"),
    [
        (lambda f: f.drop(columns="a5"), {"header": False}, "row 1 has 9 fields; header names 10 columns: uv, w, g"),
        (lambda f: f.assign(more=1), {"header": False}, "row 1 has more fields than the 10 columns"),
        (lambda f: f, {"header": False, "separator": "\t"}, r"holds '\\t' where ',' is expected; set separator: '\\t'"),
        (lambda f: f, {"header": True}, "first row holds the column name 'uv' while header says .* set header: null"),
        (with_cell("a1", 4), {"header": False}, "row 6, column 'a1': got 4.*expected a whole number from 0 to 3"),
        (with_cell("reward", -3), {"header": False}, "row 6, column 'reward': got -3.*expected a number of at least 0"),
    ],
)
def test_a_module_1_file_that_is_not_as_declared_is_refused(
    edit: Any, written: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(edit(module1(60)), tmp_path / "odd.csv", **written)
    with pytest.raises(UserError, match=rf"odd\.csv: .*{message}"):
        _train(path, tmp_path / "run")


def test_no_header_row_where_one_was_declared(tmp_path: Path) -> None:
    path = write(module1(60), tmp_path / "odd.csv", header=False)
    with pytest.raises(
        UserError, match=r"first row holds '\d', expected column names; .* name the columns under header"
    ):
        _train(path, tmp_path / "run", "spec.header=null")


@pytest.mark.parametrize(("how", "rows", "total"), [("clip", 40, 38.0), ("drop", 38, 38.0)])
def test_negative_rewards_are_clipped_or_dropped_where_declared(
    how: str, rows: int, total: float, tmp_path: Path
) -> None:
    frame = module1(40).assign(reward=1.0)
    frame.loc[[3, 7], "reward"] = [-3.0, -0.5]
    config = load_config(TrainConfig, AWRQ, [f"spec.negative={{reward: {how}}}"])
    read = config.spec.read(write(frame, tmp_path / "module1.csv", header=False))
    assert (len(read), read["reward"].sum()) == (rows, total)
    assert read.index.equals(pd.RangeIndex(rows))


def test_a_headed_file_of_which_only_the_labels_are_called_otherwise_is_no_headerless_one(tmp_path: Path) -> None:
    path = write(module2(60), tmp_path / "module2.csv")
    with pytest.raises(UserError, match="first row holds the column name 'uv' while header says"):
        _train_results(path, tmp_path / "run")


def test_negative_labels_are_refused_unless_declared(tmp_path: Path) -> None:
    path = write(with_cell("label2", -3)(module2(400)), tmp_path / "module2.csv", header=False)
    with pytest.raises(UserError, match=r"row 6, column 'preranked': got -3(\.0)?; expected a number of at least 0"):
        _train_results(path, tmp_path / "run")
    assert _train_results(path, tmp_path / "run", "data.spec.negative={preranked: drop}").summary["rows"] == 319
