"""System models of minute tables that teach little or nothing, and their checkpoints when they are broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from marca_common.errors import UserError
from marca_common.files import read_json
from mpc_balancer.config import ColumnsConfig, SystemModelConfig
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.train import TrainedSystemModel, train
from tests.reference.broken_checkpoints import broken_envelopes, broken_files, broken_leaves, refused, save_as_is
from tests.reference.table_edits import Edit, with_cell, with_columns

SERVICES = ("retrieval", "ranking")


def _table(rows: int = 200) -> pd.DataFrame:
    rng, minute = np.random.default_rng(0), np.arange(rows)
    frame = pd.DataFrame({"timestamp": pd.date_range("2026-01-01", periods=rows, freq="min"), "idc": "a"})
    frame["qps"] = 300 + 100 * np.sin(minute / 60) + rng.normal(0, 3, rows)
    for name in SERVICES:
        frame[f"lambda_{name}"] = np.abs(np.cumsum(rng.normal(0, 1e-4, rows))) + 1e-4
        cpu = 5 + 0.15 * frame["qps"] * np.exp(-200 * frame[f"lambda_{name}"]) + rng.normal(0, 0.5, rows)
        frame[f"cpu_{name}"] = np.clip(cpu, 0, 100)
    frame["extra"] = rng.normal(5, 1, rows)
    return frame


def _with_next(frame: pd.DataFrame) -> pd.DataFrame:
    following = {f"next_{name}": frame[name].shift(-1) for name in ("qps", *(f"cpu_{name}" for name in SERVICES))}
    return frame.assign(**following).iloc[:-1]


def _fit(edit: Edit, folder: Path, **settings: Any) -> TrainedSystemModel:
    folder.mkdir(exist_ok=True)
    _with_next(edit(_table())).to_csv(folder / "system.csv", index=False)
    values: dict[str, Any] = {
        "table": str(folder / "system.csv"),
        "columns": ColumnsConfig(extras=["extra"]),
        "hidden": [6],
        "epochs": 1,
        "rollout_steps": 2,
        "forecast_horizon": 2,
        "tune_candidates": 2,
        "tune_days": 0.05,
    }
    return train(SystemModelConfig(**values | settings), folder / "run")


def _both(column: str, value: Any) -> Edit:
    return with_columns(**{f"{column}_{name}": value for name in SERVICES})


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (_both("cpu", 0.0), "column 'cpu_retrieval': is 0 in all 199 rows"),
        (with_columns(cpu_ranking=np.nan), "column 'cpu_ranking': all 199 readings are lost"),
        (with_columns(qps=0.0), "column 'qps': is 0 in all 199 rows"),
        (_both("lambda", 0.0), "column 'lambda_retrieval' is 0 in all rows: what λ takes off CPU cannot be learned"),
        (with_cell("qps", 1e300), r"column 'qps': got 1e\+300"),
        (with_cell("lambda_ranking", 1e300), r"column 'lambda_ranking': got 1e\+300"),
        (with_cell("lambda_ranking", 1e9), r"column 'lambda_ranking': got 1e\+09, a million times as far"),
        (with_cell("extra", 1e300), r"column 'extra': got 1e\+300"),
        (lambda f: f.head(30), "29 rows are too few for a system model; expected at least 30"),
        (lambda f: f.head(60), "got .* validation rows; expected more than 20"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(edit: Edit, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        _fit(edit, tmp_path)
    assert not (tmp_path / "run" / "system_model.pt").exists()


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            _both("lambda", 1e-3),
            "what 'lambda_ranking' takes off 'cpu_ranking' cannot be learned: it is 0.001 in all rows",
        ),
        (_both("cpu", 50.0), "column 'cpu_ranking' is 50 in all rows: is its sensor stuck?"),
        (with_columns(qps=300.0), None),
        (with_columns(extra=14.62), None),
    ],
)
def test_odd_tables_give_numbers_and_a_warning(edit: Edit, expected: str | None, tmp_path: Path) -> None:
    model = _fit(edit, tmp_path, allow_unidentified=True).model
    assert model.sound
    warnings = read_json(tmp_path / "run" / "summary.json").get("warnings", [])
    assert expected is None or any(note.startswith(expected) for note in warnings)


def test_an_extra_input_that_is_constant_up_to_rounding_has_scale_one(tmp_path: Path) -> None:
    model = _fit(with_columns(extra=lambda f: 14.62 + np.arange(len(f)) % 2 * 2e-15), tmp_path).model
    assert model.features.extras_scale.tolist() == [1.0]


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("columns", [["qps"], [f"lambda_{name}" for name in SERVICES], ["extra"]])
def test_the_model_is_the_same_in_any_unit(columns: list[str], scale: float, tmp_path: Path) -> None:
    plain = _fit(lambda f: f, tmp_path / "plain", tune_pi=False).model
    scaled = _fit(lambda f: f.assign(**{n: f[n] * scale for n in columns}), tmp_path / "scaled", tune_pi=False).model
    for one, other in zip(plain.weights, scaled.weights):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.filterwarnings("ignore:overflow")
def test_training_that_diverges_names_its_step_and_writes_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the error is (nan|inf) at update \d+; .* Try a smaller lr"):
        _fit(lambda f: f, tmp_path, lr=1e30, head="plain", epochs=3)
    assert not list(tmp_path.rglob("system_model.pt"))


def test_tuning_on_too_few_rows_is_refused(tmp_path: Path) -> None:
    def two_groups(frame: pd.DataFrame) -> pd.DataFrame:
        parts = [frame.iloc[:45].assign(idc=name) for name in "abcd"]
        return pd.concat(parts, ignore_index=True)

    with pytest.raises(UserError, match="tuning expects more than 50 of one group"):
        _fit(two_groups, tmp_path, validation_share=0.6)


def test_no_broken_part_of_a_system_model_gets_through(tmp_path: Path) -> None:
    trained = _fit(lambda f: f, tmp_path).model
    good = tmp_path / "run" / "system_model.pt"
    content = torch.load(good, weights_only=True)
    exogenous = np.zeros((3, trained.features.size), np.float32)

    def serve(path: Path) -> None:
        model = SystemModel.load(path)
        plans = np.full((1, 3, model.prices.size), 0.5)
        assert np.isfinite(model.rollout(np.full(2, 50.0), plans, exogenous, np.ones(3))).all()

    serve(good)
    accepted = [name for name, path in broken_files(good, tmp_path) if not refused(serve, path)]
    for name, one in [*broken_envelopes(content), *broken_leaves(content, most=14)]:
        if not refused(serve, save_as_is(one, tmp_path / "bad.pt")):
            accepted.append(name)
    # another number of the right kind is valid, and so is what was not fitted or is a column's name
    rightly = ("columns", "step_seconds = 1000000000", "tuned")
    assert [name for name in accepted if not name.startswith(rightly)] == []
    tuned = [name for name in accepted if name.startswith("tuned.")]
    odd = ("text", "nan", "inf", "= -1")
    assert [name for name in tuned if any(one in name for one in odd)] == []
    within = ("tuned.observer.", "tuned.forecasts.a.", "tuned.pi_gains.pi.")
    assert [name for name in tuned if name.startswith(within) and name.endswith(("None", "[]"))] == []
