"""The network, its tasks, training that stops per task and resumes, scoring, and costs from predicted results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from autobucket import train as training
from autobucket.config import EvaluateConfig, PredictConfig, TrainConfig
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.cost_model import CostModel
from autobucket.evaluate import binary_metrics, evaluate, regression_metrics
from autobucket.fit_costs import fit_costs
from autobucket.predict import predict
from autobucket.results.estimator import Estimator
from autobucket.results.estimator_config import ModelConfig, TaskConfig
from autobucket.results.joint_scoring import JointScorer, interactions
from autobucket.results.log_rows import split
from autobucket.results.result_kernels import first_cross, mix, next_cross, relu_pairs, relu_rows, spread
from autobucket.results.result_network import ActionResultModel, cross_v1, cross_v2, initialise
from autobucket.results.tasks import Task
from marca_common.checkpoint import save_checkpoint
from marca_common.config import load_config
from marca_common.cost_maps import ActionsConfig, CostMaps
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.scores import read_scores
from tests.autobucket.conftest import ACTIONS, SETS, make_loadtest, make_log

TASKS = {"retrieved": {}, "preranked": {"loss": "poisson"}, "clicks": {"loss": "bce"}}


def config(log_path: str, **changes: Any) -> TrainConfig:
    smoke = load_config(TrainConfig, "configs/autobucket/smoke.yaml").model_dump(mode="json")
    values = smoke | {"data": smoke["data"] | {"requests": log_path}, "tasks": TASKS} | changes
    return TrainConfig.model_validate(values)


def test_cross_layers_by_hand() -> None:
    x0, x = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    bias = torch.tensor([0.5, -1.0])
    # v2: W x + b = (3 + 8 + .5, 4 − 1) = (11.5, 3); x0 ⊙ that + x = (14.5, 10)
    assert cross_v2(x0, x, torch.tensor([[1.0, 2.0], [0.0, 1.0]]), bias).tolist() == [[14.5, 10.0]]
    # v1: wᵀx = 3 + 8 = 11; x0 · 11 + b + x = (14.5, 25)
    assert cross_v1(x0, x, torch.tensor([[1.0, 2.0]]), bias).tolist() == [[14.5, 25.0]]


@pytest.mark.parametrize("cross", ["v2", "v1", "none"])
@pytest.mark.parametrize("ids", ["embedding", "standardised"])
def test_joint_scoring_equals_row_by_row(cross: Any, ids: Any) -> None:
    torch.manual_seed(0)
    model = ActionResultModel(
        ModelConfig(cross=cross, ids=ids, deep=[8], experts=3, expert_units=4),
        ["u", "v", "x"], [5, 4], 1, ["a", "b"], [2, 3], [["a", "b"], ["u", "x"], ["u", "b"]],
    ).eval()  # fmt: skip
    codes, numbers = torch.tensor([[1, 2], [4, 0]]), torch.tensor([[0.5], [-1.0]])
    joint = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    action = model.embed_actions(joint)
    together = model(model.embed_states(codes, numbers)[:, None], action[None])
    for s in range(2):
        state = model.embed_states(codes[[s] * 6], numbers[[s] * 6])
        for all_at_once, rows in zip(together, model(state, action)):
            assert all_at_once.shape == (2, 6)
            torch.testing.assert_close(all_at_once[s], rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cross", ["v2", "v1", "none"])
@pytest.mark.parametrize(("layers", "deep"), [(0, [8]), (1, []), (2, [8, 6]), (3, [8]), (4, [8]), (6, [8])])
def test_shared_work_changes_no_output(cross: Any, layers: int, deep: Any) -> None:
    if cross == "none" and not deep:
        return
    torch.manual_seed(0)
    sizes = [2, 3, 2, 4]
    model = ActionResultModel(
        ModelConfig(cross=cross, cross_layers=layers, deep=deep, experts=3, expert_units=4),
        ["u", "v", "x"], [5, 4], 1, ["a", "b", "c", "d"], sizes, [["a", "b"], ["u", "x"], ["u", "b", "d"]],
    ).eval()  # fmt: skip
    initialise(model, torch.Generator().manual_seed(1))
    table = torch.cartesian_prod(*(torch.arange(n) for n in sizes))
    with torch.no_grad():
        state = model.embed_states(torch.tensor([[1, 2], [4, 0], [3, 3]]), torch.tensor([[0.5], [-1.0], [2.0]]))
        scorer, action = JointScorer(model, table.numpy()), model.embed_actions(table)[None]
        for tasks, rows in (([0, 2], state), ([1], state[:1]), ([1, 0], state)):
            for one, other in zip(scorer(rows, tasks), model(rows[:, None], action, tasks)):
                assert one.shape == (len(rows), 48)
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_few_values_tell_a_function_that_joins_two_sub_actions() -> None:
    table = np.stack(np.meshgrid(*map(np.arange, (3, 2, 4)), indexing="ij"), -1).reshape(-1, 3)
    known, steps, sums, ends = interactions(table, 2)
    assert len(known) == (2 * 1 + 2 * 3 + 1 * 3) + (2 + 1 + 3) + 1  # two, one or no sub-action past its first choice

    def from_few(values: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(known) + len(sums) + 1, 2), np.float32)
        spread(values[known].astype(np.float32), steps, sums, rows)
        return np.asarray(rows[ends[:, 0]] + rows[ends[:, 1]])

    a, b, c = table.T
    joins_two = np.stack([1.5 * a * b - np.sin(b + c) + a**c + 7.0, b * c - 2.0 * a], 1)
    np.testing.assert_allclose(from_few(joins_two), joins_two, rtol=1e-5)
    joins_three = joins_two + (a * b * c)[:, None]
    assert not np.allclose(from_few(joins_three), joins_three, rtol=1e-2)


def test_kernels_of_joint_scoring_equal_plain_sums() -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    state, action, hidden = draw(3, 5), draw(5, 7), np.empty((5, 3, 7), np.float32)
    relu_pairs(state, action, hidden)
    np.testing.assert_allclose(hidden, np.maximum(state.T[:, :, None] + action[:, None], 0), rtol=1e-6)
    relu_rows(x := action.copy(), state[0])
    np.testing.assert_allclose(x, np.maximum(action + state[0][:, None], 0), rtol=1e-6)

    ds, da, by_state, by_action, outer = draw(2, 3), draw(4, 2), draw(2, 5), draw(4, 5), draw(5)
    x0, x = first_cross(ds, da, by_state, by_action, outer)
    pairs = np.array([np.concatenate([one, other]) for one in ds for other in da])
    np.testing.assert_array_equal(x0, pairs)
    product = (by_state[:, None] + by_action).reshape(8, 5)
    np.testing.assert_allclose(x, pairs * (1 + product) + outer, rtol=1e-5, atol=1e-6)
    next_cross(y := x.copy(), x0, product, outer, by_state[0])
    np.testing.assert_allclose(y, x0 * (product + outer) + by_state[0] + x, rtol=1e-5, atol=1e-6)

    table = np.stack(np.meshgrid(*map(np.arange, (3, 2, 2)), indexing="ij"), -1).reshape(-1, 3)
    known, steps, sums, ends = interactions(table, 1)
    add = [draw(2, n, 6) for n in (3, 2, 2)]  # two states; three experts of two units
    additive = np.add.reduce([one[:, table[:, t]] for t, one in enumerate(add)])
    deep, fixed, gates = draw(2, 12, 6), draw(12, 6), draw(2, 2, 12, 3)
    experts = np.maximum(deep + fixed + additive, 0).reshape(2, 12, 3, 2)
    for gate in (gates, gates[:, :1]):
        want = np.einsum("tsae,saeu->tsau", np.broadcast_to(gate, gates.shape), experts)
        found = np.empty((2, 2, 12, 2), np.float32)
        mix(deep, fixed, additive[:, known], steps, sums, ends, np.ascontiguousarray(gate), found)
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_a_gate_sees_only_its_columns() -> None:
    torch.manual_seed(0)
    model = ActionResultModel(ModelConfig(deep=[8]), ["u"], [5], 0, ["a", "b"], [2, 3], [["b"]])
    with torch.no_grad():
        state = model.embed_states(torch.tensor([[1], [3]]), torch.zeros(2, 0))
        same_b = model.gate(0, state, model.embed_actions(torch.tensor([[0, 1], [1, 1]])))
        other_b = model.gate(0, state, model.embed_actions(torch.tensor([[0, 1], [0, 2]])))
    torch.testing.assert_close(same_b[0], same_b[1])
    torch.testing.assert_close(same_b.sum(-1), torch.ones(2))
    assert not torch.allclose(other_b[0], other_b[1])


def test_task_losses_by_hand() -> None:
    labels = np.array([2.0, 6.0], np.float32)
    joint = torch.tensor([0, 1])

    def fit(loss: Any) -> Any:
        return Task.fit("t", TaskConfig(loss=loss), labels, joint.numpy(), 3)

    task = fit("mse")
    assert (task.centre, task.scale) == (4.0, 2.0)
    # outputs 0 and 0 predict 4 and 4; scaled errors −1 and 1
    assert float(task.loss_of(torch.zeros(2), torch.from_numpy(labels), joint)) == pytest.approx(1.0)
    assert task.prediction(torch.tensor([0.0, -5.0]), joint).tolist() == [4.0, 0.0]
    count = fit("poisson")
    # rate = e⁰ in units of the mean 4: loss e⁰ − y/4 · 0 = 1
    assert float(count.loss_of(torch.zeros(2), torch.from_numpy(labels), joint)) == pytest.approx(1.0)
    assert count.prediction(torch.zeros(1), joint[:1]).tolist() == [4.0]
    with pytest.raises(UserError, match="got the label 2"):
        fit("bce")


def test_a_share_of_what_the_joint_action_allows() -> None:
    labels = np.repeat(np.array([5.0, 10.0, 0.0, 40.0], np.float32), 30)
    joint = np.repeat([0, 0, 1, 2], 30)
    task = Task.fit("t", TaskConfig(loss="share"), labels, joint, 4)
    # the largest result of each joint action; 1 never shows more than 0 and 3 is never seen: the largest of all
    assert task.caps is not None
    assert task.caps.tolist() == [10.0, 40.0, 40.0, 40.0]
    assert task.prediction(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0, 2, 2])).tolist() == pytest.approx(
        [5.0, 20.0, 40.0], abs=0.01
    )
    # logit 0 is a share of ½: −log ½, weighted by 10 over the mean cap 32.5
    loss = task.loss_of(torch.zeros(1), torch.tensor([5.0]), torch.tensor([0]))
    assert float(loss) == pytest.approx(np.log(2) * 10 / 32.5)
    # half of the results are 5 and half 10: the best constant is their mean, so it is the mean that is learnt
    grid = torch.linspace(-1, 4, 501)
    values = [
        float(task.loss_of(x.repeat(60), torch.from_numpy(labels[:60]), torch.zeros(60, dtype=torch.long)))
        for x in grid
    ]
    best = task.prediction(grid[int(np.argmin(values))].reshape(1), torch.tensor([0]))
    assert float(best) == pytest.approx(7.5, abs=0.05)
    with pytest.raises(UserError, match="got the label -1"):
        Task.fit("t", TaskConfig(loss="share"), labels - 1, joint, 4)


def test_metrics_by_hand() -> None:
    found = regression_metrics(np.array([1.0, 3.0]), np.array([2.0, 3.0]))
    assert found == pytest.approx({"mae": 0.5, "rmse": 0.5**0.5, "r2": 0.5, "bias_pct": 25.0})
    # pairs (negative, positive): .2 < .6 right, .7 > .6 wrong → AUC .5
    found = binary_metrics(np.array([0.0, 1.0, 0.0]), np.array([0.2, 0.6, 0.7]), bins=1)
    assert found["auc"] == pytest.approx(0.5)
    assert found["calibration_error"] == pytest.approx(0.5 - 1 / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.3]).mean())


def test_the_split_is_by_time(log_path: Any) -> None:
    parts = split(config(log_path).data, make_log(1000))
    assert [len(part) for part in parts] == [800, 100, 100]
    assert parts[0]["timestamp"].max() < parts[1]["timestamp"].min() < parts[2]["timestamp"].min()


@pytest.fixture(scope="module")
def trained(log_path: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trained")
    return training.train(config(log_path, optimiser={"batch_size": 256, "epochs": 6, "lr": 0.01}), folder), folder


def test_it_learns_and_every_task_keeps_its_own_weights(trained: Any) -> None:
    result, folder = trained
    test = result.summary["test"]
    assert test["retrieved"]["r2"] > 0.9
    assert test["preranked"]["r2"] > 0.9
    assert test["clicks"]["auc"] > 0.65
    log = pd.read_csv(folder / "metrics.csv")
    for name in TASKS:
        best = log.loc[log[f"{name}_loss"].idxmin(), "epoch"]
        assert result.summary["kept_epoch"][name] == best
        assert result.summary["validation_loss"][name] == pytest.approx(log[f"{name}_loss"].min(), rel=1e-6)


def test_a_task_without_signal_stops_and_the_others_go_on(tmp_path: Path) -> None:
    log = make_log(3000)
    log["clicks"] = np.random.default_rng(1).integers(0, 2, len(log))
    path = tmp_path / "noise.parquet"
    log.to_parquet(path, index=False)
    tasks = {"preranked": {"patience": 20}, "clicks": {"loss": "bce", "patience": 1}}
    options = {"batch_size": 64, "epochs": 8, "lr": 0.01, "schedule": "constant"}
    result = training.train(config(str(path), tasks=tasks, optimiser=options), tmp_path / "run")
    assert result.summary["kept_epoch"]["clicks"] < result.summary["kept_epoch"]["preranked"]
    assert len(result.estimator.passes) == 2


def test_a_checkpoint_predicts_the_same(trained: Any) -> None:
    result, folder = trained
    again, frame = Estimator.load(folder / "estimator.pt"), make_log(50, seed=3)
    for name, values in result.estimator.predict(frame).items():
        np.testing.assert_array_equal(values, again.predict(frame)[name])


def test_results_agree_with_predict(trained: Any) -> None:
    estimator, spec = trained[0].estimator, RequestSpec()
    states = make_log(5, seed=4)[list(spec.state)]
    frame = states.loc[states.index.repeat(spec.n_joint)].reset_index(drop=True)
    frame[list(spec.sub_actions)] = np.tile(spec.joint_table(), (5, 1))
    rows, joint = estimator.predict(frame), estimator.results(states)
    for name in TASKS:
        np.testing.assert_allclose(joint[name].ravel(), rows[name], rtol=2e-4, atol=2e-4)


def test_interrupted_training_ends_with_the_same_weights(
    log_path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size": 256, "epochs": 3, "evaluations_per_epoch": 2, "dropout": 0.2}
    settings = config(log_path, optimiser=options)
    straight = training.train(settings, tmp_path / "straight")
    save, calls = training._Training._save, []

    def save_then_stop(self: Any) -> None:
        save(self)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training._Training, "_save", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        training.train(settings, tmp_path / "resumed")
    assert not (tmp_path / "resumed/summary.json").exists()
    monkeypatch.undo()
    resumed = training.train(settings, tmp_path / "resumed")
    for (one, _), (two, _) in zip(straight.estimator.passes, resumed.estimator.passes):
        for name, weights in one.state_dict().items():
            assert torch.equal(weights, two.state_dict()[name]), name
    logs = [pd.read_csv(tmp_path / name / "metrics.csv").drop(columns="rows_per_s") for name in ("straight", "resumed")]
    pd.testing.assert_frame_equal(*logs)


def test_a_finished_run_is_not_repeated(trained: Any, monkeypatch: pytest.MonkeyPatch, log_path: Any) -> None:
    monkeypatch.setattr(training._Training, "loop", lambda self: pytest.fail("trained again"))
    result = training.train(trained[0].estimator.config, trained[1])
    assert result.summary["rows"] == 4800


def test_evaluate_reports_tasks_and_slices(trained: Any, log_path: Any, tmp_path: Path) -> None:
    values = {"checkpoint": trained[1] / "estimator.pt", "data": {"requests": log_path}, "slices": ["placement", "a2"]}
    result = evaluate(EvaluateConfig.model_validate(values), tmp_path / "evaluation")
    assert result.summary["retrieved"]["r2"] == pytest.approx(trained[0].summary["test"]["retrieved"]["r2"])
    assert set(result.table["slice"]) == {"all", "placement", "a2"}
    whole = result.table.query("task == 'retrieved' and metric == 'mae'")
    parts = whole[whole["slice"] == "a2"]
    mean = (parts["value"] * parts["rows"]).sum() / parts["rows"].sum()
    assert mean == pytest.approx(whole[whole["slice"] == "all"]["value"].item())
    assert (tmp_path / "evaluation/calibration.png").stat().st_size > 5000


@pytest.fixture(scope="module")
def cost_maps(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("maps")
    make_loadtest().to_csv(folder / "loadtest.csv", index=False)
    settings = FitCostsConfig(
        loadtest=folder / "loadtest.csv", actions=ActionsConfig.model_validate(ACTIONS), bootstrap=0
    )
    fit_costs(settings, folder / "costs")
    return folder / "costs/cost_maps.json"


def test_costs_are_the_maps_of_the_predicted_results(trained: Any, cost_maps: Any) -> None:
    model, spec = CostModel.load(trained[1] / "estimator.pt", cost_maps), RequestSpec()
    states = make_log(6, seed=5)[list(spec.state)]
    costs, results, maps = model.costs(states), trained[0].estimator.results(states), CostMaps.load(cost_maps)
    assert costs.shape == (6, 1000, 2)
    assert costs.dtype == np.float32
    assert model.services == ("retrieval", "ranking")
    joint = spec.joint_table()
    for s, a in [(0, 0), (1, 999), (2, 345), (5, 620)]:
        lengths = {name: np.array([results[name][s, a]]) for name in ("retrieved", "preranked")}
        channels, switches = SETS[joint[a, 0]], {"model": ["light", "heavy"][joint[a, 3]]}
        for j, service in enumerate(maps.services):
            expected = maps.cost(states["idc"][s], service, lengths, channels, switches)
            assert costs[s, a, j] == pytest.approx(expected[0], rel=1e-5)


def test_predict_writes_a_score_file(trained: Any, cost_maps: Any, log_path: Any, tmp_path: Path) -> None:
    values = {"checkpoint": trained[1] / "estimator.pt", "cost_maps": cost_maps, "requests": log_path}
    settings = PredictConfig.model_validate(values | {"max_states": 30, "results": True})
    predict(settings, tmp_path / "scores")
    matrix = read_scores(tmp_path / "scores/costs.parquet", RequestSpec())
    assert set(matrix.scores) == {*TASKS, "c_retrieval", "c_ranking"}
    model = CostModel.load(trained[1] / "estimator.pt", cost_maps)
    np.testing.assert_allclose(matrix.scores["c_ranking"], model.costs(matrix.states)[..., 1], rtol=1e-5)


def test_costs_refuse_what_they_were_not_made_for(trained: Any, cost_maps: Any, tmp_path: Path) -> None:
    checkpoint = trained[1] / "estimator.pt"
    model = CostModel.load(checkpoint, cost_maps)
    states = make_log(3)[list(RequestSpec().state)].assign(idc=["north", "west", "north"])
    with pytest.raises(UserError, match="row 2, column 'idc': got 'west'"):
        model.costs(states)
    content = json.loads(cost_maps.read_text())
    content["actions"]["channels"]["values"] = ["1", "1+2"]
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="2 values, but a1 has 4 choices"):
        CostModel.load(checkpoint, tmp_path / "other.json")
    content = json.loads(cost_maps.read_text())
    content["actions"]["elements"]["preranked"]["task"] = "ranked"
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="'ranked' is not predicted"):
        CostModel.load(checkpoint, tmp_path / "other.json")


def test_bad_checkpoints_get_one_line(trained: Any, tmp_path: Path, log_path: Any) -> None:
    path = tmp_path / "other.pt"
    save_checkpoint(path, "awrq-mixer", [], {})
    with pytest.raises(UserError, match="checkpoint of 'awrq-mixer'"):
        Estimator.load(path)
    payload = torch.load(trained[1] / "estimator.pt", weights_only=True)["payload"]
    payload["config"]["model"]["deep"] = [7]
    save_checkpoint(path, "autobucket-estimator", [], payload)
    with pytest.raises(
        UserError, match=r"snapshot \d+: body\.deep\.0\.weight has shape \(16, 36\); expected \(7, 36\)"
    ):
        Estimator.load(path)
    values = {"checkpoint": trained[1] / "estimator.pt", "data": {"requests": log_path, "spec": {"sizes": {
        "a1": 4, "a2": 5, "a3": 5, "a4": 2, "a5": 6}}}}  # fmt: skip
    with pytest.raises(UserError, match="fitted on states"):
        evaluate(EvaluateConfig.model_validate(values), tmp_path / "evaluation")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: f.drop(columns="preranked"), "column 'preranked' is missing"),
        (lambda f: f.assign(a2=f["a2"].where(f.index != 6, 5)), "row 7, column 'a2': got 5"),
        (lambda f: f.assign(clicks=f["clicks"].where(f.index != 1, 3)), "task 'clicks': got the label 3"),
        (lambda f: f.assign(retrieved=f["retrieved"].where(f.index != 2)), "row 3, column 'retrieved': got an empty"),
        (lambda f: f.head(2), "too few"),
    ],
)
def test_bad_logs_get_one_line(tmp_path: Path, spoil: Any, message: str) -> None:
    path = tmp_path / "log.csv"
    spoil(make_log(200)).to_csv(path, index=False)
    with pytest.raises(UserError, match=message):
        training.train(config(str(path)), tmp_path / "run")
    assert not (tmp_path / "run/estimator.pt").exists()


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.gates=[b9]", "'b9' is no state or action column"),
        ("tasks={}", "at least one task"),
        ("tasks.retrieved.gates=[]", r"tasks\.retrieved\.gates: got \[\]; expected at least one column"),
        ("data.test_share=0.95", "must leave rows to train on"),
        ("optimizer.lr=1", "did you mean 'optimiser'"),
        ("tasks.retrieved.loss=mea", "Input should be"),
    ],
)
def test_bad_configs(override: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(TrainConfig, "configs/autobucket/default.yaml", [override])


@pytest.mark.parametrize("name", ["default", "paper", "demo", "smoke"])
def test_shipped_configs_load(name: Any) -> None:
    assert set(load_config(TrainConfig, f"configs/autobucket/{name}.yaml").tasks) == {"retrieved", "preranked"}


def test_the_papers_sample_format_needs_only_a_config(tmp_path: Path) -> None:
    sample = load_config(TrainConfig, "configs/jd_sample/autobucket.yaml")
    result = training.train(sample, tmp_path / "run")
    assert set(result.summary["test"]) == {"retrieved", "preranked"}
    state = pd.DataFrame([{"uv": "v10", "w": "feed", "g": "s01", "i": "north"}])
    assert result.estimator.results(state)["preranked"].shape == (1, 1000)
    wrong = load_config(TrainConfig, "configs/jd_sample/autobucket.yaml", ["data.spec.sizes.a1=2"])
    with pytest.raises(UserError, match=r"column 'a1': got [23]; expected a whole number from 0 to 1"):
        training.train(wrong, tmp_path / "wrong")


def test_the_shipped_sample_goes_from_logs_to_costs(tmp_path: Path) -> None:
    sample = load_config(TrainConfig, "configs/autobucket/smoke.yaml")
    training.train(sample, tmp_path / "results")
    costs = load_config(FitCostsConfig, "configs/autobucket/costs.yaml", ["bootstrap=5"])
    fit_costs(costs, tmp_path / "costs")
    made = [f"checkpoint={tmp_path}/results/estimator.pt", f"cost_maps={tmp_path}/costs/cost_maps.json"]
    result = predict(load_config(PredictConfig, "configs/autobucket/predict.yaml", made), tmp_path / "scores")
    assert set(result.scores.scores) == {"c_retrieval", "c_ranking"}
    assert result.summary["mean.c_ranking"] > 0
    judged = evaluate(load_config(EvaluateConfig, "configs/autobucket/evaluate.yaml", made[:1]), tmp_path / "judged")
    assert judged.summary["rows"] == 40
