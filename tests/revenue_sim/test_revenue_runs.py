"""train, run and evaluate end to end on a small log of known truth; bad input; interruption and resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from marca_common.cli import run_cli
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.scores import ScoreMatrix, action_keys, state_keys, write_scores
from marca_measures.clairvoyant import clairvoyant
from marca_measures.rank_correlation import spearman
from revenue_sim import train as train_module
from revenue_sim.config import EvaluateConfig, RunConfig
from revenue_sim.evaluate import evaluate
from revenue_sim.ground_truth.nets import NetConfig, fit_net
from revenue_sim.ground_truth.trees import TreesConfig
from revenue_sim.ope import OpeConfig
from revenue_sim.run import run
from revenue_sim.train import GroundTruth, TrainConfig, train
from tests.reference.long_scores import write_long_scores

SPEC = RequestSpec(
    state={"tier": "category", "place": "category"},
    agents={"first": ["a1", "a2"], "second": ["a3"]},
    sizes={"a1": 3, "a2": 2, "a3": 4},
    results=[],
)
COLUMNS = SPEC.model_dump()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A log of 6,000 requests in 24 states with a known mean, score files of the truth and of models, costs."""
    folder = tmp_path_factory.mktemp("revenue")
    generator = np.random.default_rng(0)
    states = pd.DataFrame([(f"t{i}", f"p{j}") for i in range(8) for j in range(3)], columns=["tier", "place"])
    joint = SPEC.joint_table()
    cost = 0.5 + joint @ np.array([0.4, 0.5, 0.6])  # (A,)
    taste = generator.lognormal(0, 0.6, (24, 1)) * (1 + 0.5 * generator.random((24, 3)) @ joint.T)
    truth = (taste * np.sqrt(cost)).astype(np.float32)
    rows, actions = generator.integers(0, 24, 6000), generator.integers(0, 24, 6000)
    log = states.iloc[rows].reset_index(drop=True)
    for j, name in enumerate(SPEC.sub_actions):
        log[name] = joint[actions, j]
    log["revenue"] = truth[rows, actions] * generator.exponential(2.0, 6000) * (generator.random(6000) < 0.5)
    log["timestamp"] = pd.date_range("2026-01-01", periods=6000, freq="s")
    log["propensity"] = 1 / 24
    log.to_csv(folder / "log.csv", index=False)
    write_scores(ScoreMatrix(states, {"q": truth}), folder / "truth.parquet")
    write_scores(ScoreMatrix(states, {"q": truth.mean(axis=0, keepdims=True).repeat(24, 0)}), folder / "flat.parquet")
    for seed in range(2):
        noisy = truth * np.random.default_rng(seed).lognormal(0, 0.3, truth.shape).astype(np.float32)
        write_scores(ScoreMatrix(states, {"q": noisy}), folder / f"noisy{seed}.parquet")
    shared = np.tile(cost.astype(np.float32), (24, 1))
    write_scores(ScoreMatrix(states, {"cpu": 0.6 * shared, "gpu": 0.4 * shared}), folder / "costs.parquet")
    return folder


def run_config(files: Any, **changes: Any) -> Any:
    values = {
        "spec": COLUMNS,
        "requests": str(files / "log.csv"),
        "truth": str(files / "truth.parquet"),
        "models": {
            "same": str(files / "truth.parquet"),
            "noisy": [str(files / f"noisy{seed}.parquet") for seed in range(2)],
            "flat": str(files / "flat.parquet"),
        },
        "costs": str(files / "costs.parquet"),
        "bootstrap_draws": 100,
        "threads": 1,
    }
    return RunConfig.model_validate({**values, **changes})


