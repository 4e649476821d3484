"""Judge a trained learner: ``python -m awrq_mixer.evaluate --config configs/awrq_mixer/evaluate.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from awrq_mixer.anchoring.global_profile import read_profile
from awrq_mixer.capture_figure import capture_figure
from awrq_mixer.config import EvaluateConfig
from awrq_mixer.judging.borne_out import View, borne_out_uplift, departures_worth
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.serving.stagewise import stagewise_lost
from awrq_mixer.training.training_log import logging_profile, read_by_time
from awrq_mixer.training.validation import comparison_groups, shape_gain
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.scores import read_scores, state_index
from marca_common.seeding import numpy_generator
from marca_measures.calibration import bucket_spearman, calibration, calibration_figure, prediction_errors
from marca_measures.frontier import capture_curve, frontier
from marca_measures.rank_correlation import TruthRanks, reference_scores, spearman


@dataclass
class EvaluateResult:
    """Metrics of one learner; ``curve`` is the capture curve where true values were given."""

    summary: dict[str, Any]
    curve: pd.DataFrame


def evaluate(config: EvaluateConfig, out: str | Path) -> EvaluateResult:
    """Metrics of a checkpoint on the test rows of a log; with ``truth``, also order, capture and regret against it.

    The test rows and the spec are those of the checkpoint's own training config. Writes summary.json, capture.csv,
    calibration.png and capture.png.
    """
    set_threads(config.threads)
    model = Predictor.load(config.checkpoint, config.device)
    name = model.config.learner
    with RunFolder(out, config) as run:
        train, _, test = read_by_time(config.requests, model.config)
        if len(test) < 20:
            raise UserError(f"{config.requests}: {len(test)} test rows; expected at least 20 (see split.test)")
        for note in model.encoder.clipped(test):
            run.warn(note)
        states, ids, _ = model.spec.distinct_states(test)
        sample, rows, place = _sample(ids, len(states), config)
        q = model.values(states.iloc[sample])
        observed = Observed.make(model, train, test.iloc[rows].reset_index(drop=True), q, place)
        summary: dict[str, Any] = {
            "learner": name,
            "test_rows": len(test),
            "sampled_states": len(sample),
            "observed": observed.metrics(config.buckets),
            "slices": observed.slices(config.slices, config.buckets),
            "seen_states": observed.part(observed.seen, config.buckets),
            "unseen_states": observed.part(~observed.seen, config.buckets),
        }
        buckets = calibration(observed.predicted, observed.reward, config.buckets)
        calibration_figure({name: buckets}, run.path / "calibration.png", f"{name}: calibration")
        if config.profile:
            summary["borne_out"] = borne_out(model, train, test, config)
        curve = pd.DataFrame()
        if config.truth:
            truth = read_truth(config.truth, model.spec.read(config.requests), model.spec)
            scored = model.values(truth.states)
            against = evaluate_scores(scored, truth.value, truth.cost, truth.requests, config.budgets)
            curve = pd.DataFrame(against.pop("curve"))
            budget, profile = float(np.sort(curve["budget"])[len(curve) // 2]), logging_profile(train, model.spec)
            against["stagewise_lost"] = lost_by_stage(scored, truth, profile, model.spec, budget)
            summary["truth"] = against
            curve.to_csv(run.path / "capture.csv", index=False)
            capture_figure(curve, run.path / "capture.png", name)
        run.write_summary(summary)
    return EvaluateResult(summary, curve)


def evaluate_scores(
    q: np.ndarray, truth: np.ndarray, cost: np.ndarray, weight: np.ndarray, budgets: list[float]
) -> dict[str, Any]:
    """Scores against the truth on a sample of states: ``q``, ``truth`` (S, A), ``cost`` (S, A, services), ``weight`` (S,).

    r_s over all pairs stands beside its two references, because most of it is the ranking of states; order within
    states, capture and regret are what decisions live on. ``capture`` is the mean over the budgets.
    """
    total, weight = cost.sum(2), np.asarray(weight, np.float64)
    references, ranks = reference_scores(truth, weight), TruthRanks(truth, weight)
    curve = capture_curve(q, total, truth, weight, budgets)
    return {
        "spearman": ranks.spearman(q),
        "spearman_state_value": ranks.spearman(references["state_value"]),
        "spearman_state_times_profile": ranks.spearman(references["state_times_profile"]),
        "spearman_within": ranks.spearman_within(q),
        "spearman_within_profile": ranks.spearman_within(references["state_times_profile"]),
        "capture": float(np.mean([row["capture"] for row in curve])),
        "regret": float(np.mean([row["regret"] for row in curve])),
        "least_spend": float(min(row["spend"] for row in curve)),
        "curve": curve,
    }


def borne_out(
    model: Predictor, train: pd.DataFrame, test: pd.DataFrame, config: EvaluateConfig
) -> dict[str, float | None]:
    """What revenue of the ``test`` rows bears out of the learner's departures and decisions, with standard errors.

    An error is None where too few rows paid.
    """
    assert config.profile
    rows, profile = test.iloc[-config.borne_out_rows :].reset_index(drop=True), read_profile(config.profile, model.spec)
    view = View.of(model.values, profile, rows, model.spec, seed=config.seed)
    measured = {"departures_worth": departures_worth(view)}
    if config.costs:
        cost = read_mean_costs(config.costs, pd.concat([train, test], ignore_index=True), model.spec)
        measured["borne_out_uplift"] = borne_out_uplift(view, cost)
    found: dict[str, float | None] = {}
    for name, one in measured.items():
        found |= {name: one.value, f"{name}_se": one.error if np.isfinite(one.error) else None}
    return found


@dataclass
class Observed:
    """Test rows of the sampled states with the model's view of them."""

    frame: pd.DataFrame
    predicted: np.ndarray  # (M,) Q of the logged action
    reward: np.ndarray  # (M,)
    group: np.ndarray  # (M,) rows that shape_gain compares with each other
    seen: np.ndarray  # (M,) was the row's state in the training rows

    @classmethod
    def make(
        cls, model: Predictor, train: pd.DataFrame, test: pd.DataFrame, q: np.ndarray, place: np.ndarray
    ) -> Observed:
        """Look the rows up in the scores ``q`` of their states ``place``."""
        spec = model.spec
        joint = spec.joint_index(test)
        known = state_index(train[list(spec.state)].drop_duplicates())
        seen = state_index(test[list(spec.state)]).isin(known)
        reward = test[spec.reward].to_numpy(np.float64)
        return cls(test, q[place, joint], reward, comparison_groups(test, spec), seen)

    def metrics(self, buckets: int, keep: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """What can be said without a truth."""
        predicted, reward = self.predicted[keep], self.reward[keep]
        return {
            "rows": len(reward),
            "spearman_rows": spearman(predicted, reward),
            "shape_gain": shape_gain(predicted, reward, self.group[keep]),
            "predicted_mean": float(predicted.mean()),
            "observed_mean": float(reward.mean()),
            "bucket_spearman": bucket_spearman(predicted, reward, buckets),
            **prediction_errors(calibration(predicted, reward, buckets)),
        }

    def part(self, keep: np.ndarray, buckets: int) -> dict[str, float]:
        """Metrics of some rows; nothing where there are too few to fill buckets."""
        return self.metrics(min(buckets, 10), keep) if keep.sum() >= 20 else {"rows": int(keep.sum())}

    def slices(self, columns: list[str], buckets: int) -> dict[str, dict[str, dict[str, float]]]:
        """Metrics by the values of each column, the ten most frequent ones."""
        result: dict[str, dict[str, dict[str, float]]] = {}
        for name in columns:
            if name not in self.frame:
                raise UserError(f"slices: no column {name!r} in the log; found {', '.join(self.frame.columns)}")
            values = self.frame[name].astype(str)
            result[name] = {
                str(value): self.part((values == value).to_numpy(), buckets)
                for value in values.value_counts().index[:10]
            }
        return result


@dataclass
class TruthSample:
    """The states of a truth file that the log visits."""

    states: pd.DataFrame
    value: np.ndarray  # (S, A) money per request
    cost: np.ndarray  # (S, A, services) core-ms per request
    requests: np.ndarray  # (S,) requests of the whole log in each state: the weight of a state


def read_truth(path: str, log: pd.DataFrame, spec: RequestSpec) -> TruthSample:
    """Read a wide score file with ``value`` and ``cost_<service>`` columns."""
    matrix = read_scores(path, spec)
    services = [name for name in matrix.scores if name.startswith("cost_")]
    if "value" not in matrix.scores or not services:
        found = ", ".join(pq.read_schema(path).names)
        raise UserError(f"{path}: expected score columns value and cost_<service>; found {found}")
    rows, requests = _visited(path, matrix.states, log, spec)
    cost = np.stack([matrix.scores[name][rows] for name in services], axis=2)
    states = matrix.states.iloc[rows].reset_index(drop=True)
    return TruthSample(states, matrix.scores["value"][rows], cost, requests)


def read_mean_costs(path: str, log: pd.DataFrame, spec: RequestSpec) -> np.ndarray:
    """Mean cost of each joint action over the requests of ``log``, all services together, (A,); a file with a score column per service."""
    matrix = read_scores(path, spec)
    rows, requests = _visited(path, matrix.states, log, spec)
    return np.asarray(np.average(np.sum(list(matrix.scores.values()), axis=0)[rows], axis=0, weights=requests))


def _visited(path: str, states: pd.DataFrame, log: pd.DataFrame, spec: RequestSpec) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``states`` that the log visits, and its requests there."""
    visited, _, counts = spec.distinct_states(log)
    place = state_index(visited).get_indexer(state_index(states))
    rows = np.flatnonzero(place >= 0)
    if not len(rows):
        raise UserError(f"{path}: holds none of the {len(visited)} states of the log")
    return rows, counts[place[rows]]


def lost_by_stage(q: np.ndarray, truth: TruthSample, profile: np.ndarray, spec: RequestSpec, budget: float) -> float:
    """Share of the objective lost by deciding stage by stage, at the price where scores ``q`` (S, A) spend ``budget``.

    The price is the same for every service. A budget that the scores cannot spend has the price 0.
    """
    spent = frontier(q, truth.cost.sum(2), q, truth.requests)
    step = int(np.searchsorted(spent.cost, budget))  # the climb that the budget ends in
    inside = 0 < step < len(spent.cost)
    price = np.diff(spent.value)[step - 1] / np.diff(spent.cost)[step - 1] if inside else 0.0
    lambda_ = np.full(truth.cost.shape[2], price)
    return stagewise_lost(q, truth.cost, lambda_, spec, profile, truth.requests)


def _sample(ids: np.ndarray, states: int, config: EvaluateConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A seeded sample of states, the rows that are in one of them, and the place of their state in the sample."""
    rng = numpy_generator(config.seed, "test_states")
    sample = np.sort(rng.choice(states, min(states, config.max_states), replace=False))
    place = np.full(states, -1)
    place[sample] = np.arange(len(sample))
    rows = np.flatnonzero(place[ids] >= 0)
    return sample, rows, place[ids[rows]]


if __name__ == "__main__":
    run_cli(
        evaluate, EvaluateConfig, default_config="configs/awrq_mixer/evaluate.yaml", default_out="runs/awrq_evaluation"
    )
