"""Metrics by hand, the validation measure, and an evaluation from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from awrq_mixer.anchoring.global_profile import write_profile
from awrq_mixer.config import EvaluateConfig, TrainConfig
from awrq_mixer.evaluate import evaluate, evaluate_scores
from awrq_mixer.train import train
from awrq_mixer.training.training_log import load_log
from awrq_mixer.training.validation import comparison_groups, make_validation_set, shape_gain
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.scores import ScoreMatrix, write_scores


def test_shape_gain_by_hand() -> None:
    group, reward = np.array([0, 0, 1, 1]), np.array([1.0, 3.0, 0.0, 2.0])
    # group 0 splits 1:3, group 1 pays its second row only; equal shares leave D = log(2/4)·1 + 3·log(6/4) + 2·log 2
    flat = np.log(0.5) + 3 * np.log(1.5) + 2 * np.log(2.0)
    left = 2 * np.log(1 / 0.8)  # values 1:4 say .8 where 1 was right
    assert shape_gain(np.array([10.0, 30.0, 1.0, 4.0]), reward, group) == pytest.approx(1 - left / flat)
    assert shape_gain(np.ones(4), reward, group) == pytest.approx(0)
    assert shape_gain(np.ones(4), np.zeros(4), group) == 0
    # a value ≤ 0 counts as a fiftieth of its group's mean; a group whose mean is not positive is flat
    floored = shape_gain(
        np.array([1.0, 3.0, -1.0, 2.0]), reward, group
    )  # the mean of the second is .5: −1 counts as .01
    assert floored == pytest.approx(1 - 2 * np.log(2.01 / 2) / flat)
    assert shape_gain(-np.ones(4), reward, group) == pytest.approx(0)


def test_shape_gain_sees_order_but_no_level_however_actions_follow_it() -> None:
    """States of a high level mostly take action 1: a model that only knows the level of a row must gain nothing."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2000, 20000)
    level = np.exp(rng.normal(0, 1, 2000))[group]
    action = rng.random(20000) < np.where(level > 1, 0.9, 0.1)
    shape = np.where(action, 1.5, 1.0)
    reward = level * shape * rng.gamma(1, 1, 20000)
    truth = shape_gain(shape, reward, group)
    assert truth > 0.01 > 0 > shape_gain(1 / shape, reward, group)
    assert shape_gain(shape * level, reward, group) == pytest.approx(truth)
    assert shape_gain(level, reward, group) == pytest.approx(0)
    assert (
        shape_gain(np.where(action, 5.0, 1.0), reward, group) < truth
    )  # the level's share of the contrast is none of it


def test_validation_rows_come_in_whole_groups(small_world: Any, small_config: Any) -> None:
    log = load_log(TrainConfig.model_validate(small_config))
    every = make_validation_set(log.validation, log.spec, 10**9, seed=0)
    some = make_validation_set(log.validation, log.spec, 60, seed=0)
    assert some is not None
    assert every is not None
    assert 0 < len(some.reward) <= 60 < len(every.reward)
    sizes = comparison_groups(log.validation.reset_index(drop=True), log.spec)
    assert np.isin(np.bincount(some.group)[np.unique(some.group)], np.bincount(sizes)).all()
    assert (np.bincount(some.group)[np.unique(some.group)] > 1).all()
    table = np.arange(len(some.states) * log.spec.n_joint, dtype=np.float64).reshape(len(some.states), -1)
    by_pair = some.shape_gain(lambda states, rows, joint: table[rows, joint])
    assert by_pair == shape_gain(table[some.state_id, some.joint], some.reward, some.group)


def test_evaluate_scores_knows_perfect_and_reference_scores() -> None:
    rng = np.random.default_rng(1)
    truth, cost = rng.gamma(1, 1, (40, 30)), rng.gamma(1, 1, (40, 30, 2))
    perfect = evaluate_scores(truth, truth, cost, np.ones(40), [0.2, 0.5])
    assert perfect["spearman_within"] == pytest.approx(1)
    assert perfect["capture"] == pytest.approx(1)
    assert perfect["spearman"] == pytest.approx(1)
    assert perfect["spearman_state_value"] < perfect["spearman_state_times_profile"] < 1


def test_evaluation_from_end_to_end(small_world: Any, small_config: Any, tmp_path: Path) -> None:
    train(TrainConfig.model_validate({**small_config, "epochs": 12}), tmp_path / "run")
    spec = RequestSpec.model_validate(small_world.spec)
    states = spec.distinct_states(small_world.frame)[0]
    value = small_world.truth(states)
    cost = np.tile(1 + spec.joint_table().sum(1), (len(states), 1))
    write_scores(ScoreMatrix(states, {"value": value, "cost_cpu": cost}), tmp_path / "truth.parquet")
    write_scores(ScoreMatrix(states, {"cpu": cost}), tmp_path / "costs.parquet")
    write_profile(value.mean(axis=0), spec, tmp_path / "profile.csv")
    config = EvaluateConfig(
        checkpoint=str(tmp_path / "run/best.pt"),
        requests=str(small_world.path),
        truth=str(tmp_path / "truth.parquet"),
        profile=str(tmp_path / "profile.csv"),
        costs=str(tmp_path / "costs.parquet"),
        slices=["place"],
        buckets=10,
    )
    summary = evaluate(config, tmp_path / "evaluation").summary
    assert summary["truth"]["spearman_within"] > 0.5
    assert 0 < summary["truth"]["capture"] <= 1
    assert 0 <= summary["truth"]["stagewise_lost"] < 0.5
    assert 0.5 < summary["observed"]["predicted_mean"] / summary["observed"]["observed_mean"] < 2
    assert set(summary["slices"]["place"]) == {"0", "1", "2"}
    assert summary["unseen_states"]["rows"] == 0
    found = summary["borne_out"]
    assert found["departures_worth"] > 2 * found["departures_worth_se"] > 0
    assert found["borne_out_uplift"] > 2 * found["borne_out_uplift_se"] > 0
    for name in ("calibration.png", "capture.png", "capture.csv", "summary.json"):
        assert (tmp_path / "evaluation" / name).stat().st_size > 0
    with pytest.raises(UserError, match="no column 'nowhere'"):
        evaluate(config.model_copy(update={"slices": ["nowhere"]}), tmp_path / "again")


def test_costs_without_a_profile_are_refused() -> None:
    with pytest.raises(UserError, match="costs: needs profile as well"):
        load_config(EvaluateConfig, None, ["costs=costs.parquet"])
