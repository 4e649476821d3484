"""Training on logs that teach little or nothing: one line, or a stated treatment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from awrq_mixer.config import PredictConfig, TrainConfig
from awrq_mixer.equations import adaptive_weights, choice_sums, credit_weights
from awrq_mixer.learners import BOOSTED, LEARNERS
from awrq_mixer.predict import predict
from awrq_mixer.train import TrainResult, train
from awrq_mixer.training.training_log import identifiers
from awrq_mixer.training.validation import shape_gain
from marca_common.errors import UserError
from marca_common.files import read_json
from tests.awrq_mixer.conftest import tiny_config
from tests.reference.table_edits import Edit, with_cell, with_columns

EVERY = [*LEARNERS, *BOOSTED]


@pytest.fixture(scope="module")
def fit(draw_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainResult]:
    """Train a small learner on an edited log of 400 rows; the run is in ``folder``."""
    world = draw_world(tmp_path_factory.mktemp("small"), rows=400)
    rng = np.random.default_rng(1)
    base = world.frame.assign(price=rng.normal(10, 2, 400), clicks=world.frame["money"] + 1)

    def run(edit: Edit, folder: Path, learner: str = "awrq_mixer", **settings: Any) -> TrainResult:
        folder.mkdir(exist_ok=True)
        edit(base).to_parquet(folder / "log.parquet", index=False)
        values = tiny_config(folder / "log.parquet", learner)
        return train(TrainConfig.model_validate(values | settings), folder / "run")

    return run


def _warnings(folder: Path) -> list[str]:
    found: list[str] = read_json(folder / "run" / "summary.json").get("warnings", [])
    return found


@pytest.mark.parametrize("learner", EVERY)
def test_a_log_without_revenue_is_refused(learner: str, fit: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log\.parquet: column 'money' in the training rows: is 0 in all 320 rows"):
        fit(with_columns(money=-0.0), tmp_path, learner)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (with_columns(money=lambda f: np.where(np.arange(len(f)) > 330, 5.0, 0.0)), "is 0 in all 320 rows"),
        (with_cell("money", 1e300), "column 'money' in the training rows: got 1e[+]300; expected numbers below"),
        (with_cell("money", 1e20), "column 'money' in the training rows: got 1e[+]20, a million times as far"),
        (with_cell("money", 1e300, row=350), "column 'money': got 1e[+]300"),
        (with_cell("price", 1e300), "state column 'price': got 1e[+]300"),
        (with_cell("price", 1e20), "state column 'price': got 1e[+]20, a million times as far"),
        (with_columns(money=lambda f: f["money"] * 1e-320), "too small for single precision"),
        (with_columns(b1=0, b2=0, b3=0), "column 'b1': the only value in the training rows is 0"),
        (lambda f: f.head(1), "1 rows leave 1 for training"),
        (lambda f: f.head(10), "8 rows to learn from are too few for the effects of 9 choices; expected at least 9"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(
    edit: Edit, expected: str, fit: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=expected):
        fit(edit, tmp_path)


def test_a_surrogate_that_never_shows_anything_is_refused(fit: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column 'clicks' in the training rows: is 0"):
        fit(with_columns(clicks=0.0), tmp_path, "latent_classes")


NO_STATE_TWICE = with_columns(
    place=lambda f: (np.arange(len(f)) % 20).astype(str), segment=lambda f: (np.arange(len(f)) // 20).astype(str)
)
IDENTIFIER = with_columns(segment=lambda f: np.arange(len(f)).astype(str))
_ODD: dict[str, tuple[Edit, str | None]] = {
    "one reward": (with_columns(money=7.3), "column 'money' is 7.3 in all training rows"),
    "constant column": (with_columns(price=14.62), "state column 'price' is 14.62 in all training rows"),
    "one category": (with_columns(place="x"), None),
    "one state": (with_columns(place="x", segment="y"), None),
    "no state twice": (NO_STATE_TWICE, "nothing can be compared"),
    "identifier": (IDENTIFIER, "state column 'segment' has a value of its own in nearly every training row"),
    "a row per choice": (lambda f: f.head(11).assign(money=[1.0] + [0.0] * 10), "nothing can be compared"),
    "fewer rows than a batch": (lambda f: f.head(40), None),
    "one moment": (with_columns(timestamp=pd.Timestamp("2026-01-01")), None),
    "one paid row": (
        with_columns(money=lambda f: np.where(np.arange(len(f)) == 3, 5.0, 0.0)),
        "nothing can be compared",
    ),
    "negative zero": (with_columns(money=lambda f: f["money"].where(f["money"] > 0, -0.0)), None),
}


@pytest.mark.parametrize("learner", ["awrq_mixer", "awrq_residual", "latent_classes", "regression", *BOOSTED])
@pytest.mark.parametrize("name", _ODD)
def test_odd_logs_give_numbers_and_a_warning(name: str, learner: str, fit: Any, tmp_path: Path) -> None:
    edit, expected = _ODD[name]
    result = fit(edit, tmp_path, learner)
    scored = predict(
        PredictConfig(checkpoint=str(tmp_path / "run" / "best.pt"), states=result.model.config.requests), tmp_path / "q"
    )
    assert np.isfinite(scored.scores.scores["q"]).all()
    assert expected is None or any(expected in note for note in _warnings(tmp_path))


def test_a_memory_without_repeats_says_so(fit: Any, tmp_path: Path) -> None:
    fit(NO_STATE_TWICE, tmp_path, "latent_classes")
    assert any("a state's logged rows tell nothing" in note for note in _warnings(tmp_path))


@pytest.mark.parametrize("history", [None, ["place", "segment"]])
def test_an_identifier_is_left_out_of_states_and_of_their_memory(
    history: list[str] | None, fit: Any, tmp_path: Path
) -> None:
    plus = {"surrogate": "clicks", "history": history}
    model = fit(IDENTIFIER, tmp_path, "latent_classes", plus=plus).model
    assert "segment" not in model.spec.state
    assert _warnings(tmp_path)[:1] == [
        "state column 'segment' has a value of its own in nearly every training row: nothing can be learned from it, it is left out"
    ]
    assert not any("tell nothing" in note for note in _warnings(tmp_path))
    states = pd.read_parquet(tmp_path / "log.parquet").head(20)
    spec = model.spec.model_dump(mode="json")
    without = fit(
        IDENTIFIER, tmp_path / "without", "latent_classes", plus=plus | {"history": ["place"]}, spec=spec
    ).model
    np.testing.assert_array_equal(without.values(states), model.values(states.assign(segment="new")))


def test_columns_that_are_all_identifiers_are_kept() -> None:
    config = TrainConfig.model_validate({"spec": {"state": {"one": "category", "other": "category"}}})
    assert identifiers({"one": 400, "other": 20}, 400, config) == ["one"]
    assert identifiers({"one": 400, "other": 390}, 400, config) == []
    assert identifiers({"one": 40, "other": 20}, 40, config) == []  # few rows: chance alone


@pytest.mark.parametrize("learner", EVERY)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_values_scale_with_the_unit_of_money(scale: float, learner: str, fit: Any, tmp_path: Path) -> None:
    plain = fit(lambda f: f, tmp_path / "plain", learner).model
    scaled = fit(with_columns(money=lambda f: f["money"] * scale), tmp_path / "scaled", learner).model
    states = pd.read_parquet(tmp_path / "plain" / "log.parquet").head(20)
    np.testing.assert_allclose(scaled.values(states) / scale, plain.values(states), rtol=2e-3)


@pytest.mark.parametrize("learner", ["awrq_mixer", *BOOSTED])
def test_a_number_outside_the_trained_range_is_served_as_its_nearer_end_and_counted(
    learner: str, fit: Any, tmp_path: Path
) -> None:
    model = fit(lambda f: f, tmp_path, learner).model
    low, high = model.encoder.ranges["price"]
    states = pd.DataFrame(
        {"place": ["0", "1", "2"], "segment": ["1", "2", "3"], "price": [low, high, (low + high) / 2]}
    )
    beyond = states.assign(price=[-1e300, 1e9, states["price"][2]])
    assert np.array_equal(model.values(states), model.values(beyond))
    beyond.to_csv(tmp_path / "serve.csv", index=False)
    predict(
        PredictConfig(checkpoint=str(tmp_path / "run" / "best.pt"), states=str(tmp_path / "serve.csv")), tmp_path / "q"
    )
    notes = read_json(tmp_path / "q" / "summary.json")["warnings"]
    assert notes == [
        f"state column 'price': 2 of 3 rows lie outside the trained range [{low:g}, {high:g}] and count as its nearer end"
    ]


@pytest.mark.parametrize("learner", ["dqn", "awrq_mixer", "regression"])
def test_training_that_diverges_stops_with_step_and_remedy_and_writes_no_checkpoint(
    learner: str, fit: Any, tmp_path: Path
) -> None:
    settings = {"optimiser": {"lr": 1e30, "clip": None}, "loss": {"kind": "mse"}, "eval_every": 1}
    with pytest.raises(UserError, match=r"(step \d+.*optimiser\.lr|not written: .*learning rate)"):
        fit(lambda f: f, tmp_path, learner, **settings)
    assert not list(tmp_path.rglob("best.pt"))


def test_head_weights_stay_between_0_and_1_where_losses_are_rounding() -> None:
    weights = adaptive_weights(torch.tensor([[1e-7, -9e-8], [-1e-7, -1e-8], [3.0, 1.0]]))
    expected = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]])
    assert torch.equal(weights, expected)


def test_credit_rises_evenly_where_rewards_differ_by_rounding_only() -> None:
    reward = torch.full((999,), 0.1) / torch.tensor(0.1)
    reward[::3] += 1e-7
    actions = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (999, 2)))
    assert credit_weights(choice_sums(reward, actions, (3, 3)), "normalised").tolist() == [0.5, 1.0]
    spread = credit_weights(
        choice_sums(actions[:, 0].float(), actions, (3, 3)), "normalised"
    )  # only the first sub-action moves it
    assert spread[0] > 0.99


def test_equal_rewards_say_nothing_of_order() -> None:
    group = np.repeat(np.arange(30), 7)
    assert shape_gain(np.random.default_rng(0).random(210), np.full(210, 0.1), group) == 0.0
