"""Estimator and cost fits on data that teach little or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autobucket.config import PredictConfig
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.evaluate import regression_metrics
from autobucket.fit_costs import FitCostsResult, fit_costs
from autobucket.predict import predict
from autobucket.results.estimator_config import TaskConfig, TrainConfig
from autobucket.results.tasks import Task
from autobucket.train import TrainResult, train
from marca_common.errors import UserError
from marca_common.files import read_json
from tests.autobucket.conftest import ACTIONS, make_loadtest, make_log
from tests.reference.table_edits import Edit, with_cell, with_columns

STATE = {name: "category" for name in ("user_value", "placement", "segment", "idc")} | {"price": "numeric"}


def _fit(edit: Edit, folder: Path, loss: str = "share", **optimiser: Any) -> TrainResult:
    log = make_log(300).assign(price=np.random.default_rng(0).normal(10, 1, 300))
    folder.mkdir(exist_ok=True)
    edit(log).to_parquet(folder / "log.parquet", index=False)
    config = {
        "data": {"requests": str(folder / "log.parquet"), "spec": {"state": STATE}},
        "tasks": {
            "retrieved": {"loss": loss},
            "preranked": {"loss": loss},
            "clicks": {"loss": "bce", "above": 0.5},
        },
        "model": {"deep": [4], "expert_units": 2, "experts": 2, "tower": [], "state_dim": 2, "action_dim": 2},
        "optimiser": {"epochs": 1, "batch_size": 64, **optimiser},
        "device": "cpu",
    }
    return train(TrainConfig.model_validate(config), folder / "run")


def _scores(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    config = {"checkpoint": str(folder / "run" / "estimator.pt"), "requests": str(folder / "log.parquet")}
    result = predict(PredictConfig.model_validate(config | {"cost_maps": None, "device": "cpu"}), folder / "scores")
    warnings = [read_json(folder / name / "summary.json").get("warnings", []) for name in ("run", "scores")]
    return result.scores.scores, [note for notes in warnings for note in notes]


@pytest.mark.parametrize("loss", ["share", "mse", "mae", "huber", "poisson"])
@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (with_columns(retrieved=0, preranked=0, clicks=0), "column 'retrieved' is 0 in all training rows"),
        (with_columns(preranked=14.62), "column 'preranked' is 14.62 in all training rows"),
        (with_columns(price=14.62), "state column 'price' is 14.62 in all training rows"),
        (with_columns(a1=0, a2=0), "column 'a1' is 0 in all training rows: its other choices are guessed"),
        (with_columns(user_value="x", placement="x", segment="x", idc="x"), None),
        (lambda f: f.head(30), None),
        (with_cell("clicks", 1e300), None),
    ],
)
def test_odd_logs_give_numbers_and_a_warning(loss: str, edit: Edit, expected: str | None, tmp_path: Path) -> None:
    _fit(edit, tmp_path, loss)
    scores, warnings = _scores(tmp_path)
    assert all(np.isfinite(values).all() for values in scores.values())
    assert expected is None or any(expected in note for note in warnings)


@pytest.mark.parametrize(
    ("edit", "loss", "expected"),
    [
        (
            with_cell("retrieved", 1e300),
            "share",
            r"log\.parquet: column 'retrieved': got 1e\+300; expected numbers below",
        ),
        (with_cell("retrieved", 1e20), "mse", r"column 'retrieved': got 1e\+20, a million times as far"),
        (with_cell("price", 1e300), "mse", r"log\.parquet: state column 'price': got 1e\+300"),
        (
            with_cell("retrieved", -1),
            "mse",
            r"row 6, column 'retrieved': got -1(\.0)?; expected a number of at least 0",
        ),
        (lambda f: f.head(1), "mse", "too few for training and validation"),
        (lambda f: f.head(10), "mse", r"log\.parquet: 8 rows to learn from are too few for the effects of 21 choices"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(
    edit: Edit, loss: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=expected):
        _fit(edit, tmp_path, loss)
    assert not (tmp_path / "run").exists()


def test_a_task_of_any_column_says_which_labels_its_loss_takes() -> None:
    with pytest.raises(UserError, match="task 'x': got the label -1; loss poisson expects non-negative results"):
        Task.fit("x", TaskConfig(loss="poisson"), np.array([-1.0, 2.0]), np.array([0, 1]), 2)


def test_a_constant_result_is_predicted_within_a_unit_of_it(tmp_path: Path) -> None:
    _fit(with_columns(preranked=14.62), tmp_path, "mse")  # its float32 spread is rounding, so that the scale is 1
    assert np.abs(_scores(tmp_path)[0]["preranked"] - 14.62).max() < 1


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("loss", ["share", "mse", "poisson"])
def test_results_scale_with_their_unit(loss: str, scale: float, tmp_path: Path) -> None:
    _fit(lambda f: f, tmp_path / "plain", loss)
    _fit(with_columns(retrieved=lambda f: f["retrieved"] * scale), tmp_path / "scaled", loss)
    plain, scaled = (_scores(tmp_path / name)[0]["retrieved"] for name in ("plain", "scaled"))
    np.testing.assert_allclose(scaled / scale, plain, rtol=1e-3)


def test_numbers_outside_the_trained_range_are_counted(tmp_path: Path) -> None:
    _fit(lambda f: f.assign(price=f["price"].where(f.index < 299, 1e6)), tmp_path)
    _, warnings = _scores(tmp_path)
    assert [note for note in warnings if "1 of 300 rows lie outside the trained range" in note]


def test_training_that_diverges_names_its_step_and_writes_no_estimator(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"loss.* is (nan|inf) in evaluation interval 1, after \d+ steps.*smaller optimiser\.lr"
    ):
        _fit(lambda f: f, tmp_path, "mse", lr=1e30, schedule="constant", gradient_clip=None)
    assert not list(tmp_path.rglob("estimator.pt"))


def test_constant_truth_has_no_r2_and_a_mean_of_rounding_no_relative_bias() -> None:
    constant = np.full(7, 0.1, np.float32).astype(np.float64)
    assert np.isnan(regression_metrics(constant, constant + 0.1)["r2"])
    balanced = np.array([1.0, -1.0, 1e-17])
    assert np.isnan(regression_metrics(balanced, balanced + 1)["bias_pct"])
    assert regression_metrics(np.array([1.0, 3.0]), np.array([2.0, 4.0]))["bias_pct"] == 50.0


def _costs(edit: Edit, folder: Path) -> tuple[FitCostsResult, list[str]]:
    edit(make_loadtest(rounds=1)).to_csv(folder / "loadtest.csv", index=False)
    config = {"loadtest": str(folder / "loadtest.csv"), "actions": ACTIONS, "bootstrap": 5}
    result = fit_costs(FitCostsConfig.model_validate(config), folder / "run")
    return result, read_json(folder / "run" / "summary.json").get("warnings", [])


def test_a_queue_measured_at_one_length_costs_nothing_more_and_is_named(tmp_path: Path) -> None:
    result, warnings = _costs(with_columns(retrieved=40.0), tmp_path)
    curve = result.maps.maps["north"]["retrieval"].queues["retrieved"]["light"]
    assert curve(np.array([0.0, 40.0, 400.0])).tolist() == [0.0, 0.0, 0.0]
    assert any(
        note.startswith("north.retrieval: retrieved (light) was measured at the one length 40") for note in warnings
    )


def test_one_rate_shows_no_dependence_on_load(tmp_path: Path) -> None:
    loaded = with_columns(
        qps=lambda f: np.where(f["qps"] > 0, 1000.0, 0.0), cpu_percent=lambda f: np.where(f["qps"] > 0, 30.0, 1.5)
    )
    result, _ = _costs(loaded, tmp_path)
    assert set(result.summary["rate_sensitivity_pct"].values()) == {0.0}
    assert result.summary["median_error_pct"] < 1e-6
    assert np.isnan(result.maps.maps["north"]["retrieval"].quality["r2"])


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (with_columns(cpu_percent=0.0), r"north\.retrieval: 0 rows use more than 0\.5 % CPU above idle"),
        (with_columns(qps=0.0), "column 'qps': got only 0"),
        (with_columns(degradation=1.0), "no usable row with degradation 0"),
        (
            with_columns(degradation=lambda f: np.where(f["degradation"] > 0, 1e300, 0)),
            r"column 'degradation': got 1e\+300",
        ),
        (with_cell("retrieved", 1e300), r"column 'retrieved': got 1e\+300"),
        (with_columns(qps=lambda f: f["qps"] * 1e-300), r"cost per request by Eq\. 26: got .*e\+"),
        (
            with_columns(qps=lambda f: f["qps"] * 1e300),
            r"cost per request by Eq\. 26: the largest value is .* too small",
        ),
        (lambda f: f.head(5), "4 rows use more than"),
    ],
)
def test_load_tests_that_say_nothing_are_refused(edit: Edit, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        _costs(edit, tmp_path)
    assert not (tmp_path / "run").exists()
