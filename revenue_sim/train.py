"""The ground truth of the offline comparison (§4.1.1, step 1): an ensemble on train and test logs, cross-fitted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from marca_common.checkpoint import content_of, load_checkpoint, save_checkpoint
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.config import Config
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.progress import MetricsLog, progress
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.scores import ScoreMatrix, write_scores
from marca_common.seeding import numpy_generator
from marca_common.spread import is_flat, require_earned
from marca_common.tables import write_table
from marca_measures.calibration import FLAT_MEANS, bucket_spearman, calibration, calibration_figure
from marca_measures.rank_correlation import spearman
from revenue_sim.config import path_not_columns
from revenue_sim.ground_truth.nets import NetConfig, NetModel, fit_net
from revenue_sim.ground_truth.trees import TreeModel, TreesConfig, fit_trees

_KINDS: dict[str, Any] = {"trees": TreeModel, "net": NetModel}


class TrainConfig(Config):
    """What ``python -m revenue_sim.train`` needs."""

    RENAMED: ClassVar[dict[str, str]] = {"logs": "requests"}

    spec: RequestSpec = Field(default=RequestSpec(), description="columns of the request logs")
    requests: list[str] = Field(min_length=1, description="request logs, train and test; all rows are used")
    folds: int = Field(default=2, ge=2, description="parts of the log; each is predicted by models of the others")
    trees: TreesConfig = Field(default=TreesConfig(), description="boosted trees, one per fold")
    nets: NetConfig = Field(default=NetConfig(), description="embedding networks")
    tree_weight: float = Field(default=0.35, ge=0, le=1, description="weight of the trees in the ensemble's mean")
    sample_states: int | None = Field(default=2000, ge=1, description="states to score, drawn by requests; null: all")
    buckets: int = Field(default=100, ge=3, description="buckets of rank correlation and calibration")
    threads: int = Field(default=1, ge=1, description="threads of each member's fitting")
    seed: int = Field(default=0, ge=0, description="seed of folds, members and the state sample")

    _path = field_validator("requests", mode="before")(path_not_columns)


class GroundTruth:
    """Mean of all members of all folds."""

    def __init__(self, spec: RequestSpec, members: list[tuple[float, TreeModel | NetModel]]) -> None:
        self.spec, self.members = spec, members

    @classmethod
    def load(cls, folder: str | Path, spec: RequestSpec, tree_weight: float = 0.35) -> GroundTruth:
        """Read the members that ``train`` left in ``folder``."""
        files = sorted((Path(folder) / "members").glob("*.pt"))
        if not files:
            raise UserError(f"{folder}: no members of a ground truth; expected the run folder of revenue_sim.train")
        kinds = [file.stem.split("_")[1] for file in files]
        if len({kinds.count(kind) for kind in {*kinds, "trees"}}) > 1:
            raise UserError(
                f"{folder}: members {', '.join(sorted(kinds))}; expected as many of each kind, trees among them"
            )
        loaded = [(kind, _load_member(file, spec)) for kind, file in zip(kinds, files)]
        return cls(spec, _weighted(loaded, tree_weight))

    def values(self, states: pd.DataFrame) -> np.ndarray:
        """Expected revenue of every joint action, float32 (S, A)."""
        total = np.zeros((len(states), self.spec.n_joint))
        for weight, member in self.members:
            total += weight * member.values(states)
        return total.astype(np.float32)


@dataclass
class TrainResult:
    """The fitted truth; ``summary`` is also in summary.json, the scores in ``out/truth.parquet``."""

    out: Path
    model: GroundTruth
    scores: ScoreMatrix
    summary: dict[str, Any]


def train(config: TrainConfig, out: str | Path) -> TrainResult:
    """Fit a cross-fitted ensemble of boosted trees and embedding networks and score a declared sample of states.

    Writes members/*.pt, truth.parquet (wide scores), calibration.csv and calibration.png. A run that was
    interrupted keeps the members it has finished.
    """
    set_threads(config.threads)
    spec = config.spec
    with RunFolder(out, config, resumes_from="members") as folder:
        frame = pd.concat([spec.read(path) for path in config.requests], ignore_index=True)
        _require_learnable(config, frame)
        for note in _odd_data(config, frame):
            folder.warn(note)
        members, held_out = _fit_all(config, frame, folder)
        model = GroundTruth(spec, _weighted(members, config.tree_weight))
        reward = frame[spec.reward].to_numpy(np.float64)
        states = _sample(config, frame)
        scores = ScoreMatrix(states, {"truth": model.values(states)})
        write_scores(scores, folder.path / "truth.parquet")
        summary = _summary(config, held_out, reward, len(states))
        _calibration(config, held_out, reward, folder.path)
        folder.write_summary(summary)
        return TrainResult(folder.out, model, scores, summary)


def _require_learnable(config: TrainConfig, frame: pd.DataFrame) -> None:
    """A UserError unless the rows that each fold's members learn from are at least 2 and have earned something."""
    place, reward = config.requests[0], frame[config.spec.reward].to_numpy(np.float64)
    if len(frame) < 2 * config.folds:
        raise UserError(f"{place}: {len(frame)} rows; expected at least two per fold ({config.folds})")
    config.spec.require_rows(len(frame), place)
    require_earned(reward, f"{place}: column {config.spec.reward!r}")
    fold = _folds(config, len(frame))
    for k in range(config.folds):
        if not (reward[fold != k] > 0).any():
            raise UserError(
                f"{place}: all revenue lies in fold {k + 1} of {config.folds}; expected some in each of the others"
            )


def _odd_data(config: TrainConfig, frame: pd.DataFrame) -> list[str]:
    """What a reader of the results must know of rows that teach little, a sentence each."""
    spec, reward = config.spec, frame[config.spec.reward].to_numpy()
    notes = StateEncoder.fit(frame, spec.state, config.requests[0]).constant_columns()
    for name in spec.sub_actions:
        if spec.sizes[name] > 1 and frame[name].nunique() == 1:
            notes.append(
                f"column {name!r} is {frame[name].iloc[0]} in all rows: what its other choices earn is guessed"
            )
    if is_flat(reward):
        notes.append(f"column {spec.reward!r} is {reward[0]:g} in all rows: no action is better than another")
    return notes


def _folds(config: TrainConfig, rows: int) -> np.ndarray:
    """Fold of each row, int64 (rows,)."""
    return np.asarray(numpy_generator(config.seed, "revenue_sim", "folds").permutation(rows) % config.folds)


def _fit_all(
    config: TrainConfig, frame: pd.DataFrame, folder: RunFolder
) -> tuple[list[tuple[str, Any]], dict[str, np.ndarray]]:
    """All members, and each kind's predictions of the rows it has not seen (with the ensemble's under 'ensemble')."""
    spec = config.spec
    fold = _folds(config, len(frame))
    names = ["trees", *(f"net{k}" for k in range(config.nets.members))]
    held_out = {name: np.zeros(len(frame)) for name in names}
    metrics = MetricsLog(
        folder.path / "metrics.csv", ["fold", "member", "rows", "bucket_spearman", "observed_over_predicted"]
    )
    members = []
    jobs = [(k, name) for k in range(config.folds) for name in names]
    for k, name in progress(jobs, what="ground truth", unit="member"):
        inside, outside = frame[fold != k], frame[fold == k]
        path = folder.path / "members" / f"fold{k}_{name}.pt"
        member = _member(config, inside, path, name, k, folder.resuming)
        predicted = member.rows(outside, spec)
        held_out[name][fold == k] = predicted
        observed = outside[spec.reward].to_numpy(np.float64)
        metrics.write(
            fold=k,
            member=name,
            rows=len(inside),
            bucket_spearman=bucket_spearman(predicted, observed, config.buckets),
            observed_over_predicted=_ratio(observed.sum(), predicted.sum()),
        )
        members.append((name, member))
    weights = _weights(names, config.tree_weight)
    held_out["ensemble"] = sum((weights[name] * held_out[name] for name in names), np.zeros(len(frame)))
    return members, held_out


def _member(config: TrainConfig, rows: pd.DataFrame, path: Path, name: str, fold: int, resuming: bool) -> Any:
    """Fit one member, or read it where an earlier run of this config has finished it."""
    spec = config.spec
    if resuming and path.exists():
        return _load_member(path, spec)
    member: TreeModel | NetModel
    if name == "trees":
        member = fit_trees(rows, spec, config.trees, config.seed, config.threads)
    else:
        member = fit_net(rows, spec, config.nets, config.seed, f"{name}-{fold}")
    save_checkpoint(path, f"revenue_sim.{_kind(path)}", _columns(spec), member.payload())
    return member


def _load_member(path: Path, spec: RequestSpec) -> Any:
    payload = load_checkpoint(path, f"revenue_sim.{_kind(path)}", _columns(spec))
    with content_of(path):
        return _KINDS[_kind(path)].from_payload(payload, spec)


def _kind(path: Path) -> str:
    return "trees" if path.stem.endswith("trees") else "net"


def _columns(spec: RequestSpec) -> list[str]:
    return [*spec.state, *(f"{name}:{spec.sizes[name]}" for name in spec.sub_actions)]


def _weights(names: list[str], tree_weight: float) -> dict[str, float]:
    """Weight of each member of a fold; they sum to 1."""
    nets = sum(name != "trees" for name in names)
    share = tree_weight if nets else 1.0
    return {name: share if name == "trees" else (1.0 - share) / nets for name in names}


def _weighted(members: list[tuple[str, Any]], tree_weight: float) -> list[tuple[float, Any]]:
    weights = _weights(sorted({name for name, _ in members}), tree_weight)
    folds = sum(name == "trees" for name, _ in members)
    return [(weights[name] / folds, member) for name, member in members]


def _sample(config: TrainConfig, frame: pd.DataFrame) -> pd.DataFrame:
    """States to score: drawn without replacement by their share of requests, in order of first appearance."""
    states, _, counts = config.spec.distinct_states(frame)
    if config.sample_states is None or config.sample_states >= len(states):
        return states
    generator = numpy_generator(config.seed, "revenue_sim", "sample")
    chosen = generator.choice(len(states), config.sample_states, replace=False, p=counts / counts.sum())
    return states.iloc[np.sort(chosen)].reset_index(drop=True)


def _summary(config: TrainConfig, held_out: dict[str, np.ndarray], reward: np.ndarray, states: int) -> dict[str, Any]:
    def judged(predicted: np.ndarray) -> dict[str, float]:
        means = calibration(predicted, reward, config.buckets)
        level = is_flat(means["predicted"].to_numpy(), FLAT_MEANS)
        slope = float("nan") if level else float(np.polyfit(means["predicted"], means["observed"], 1)[0])
        return {
            "bucket_spearman": bucket_spearman(predicted, reward, config.buckets),
            "spearman_rows": spearman(predicted, reward),
            "observed_over_predicted": _ratio(reward.sum(), predicted.sum()),
            "calibration_slope": slope,
        }

    return {
        "held_out": {name: judged(predicted) for name, predicted in held_out.items()},
        "rows": len(reward),
        "states": states,
        "seed": config.seed,
    }


def _ratio(over: float, under: float) -> float:
    """A ratio of sums; NaN over nothing."""
    return float(over / under) if under > 0 else float("nan")


def _calibration(config: TrainConfig, held_out: dict[str, np.ndarray], reward: np.ndarray, folder: Path) -> None:
    """Bucket means of prediction and observation, as a table and a figure."""
    curves = {name: calibration(predicted, reward, min(config.buckets, 20)) for name, predicted in held_out.items()}
    parts = [curve.drop(columns="rows").assign(member=name) for name, curve in curves.items()]
    table = pd.concat(parts, ignore_index=True)[["member", "predicted", "observed"]]
    write_table(table, folder / "calibration.csv")
    calibration_figure(curves, folder / "calibration.png", "Ground truth: calibration on rows not seen in fitting")


if __name__ == "__main__":
    run_cli(train, TrainConfig, default_config="configs/revenue_sim/train.yaml", default_out="runs/ground_truth")