def test_run_judges_models(files: Any, tmp_path: Path) -> None:
    result = run(run_config(files), tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    same, noisy = summary["return_pct"]["same"], summary["return_pct"]["noisy"]
    assert (same["greedy"], same["optimal"], same["ci_low"], same["ci_high"]) == (100, 100, 100, 100)
    assert 60 < noisy["greedy"] < 100
    assert noisy["ci_low"] < noisy["greedy"] < noisy["ci_high"]
    assert noisy["optimal"] <= 100
    assert (summary["spearman"]["same"], summary["spearman_within"]["same"]) == pytest.approx((1, 1))
    assert 0 <= summary["greedy_gap_pct"] < 20
    assert summary["truth_bucket_spearman"] > 0.8
    assert summary["lambda"] > 0
    assert 0 <= summary["lp_gap"] < 0.05
    assert summary["capture_at_budget"]["same"] == pytest.approx(1.0)
    assert summary["requests"] == 6000
    for name in ("returns.csv", "curve.csv", "action_mix.csv", "config.yaml", "versions.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    for name in ("return_pct.png", "budget_curve.png", "return_vs_spearman.png"):
        assert (tmp_path / "run" / name).read_bytes()[:4] == b"\x89PNG"
    curve = pd.read_csv(tmp_path / "run/curve.csv").pivot(index="budget", columns="strategy", values="value")
    assert (curve["clairvoyant"] >= curve[["static", "same", "noisy"]].max(axis=1) - 1e-6).all()
    assert np.diff(curve["clairvoyant"]).min() >= 0
    assert (
        result.mix[(result.mix["by"] == "all")]
        .groupby(["model", "allocation", "sub_action"])["share"]
        .sum()
        .eq(1)
        .all()
    )


def test_run_is_the_same_twice_and_samples_states_by_seed(files: Any, tmp_path: Path) -> None:
    first = run(run_config(files, sample_states=10), tmp_path / "a").summary
    again = run(run_config(files, sample_states=10), tmp_path / "b").summary
    other = run(run_config(files, sample_states=10, seed=1), tmp_path / "c").summary
    assert first == again
    assert first["states"] == 10
    assert first["requests"] != other["requests"]


def test_quotas_and_states_from_tables(files: Any, tmp_path: Path) -> None:
    keys, actions = state_keys(pd.read_parquet(files / "truth.parquet")[["tier", "place"]]), action_keys(SPEC)
    pd.DataFrame({"state": keys[:3], "count": [2, 1, 3]}).to_csv(tmp_path / "states.csv", index=False)
    pd.DataFrame({"action": actions[:2], "count": [4, 2]}).to_csv(tmp_path / "quotas.csv", index=False)
    tables = {"requests": None, "states": str(tmp_path / "states.csv"), "quotas": str(tmp_path / "quotas.csv")}
    summary = run(run_config(files, **tables), tmp_path / "run").summary
    assert (summary["states"], summary["requests"], summary["truth_bucket_spearman"]) == (3, 6, None)
    pd.DataFrame({"action": actions[:2], "count": [4, 1]}).to_csv(tmp_path / "quotas.csv", index=False)
    with pytest.raises(UserError, match="quotas sum to 5; expected 6"):
        run(run_config(files, **tables), tmp_path / "other")
    pd.DataFrame({"action": ["0_0_9"], "count": [6]}).to_csv(tmp_path / "quotas.csv", index=False)
    with pytest.raises(UserError, match="row 1, column 'action': got '0_0_9'"):
        run(run_config(files, **tables), tmp_path / "other")
    pd.DataFrame({"state": ["t9_p9"], "count": [6]}).to_csv(tmp_path / "states.csv", index=False)
    with pytest.raises(UserError, match="row 1, column 'state': got 't9_p9'"):
        run(run_config(files, **tables), tmp_path / "other")


def test_long_score_files_and_their_errors(files: Any, tmp_path: Path) -> None:
    states = pd.read_parquet(files / "truth.parquet")[["tier", "place"]]
    values = np.stack(pd.read_parquet(files / "truth.parquet")["q"])
    path = tmp_path / "model.csv"
    write_long_scores(ScoreMatrix(states, {"value": values}), SPEC, path)
    models = {"long": {"files": [str(path)], "column": "value"}}
    summary = run(run_config(files, models=models), tmp_path / "run").summary
    assert summary["return_pct"]["long"]["greedy"] == pytest.approx(100)
    table = pd.read_csv(path)
    cases = [
        (table.drop(index=5), "is missing"),
        (pd.concat([table, table.iloc[[3]]]), "expected each pair once"),
        (table.assign(value=table["value"].mask(table.index == 7)), "row 8, column 'value'"),
        (table.assign(value=table["value"].where(table.index != 7, np.inf)), "row 8, column 'value'"),
        (table.assign(action=table["action"].where(table.index != 2, "9_9_9")), "expected a known joint action"),
        (table[table["state"] != "t0_p0"], "no scores for the state 't0_p0'"),
    ]
    for broken, message in cases:
        broken.to_csv(path, index=False)
        with pytest.raises(UserError, match=message):
            run(run_config(files, models=models), tmp_path / "other")
        assert not (tmp_path / "other/summary.json").exists()


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_configured_budget_is_positive(files: Any, tmp_path: Path, budget: Any) -> None:
    text = f"budget: {budget if budget == budget else '.nan'}\ntruth: x\nmodels: {{a: x}}\n"
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match="budget"):
        load_config(RunConfig, tmp_path / "run.yaml")


def test_an_infeasible_budget_is_named(files: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the least possible cost is 0\.5"):
        run(run_config(files, budget=0.1), tmp_path / "run")


def test_services_have_budgets_of_their_own(files: Any, tmp_path: Path) -> None:
    summary = run(run_config(files), tmp_path / "own").summary
    found, spent = summary["service_budgets"], summary["budget"]
    assert sum(found["budget"].values()) == pytest.approx(spent, rel=0.05)  # what the truth's choice spends of it
    assert summary["value_at_budget"]["clairvoyant"] >= found["bound"] * (1 - 1e-9) - 1e-9
    assert 0 <= found["gap"] < 0.01
    assert found["value"]["same"] == pytest.approx(found["value"]["clairvoyant"])
    assert found["capture_at_service_budgets"]["same"] > 0.95
    assert found["value"]["noisy"] < found["value"]["same"]
    assert found["value"]["static"] < found["value"]["clairvoyant"]
    for spend in found["spend"].values():  # decisions know the true costs here
        assert all(spend[name] <= found["budget"][name] * (1 + 1e-9) for name in ("cpu", "gpu"))


def test_given_service_budgets_are_kept_and_priced(files: Any, tmp_path: Path) -> None:
    """cpu and gpu cost 3 : 2, so the tighter of the two budgets has all the price, and the bound is the one of it alone."""
    own = {
        "service_budgets": [0.9, 9.0],
        "budget": 1.5,
        "model_costs": str(files / "costs.parquet"),
        "sample_states": None,
    }
    summary = run(run_config(files, **own), tmp_path / "given").summary
    found = summary["service_budgets"]
    assert found["budget"] == {"cpu": 0.9, "gpu": 9.0}
    assert found["lambda"]["gpu"] == pytest.approx(0.0, abs=1e-6)
    assert found["lambda"]["cpu"] * 0.6 == pytest.approx(summary["lambda"], rel=0.05)
    assert found["bound"] == pytest.approx(summary["value_at_budget"]["clairvoyant"], rel=1e-4)
    truth = np.stack(pd.read_parquet(files / "truth.parquet")["q"])
    costs = pd.read_parquet(files / "costs.parquet")
    both = np.stack([np.stack(costs["cpu"]), np.stack(costs["gpu"])], axis=2)
    weight = pd.read_csv(files / "log.csv").groupby(["tier", "place"]).size().to_numpy()
    assert found["bound"] == pytest.approx(clairvoyant(truth, both, np.array([0.9, 9.0]), weight).value, rel=1e-4)


def test_service_budgets_are_one_positive_number_for_each_service(files: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"service_budgets: got \[1.0\]; expected one for each service of both cost files: \['cpu', 'gpu'\]",
    ):
        run(run_config(files, service_budgets=[1.0]), tmp_path / "run")
    with pytest.raises(UserError, match="service_budgets"):
        run(run_config(files, service_budgets=[1.0, 1.0], costs=None), tmp_path / "run")
    with pytest.raises(UserError, match="least possible costs"):
        run(run_config(files, service_budgets=[0.1, 1.0]), tmp_path / "run")
    with pytest.raises(ValidationError, match="greater than 0"):
        run_config(files, service_budgets=[1.0, -1.0])


def test_a_model_that_sees_costs_beyond_the_budgets_has_no_value_there(files: Any, tmp_path: Path) -> None:
    costs = pd.read_parquet(files / "costs.parquet")
    dear = {name: 3 * np.stack(costs[name]) for name in ("gpu", "cpu")}
    write_scores(ScoreMatrix(costs[["tier", "place"]], dear), tmp_path / "dear.parquet")
    own = {"service_budgets": [0.8, 0.5], "budget": 3.0}  # the least that decisions see is 0.9 and 0.6
    summary = run(run_config(files, model_costs=str(tmp_path / "dear.parquet"), **own), tmp_path / "run").summary
    assert np.isnan(summary["service_budgets"]["value"]["same"])
    assert summary["service_budgets"]["capture_at_service_budgets"]["same"] is None
    assert summary["service_budgets"]["value"]["clairvoyant"] > 0
    write_scores(ScoreMatrix(costs[["tier", "place"]], {"cpu": np.stack(costs["cpu"])}), tmp_path / "one.parquet")
    one = run(run_config(files, costs=str(tmp_path / "one.parquet")), tmp_path / "other").summary
    assert "service_budgets" not in one


def test_whole_rows_are_proven_where_asked(files: Any, tmp_path: Path) -> None:
    summary = run(run_config(files, integral=True), tmp_path / "run").summary
    assert -1e-12 <= summary["whole_rows"]["gap"] <= summary["lp_gap"] + 1e-12
    assert summary["whole_rows"]["value"] <= summary["value_at_budget"]["clairvoyant"] + 1e-9
    assert "whole_rows" not in run(run_config(files), tmp_path / "other").summary


@pytest.mark.parametrize(
    ("cls", "old", "new"),
    [(RunConfig, "log", "requests"), (OpeConfig, "log", "requests"), (TrainConfig, "logs", "requests"),
     (EvaluateConfig, "requests", "spec"), (NetConfig, "batch", "batch_size"), (NetConfig, "learning_rate", "lr"),
     (TreesConfig, "learning_rate", "lr")],
)  # fmt: skip
def test_renamed_keys_are_known(cls: Any, old: str, new: str) -> None:
    assert cls.RENAMED[old] == new
    assert new in cls.model_fields


@pytest.mark.parametrize("cls", [RunConfig, OpeConfig, TrainConfig])
def test_columns_under_the_name_of_the_path_say_where_they_belong(cls: Any, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("requests: {reward: money}\n")
    with pytest.raises(UserError, match="its columns belong under 'spec'") as stopped:
        load_config(cls, tmp_path / "old.yaml")
    assert "\n" not in str(stopped.value)


def test_evaluate_one_allocation(files: Any, tmp_path: Path) -> None:
    states = pd.read_parquet(files / "truth.parquet")[["tier", "place"]]
    keys, actions = state_keys(states), action_keys(SPEC)
    values = np.stack(pd.read_parquet(files / "truth.parquet")["q"])
    best = values.argmax(axis=1)
    table = pd.DataFrame({"state": keys, "action": actions[best], "count": 2})
    table.to_csv(tmp_path / "allocation.csv", index=False)
    config = EvaluateConfig.model_validate(
        {
            "spec": COLUMNS,
            "allocation": str(tmp_path / "allocation.csv"),
            "truth": str(files / "truth.parquet"),
            "costs": str(files / "costs.parquet"),
        }
    )
    summary = evaluate(config, tmp_path / "run").summary
    assert summary["value"] == pytest.approx(2 * float(values.max(axis=1).sum()), rel=1e-6)
    assert summary["return_pct"]["optimal"] == pytest.approx(100)
    assert summary["best_at_same_cost"]["return_pct"] == pytest.approx(100)
    table.assign(action="8_8_8").to_csv(tmp_path / "allocation.csv", index=False)
    with pytest.raises(UserError, match="row 1, column 'action': got '8_8_8'; expected a declared joint action"):
        evaluate(config, tmp_path / "other")


SMALL = {"trees": {"trees": 10, "min_rows": 20}, "nets": {"epochs": 3, "batch_size": 512}, "buckets": 20}


def train_config(files: Any, **changes: Any) -> Any:
    return TrainConfig.model_validate({"spec": COLUMNS, "requests": [str(files / "log.csv")], **SMALL, **changes})


def test_the_ground_truth_learns_the_log(files: Any, tmp_path: Path) -> None:
    result = train(train_config(files, nets={"epochs": 20, "batch_size": 512}, trees={"trees": 40}), tmp_path / "gt")
    truth = np.stack(pd.read_parquet(files / "truth.parquet")["q"])
    order = pd.Index(state_keys(result.scores.states)).get_indexer(
        state_keys(pd.read_parquet(files / "truth.parquet")[["tier", "place"]])
    )
    assert result.summary["held_out"]["ensemble"]["bucket_spearman"] > 0.85
    assert result.summary["held_out"]["ensemble"]["observed_over_predicted"] == pytest.approx(1.0, abs=0.1)
    assert spearman(result.scores.scores["truth"][order], truth) > 0.85
    loaded = GroundTruth.load(tmp_path / "gt", SPEC)
    np.testing.assert_array_equal(loaded.values(result.scores.states), result.scores.scores["truth"])
    assert (tmp_path / "gt/calibration.png").read_bytes()[:4] == b"\x89PNG"


def test_a_killed_training_goes_on_to_the_same_end(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(train_config(files), tmp_path / "whole")
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit_net(*arguments)

    monkeypatch.setattr(train_module, "fit_net", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(train_config(files), tmp_path / "cut")
    assert not (tmp_path / "cut/summary.json").exists()
    resumed = train(train_config(files), tmp_path / "cut")
    assert len(calls) == 3  # the first network was not fitted again
    assert resumed.summary == whole.summary
    np.testing.assert_array_equal(resumed.scores.scores["truth"], whole.scores.scores["truth"])
    assert (tmp_path / "cut/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_members_of_other_columns_are_refused(files: Any, tmp_path: Path) -> None:
    train(train_config(files), tmp_path / "gt")
    other = SPEC.model_copy(update={"sizes": {"a1": 3, "a2": 2, "a3": 5}})
    with pytest.raises(UserError, match="fitted on columns"):
        GroundTruth.load(tmp_path / "gt", other)
    with pytest.raises(UserError, match="no members"):
        GroundTruth.load(tmp_path, SPEC)


def test_the_command_line_leaves_one_line_and_code_2(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(
        f"requests: {files / 'log.csv'}\ntruth: missing.parquet\nmodels: {{a: missing.parquet}}\n"
    )
    with pytest.raises(SystemExit) as stopped:
        run_cli(run, RunConfig, default_config=str(tmp_path / "run.yaml"), default_out=str(tmp_path / "out"), argv=[])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: missing.parquet")
    assert error.count("\n") == 1
