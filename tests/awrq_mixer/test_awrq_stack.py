"""awrq_plus: which members and side columns held-out revenue bears out, and the stack as a checkpoint."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from awrq_mixer.anchor import anchor
from awrq_mixer.anchoring.global_profile import write_profile
from awrq_mixer.config import AnchorConfig, TrainConfig
from awrq_mixer.serving import Predictor
from awrq_mixer.serving.stack_scorer import Member, StackScorer, weighed
from awrq_mixer.train import train
from awrq_mixer.training.stack_weights import HeldOut, best_profile, judged, weigh, weigh_levels
from awrq_mixer.training.stacked import _Side
from awrq_mixer.training.training_log import load_log
from marca_common.checkpoint import load_checkpoint, save_checkpoint
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_measures.rank_correlation import spearman_within

ACTIONS = 6


def _rows(rng: np.random.Generator, rows: int = 20_000) -> tuple[HeldOut, np.ndarray]:
    """Rows whose log mean is level + profile + departure; members: the departure, noise, its opposite, and a copy."""
    profile = np.exp(rng.normal(0, 0.4, ACTIONS))
    joint, level, departure = rng.integers(0, ACTIONS, rows), rng.normal(0, 0.5, rows), rng.normal(0, 0.4, rows)
    mean = np.exp(level + departure) * profile[joint]
    reward = mean * rng.gamma(0.5, 2.0, rows)
    members = np.column_stack([departure, rng.normal(0, 0.4, rows), -departure, departure + rng.normal(0, 0.2, rows)])
    levels = np.repeat(level[:, None], 4, axis=1)
    return HeldOut(levels, members, 0 * members, joint, reward / reward.mean()), profile


def test_members_are_weighed_by_what_held_out_revenue_bears_out() -> None:
    rows, profile = _rows(np.random.default_rng(0))
    weights = weigh(rows, profile, 3.0)
    assert weights[0] == pytest.approx(1.0, abs=0.1)
    assert weights[1:].tolist() == [0.0, 0.0, 0.0]
    table = judged(rows, profile, weights, 0 * weights, ["own", "noise", "opposite", "copy"], 3.0).set_index("member")
    assert table["verdict"].to_dict() == {
        "own": "kept",
        "noise": "not borne out by revenue",
        "opposite": "not borne out by revenue",
        "copy": "adds nothing to the others",
    }
    assert table.loc["opposite", "slope"] == pytest.approx(-1.0, abs=0.1)
    assert table.loc["copy", "slope"] == pytest.approx(0.4**2 / (0.4**2 + 0.2**2), abs=0.08)


def test_two_halves_of_a_departure_are_both_taken() -> None:
    rng = np.random.default_rng(1)
    rows, profile = _rows(rng)
    one = rng.normal(0, 0.3, len(rows.levels))
    halves = replace(rows, departures=np.column_stack([one, rows.departures[:, 0] - one]))
    assert weigh(halves, profile, 2.0) == pytest.approx([1.0, 1.0], abs=0.15)


def test_levels_are_weighed_apart_from_departures() -> None:
    """Of two members that see one half of the level each, one claims half as much; others see noise, or what is known."""
    rng = np.random.default_rng(4)
    rows, profile = _rows(rng)
    level, seen = rows.levels[:, 0], rng.normal(0, 0.4, len(rows.levels))
    claimed = [0.5 * seen, rng.normal(0, 0.4, len(level)), level - seen, level - seen + rng.normal(0, 0.6, len(level))]
    levels = replace(rows, levels=np.column_stack(claimed))
    assert weigh_levels(levels, profile, np.array([1.0, 0, 0, 0]), 3.0) == pytest.approx([2, 0, 1, 0], abs=0.15)
    nothing = replace(rows, levels=rng.normal(0, 0.4, (len(level), 4)))
    assert weigh_levels(nothing, profile, np.array([1.0, 0, 0, 0]), 5.0).tolist() == [0.25] * 4


def test_the_first_profile_stays_unless_another_is_better_beyond_chance() -> None:
    rows, profile = _rows(np.random.default_rng(2))
    close, wrong = profile * np.exp(0.005 * np.arange(ACTIONS)), profile[::-1].copy()
    assert best_profile([{"close": close, "true": profile}], [rows], 2.0) == "close"
    assert best_profile([{"wrong": wrong, "true": profile}], [rows], 2.0) == "true"
    few = HeldOut(*(getattr(rows, one.name)[:12] for one in fields(rows)))
    assert best_profile([{"wrong": wrong, "true": profile}], [few], 2.0) == "wrong"


def test_each_part_judges_the_profiles_that_were_learned_without_it() -> None:
    rows, profile = _rows(np.random.default_rng(2))
    wrong = profile[::-1].copy()
    few = HeldOut(*(getattr(rows, one.name)[:12] for one in fields(rows)))
    good, bad = {"side": wrong, "revenue": profile}, {"side": profile, "revenue": wrong}
    assert best_profile([good, good], [few, rows], 2.0) == "revenue"  # too few rows alone; with the other part enough
    assert best_profile([good, bad], [few, rows], 2.0) == "side"


def test_members_own_profile_is_their_mean_by_weight() -> None:
    tables = {"one": np.array([[1.0, 4.0], [3.0, 4.0]]), "other": np.array([[8.0, 1.0]])}  # means 2, 4 and 8, 1
    models: Any = {name: SimpleNamespace(values=lambda _, table=table: table) for name, table in tables.items()}
    members: Any = {name: SimpleNamespace(floor=0.1) for name in tables}
    side = _Side(models, pd.DataFrame(), {"x": cast(Any, SimpleNamespace(profile=lambda start: start))})
    for weights, expected in (({"one": 0.9}, [2, 4]), ({"one": 0.6, "other": 0.3}, [32 ** (1 / 3), 16 ** (1 / 3)])):
        assert np.allclose(side.corrected("x", members, weights, pd.DataFrame()), expected)


class _Fixed:
    """A scorer with a table of values by code."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.from_numpy(table.astype(np.float32))

    def values(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return self.table[codes[:, 0]]

    def to_payload(self) -> dict[str, Any]:
        return {"weights": {}}


def test_a_stack_is_the_profile_and_its_members_departures() -> None:
    rng = np.random.default_rng(3)
    tables, profile = np.exp(rng.normal(0, 0.5, (4, 4, ACTIONS))), np.exp(rng.normal(0, 0.3, ACTIONS))
    members = {f"m{j}": Member.of(_Fixed(one), one) for j, one in enumerate(tables)}
    codes, numbers = torch.tensor([[2], [0]]), torch.zeros(2, 0)
    stack = weighed(members, np.array([1, 0.5, 0, 0]), np.array([0.3, 0.9, 0.2, 0]))
    found = StackScorer(stack, profile).values(codes, numbers).numpy()
    level = np.log(tables.mean(axis=2))  # (members, states)
    shape = np.log(tables) - level[..., None]
    departure = shape - shape.mean(axis=1, keepdims=True)
    log_q = (
        (0.3 * level[0] + 0.9 * level[1] + 0.2 * level[2])[:, None]
        + np.log(profile / profile.mean())
        + departure[0]
        + 0.5 * departure[1]
    )
    assert found == pytest.approx(np.exp(log_q)[[2, 0]], rel=1e-4)


def test_rows_that_several_members_remember_are_written_once(tmp_path: Path) -> None:
    class Remembering(_Fixed):
        def __init__(self, table: np.ndarray, rows: torch.Tensor) -> None:
            super().__init__(table)
            self.rows = rows

        def to_payload(self) -> dict[str, Any]:
            return {"weights": {"memory_codes": self.rows.clone()}}

    table, rows = np.ones((4, ACTIONS)), torch.arange(100_000)
    members = {str(j): Member.of(Remembering(table, rows + j // 2), table) for j in range(3)}  # two of them the same
    save_checkpoint(tmp_path / "stack.pt", "test", [], StackScorer(members, np.ones(ACTIONS)).to_payload())
    assert 1.6e6 < (tmp_path / "stack.pt").stat().st_size < 1.7e6
    found = load_checkpoint(tmp_path / "stack.pt", "test")["members"]
    assert all(torch.equal(found[str(j)]["parts"]["weights"]["memory_codes"], rows + j // 2) for j in range(3))


@pytest.fixture(scope="module")
def stacked(small_world: Any, small_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config values of a stack on a log with a useful side column and one that says nonsense of actions."""
    folder, rng = tmp_path_factory.mktemp("stacked"), np.random.default_rng(7)
    frame, spec = small_world.frame, small_world.spec
    joint = np.ravel_multi_index([frame[name] for name in spec["sizes"]], tuple(spec["sizes"].values()))
    truth = small_world.truth(frame)
    hint = truth[np.arange(len(frame)), joint] * np.exp(rng.normal(0, 0.4, len(frame)))
    nonsense = truth[np.arange(len(frame)), joint[::-1].copy()[joint % 7]] * np.exp(rng.normal(0, 0.4, len(frame)))
    frame.assign(hint=hint, nonsense=nonsense).to_parquet(folder / "log.parquet", index=False)
    classes = {
        "learner": "latent_classes",
        "plus": {"classes": 6, "rank": 3, "members": 1},
        "optimiser": {"lr": 0.02},
        "batch_size": 256,
        "epochs": 4,
    }
    regression = {"learner": "regression", "network": {"embedding": 4, "hidden": 16}, "optimiser": {"lr": 0.01}}
    return {
        **{name: small_config[name] for name in ("spec",)},
        "learner": "awrq_plus",
        "requests": str(folder / "log.parquet"),
        "split": {"train": 0.6, "validation": 0.3, "test": 0.1},
        "stack": {
            "side_columns": ["hint", "nonsense"],
            "revenue_alone": ["regression"],
            "members": {"classes": classes, "regression": regression},
            "shrink": {"directions": 4, "reference_rows": 300},
        },
    }


def test_a_misleading_column_is_dropped_and_said_so(
    stacked: Any, small_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def noted(candidates: Any, *rest: Any) -> str:
        asked.append(list(candidates[0]))
        return best_profile(candidates, *rest)

    monkeypatch.setattr("awrq_mixer.training.stacked.best_profile", noted)
    result = train(TrainConfig.model_validate(stacked), tmp_path)
    table = pd.read_csv(tmp_path / "members.csv")
    members = ["classes_hint", "classes_nonsense", "regression_hint", "regression_nonsense"]
    assert table["member"].tolist() == members
    assert table["column"].tolist() == ["hint", "nonsense", "hint", "nonsense"]
    assert "nonsense" in result.summary["dropped_columns"]
    assert asked[-1] == ["hint", "members"]  # the first stays unless the other is better beyond chance
    assert result.summary["profile_from"] in ("members", "hint")
    assert result.summary["members_kept"] == table.loc[table["weight"] > 0, "member"].tolist()
    assert (table.loc[table["member"] == "classes_hint", "weight"] > 0).all()
    assert any("side column 'nonsense': dropped" in note for note in read_json(tmp_path / "summary.json")["warnings"])
    states, _, counts = result.model.spec.distinct_states(small_world.frame)
    assert spearman_within(result.model.values(states), small_world.truth(states), counts) > 0.9


def test_a_stack_reads_result_columns_where_there_are_any(stacked: Any, tmp_path: Path) -> None:
    frame = pd.read_parquet(stacked["requests"])
    frame.assign(ranked=3).to_parquet(tmp_path / "log.parquet", index=False)
    values = stacked | {
        "requests": str(tmp_path / "log.parquet"),
        "spec": stacked["spec"] | {"results": ["ranked", "not there"]},
    }
    train_rows = load_log(TrainConfig.model_validate(values)).train
    assert "ranked" in train_rows
    assert "not there" not in train_rows


def test_a_member_on_revenue_alone_is_trained_where_no_side_column_is_borne_out(stacked: Any, tmp_path: Path) -> None:
    members = {"classes": stacked["stack"]["members"]["classes"]}
    stack = {"side_columns": ["nonsense"], "revenue_alone": ["classes"], "members": members, "cross_fit": False}
    result = train(TrainConfig.model_validate(stacked | {"stack": stack}), tmp_path)
    table = pd.read_csv(tmp_path / "members.csv").set_index("member")
    assert list(table.index) == ["classes_nonsense", "classes"]
    assert table.loc["classes_nonsense", "weight"] == 0
    assert result.summary["dropped_columns"] == ["nonsense"]
    states = pd.DataFrame({"place": ["0", "2"], "segment": ["3", "7"]})
    assert np.array_equal(Predictor.load(tmp_path / "best.pt").values(states), result.model.values(states))


def test_a_stack_survives_its_checkpoint_and_a_finished_run_is_read_back(stacked: Any, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(stacked)
    model = train(config, tmp_path).model
    states = pd.DataFrame({"place": ["0", "2", "1"], "segment": ["3", "7", "never seen"]})
    values = model.values(states)
    assert np.array_equal(Predictor.load(tmp_path / "best.pt").values(states), values)
    (tmp_path / "summary.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("members/**/last.pt")}
    assert np.array_equal(train(config, tmp_path).model.values(states), values)
    assert len(before) == 12  # four members, on all rows and on either half
    assert {p: p.stat().st_mtime_ns for p in before} == before  # no member was trained again


def test_a_run_that_goes_on_with_another_log_at_the_same_place_forgets_the_old_one(
    stacked: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log.parquet"
    frame = pd.read_parquet(stacked["requests"])
    frame.to_parquet(log, index=False)
    config = TrainConfig.model_validate(stacked | {"requests": str(log)})
    train(config, tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    frame.sample(frac=1, random_state=1).to_parquet(log, index=False)
    again, whole = train(config, tmp_path / "run").model, train(config, tmp_path / "whole").model
    states = pd.DataFrame({"place": ["0", "2"], "segment": ["3", "7"]})
    assert np.array_equal(again.values(states), whole.values(states))


def test_halves_that_judge_each_other_are_cut_by_time(stacked: Any, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(stacked)
    train(config, tmp_path / "run")
    whole, half = load_log(config), len(load_log(config).train) // 2
    for number, mine in enumerate((slice(None, half), slice(half, None))):
        for member in ("classes_hint", "regression_nonsense"):
            own = load_log(load_config(TrainConfig, tmp_path / f"run/members/half_{number}/{member}/config.yaml"))
            assert own.train[config.spec.reward].tolist() == whole.train[config.spec.reward].iloc[mine].tolist()
            assert own.validation[config.spec.reward].tolist() == whole.validation[config.spec.reward].tolist()


def test_a_stack_comes_anchored_and_is_passed_on(stacked: Any, tmp_path: Path) -> None:
    model = train(TrainConfig.model_validate(stacked), tmp_path / "run").model
    profile = np.ones(model.spec.n_joint)
    write_profile(profile, model.spec, tmp_path / "profile.csv")
    config = AnchorConfig(
        checkpoint=str(tmp_path / "run/best.pt"), requests=stacked["requests"], profile=str(tmp_path / "profile.csv")
    )
    passed = anchor(config, tmp_path / "anchored")
    states = pd.DataFrame({"place": ["0", "2"], "segment": ["3", "7"]})
    assert np.array_equal(Predictor.load(tmp_path / "anchored/anchored.pt").values(states), model.values(states))
    assert passed.summary["directions_kept"] == (pd.read_csv(tmp_path / "run/slopes.csv")["share"] > 0).sum()


def test_members_in_the_folder_that_saw_other_rows_are_trained_again(stacked: Any, tmp_path: Path) -> None:
    fewer = TrainConfig.model_validate(stacked | {"max_rows": 3000})
    name, member = next(iter(fewer.member_configs().items()))
    train(member, tmp_path / "run/members" / name)
    mixed = train(TrainConfig.model_validate(stacked), tmp_path / "run").model
    whole = train(TrainConfig.model_validate(stacked), tmp_path / "whole").model
    states = pd.DataFrame({"place": ["0", "2"], "segment": ["3", "7"]})
    assert np.array_equal(mixed.values(states), whole.values(states))


def test_a_half_is_not_cut_into_halves(stacked: Any) -> None:
    split = stacked["split"] | {"half": "first"}
    with pytest.raises(ValueError, match=r"split\.half: got 'first'; stack\.cross_fit cuts into halves itself"):
        TrainConfig.model_validate(stacked | {"split": split})
    TrainConfig.model_validate(stacked | {"split": split, "stack": stacked["stack"] | {"cross_fit": False}})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"members": {}, "revenue_alone": []}, r"stack\.members: awrq_plus needs at least one"),
        ({"side_columns": ["hint", "hint"]}, "names a column twice"),
        ({"revenue_alone": ["trees"]}, r"revenue_alone: got 'trees'; expected members, of \['classes', 'regression'\]"),
        ({"members": {"one": {"learner": "awrq_plus"}}, "revenue_alone": []}, "a stack cannot hold a stack"),
        ({"members": {"one": {"learner": "nobody"}}, "revenue_alone": []}, "nobody"),
    ],
)
def test_a_stack_that_makes_no_sense_is_refused(stacked: Any, change: Any, expected: str) -> None:
    with pytest.raises((ValueError, UserError), match=expected):
        TrainConfig.model_validate({**stacked, "stack": stacked["stack"] | change})


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (lambda f: f["money"], "column 'hint': equals 'money' in all training rows"),
        (lambda f: 2.5, "column 'hint': is 2.5 in all training rows; expected a side column that varies"),
        (lambda f: np.nan, "column 'hint'"),
    ],
)
def test_side_columns_that_say_nothing_are_refused(stacked: Any, tmp_path: Path, column: Any, expected: str) -> None:
    frame = pd.read_parquet(stacked["requests"])
    frame.assign(hint=column(frame)).to_parquet(tmp_path / "log.parquet", index=False)
    with pytest.raises(UserError, match=expected):
        train(TrainConfig.model_validate(stacked | {"requests": str(tmp_path / "log.parquet")}), tmp_path / "run")
    assert not (tmp_path / "run" / "best.pt").exists()


def test_validation_rows_without_revenue_are_refused_before_training(stacked: Any, tmp_path: Path) -> None:
    frame = pd.read_parquet(stacked["requests"])
    frame.loc[len(frame) * 6 // 10 :, "money"] = 0.0
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    with pytest.raises(UserError, match=r"1800 validation rows with 0 of revenue; a stack is weighed on them"):
        train(TrainConfig.model_validate(stacked | {"requests": str(tmp_path / "log.parquet")}), tmp_path / "run")
    assert not (tmp_path / "run" / "members").exists()
