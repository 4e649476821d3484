"""Which estimator predicts what actions result in, and what its costs are worth: DCN-v2 + MMoE against its rivals.

``python -m benchmarks.cost_estimators [--quick]`` trains every estimator on the same log, split by time, with several
seeds; judges each on the latest tenth (each task by its own metric, beside the noise floor that the world's truth gives);
turns its predictions into costs with the same cost maps; and reports the error of C against the truth and the revenue
lost when C is predicted instead of true. Writes ``cost_estimators[_quick].csv`` and a PNG. Finished runs are reused.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import torch

from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.cost_model import CostModel
from autobucket.evaluate import binary_metrics, regression_metrics
from autobucket.fit_costs import fit_costs
from autobucket.results.estimator import Estimator
from autobucket.results.estimator_config import TaskConfig, TrainConfig
from autobucket.results.log_rows import read_log, split
from autobucket.results.tasks import Task
from autobucket.train import train
from benchmarks._results import add_keep
from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from cascade_world.world import Truth, load_truth
from marca_common.config import load_config, to_dict
from marca_common.cost_maps import CostMaps
from marca_common.figures import new_figure, save_figure
from marca_common.files import read_json, write_json
from marca_common.requests import RequestSpec
from marca_common.run_folder import versions
from marca_common.seeding import integer_seed, numpy_generator
from marca_common.tables import write_table
from marca_measures.clairvoyant import clairvoyant

ROOT = Path("runs/benchmarks/cost_estimators")
TASKS: dict[str, dict[str, Any]] = {
    "retrieved": {"loss": "share"},
    "preranked": {"loss": "share"},
    "clicks": {"loss": "bce", "above": 0.0},
}
OWN_METRIC = {"retrieved": "mae", "preranked": "mae", "clicks": "auc"}
# DCN-v2 has the sizes of configs/autobucket/default.yaml, the smallest that were as good on a development seed; its rivals are
# larger. All share that file's optimiser settings.
NETWORKS: dict[str, dict[str, Any]] = {
    "DCN-v2+MMoE": {},
    "DCN-v1+MMoE": {"cross": "v1", "cross_layers": 3, "deep": [128, 64], "experts": 4},
    "MLP+embeddings": {"cross": "none", "deep": [256, 128], "experts": 1, "expert_units": 64},
    "public code's way": {
        "cross": "v1",
        "deep": [64, 32],
        "tower": [],
        "ids": "standardised",
        "cross_layers": 3,
        "experts": 4,
    },
}
PLAIN = "public code's way"  # learns results in items with squared error, as that code does; all others learn shares
LIGHTGBM_GRID = [{"num_leaves": leaves, "min_data_per_group": 20, "cat_smooth": 5} for leaves in (63, 255)]
_STATES = 300  # states whose 1,000 joint actions are scored against the truth


@dataclass
class Setting:
    """What all estimators share."""

    folder: Path
    config: TrainConfig
    parts: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
    truth: Truth
    states: pd.DataFrame
    maps: Path


def prepare(world: str, epochs: int) -> Setting:
    """Generate the world once, fit its cost maps, split its log."""
    folder = ROOT / world
    if not (folder / "world/summary.json").exists():
        generate(load_config(WorldConfig, f"configs/cascade_world/{world}.yaml"), folder / "world")
    costs = load_config(
        FitCostsConfig, "configs/autobucket/costs.yaml", [f"loadtest={folder / 'world/logs/loadtest.csv'}"]
    )
    fit_costs(costs, folder / "costs")
    truth = load_truth(folder / "world")
    values = to_dict(load_config(TrainConfig, "configs/autobucket/default.yaml"))
    values["data"] |= {
        "requests": str(folder / "world/logs/requests.parquet"),
        "spec": to_dict(truth.request_spec()),
    }
    values["tasks"] = TASKS
    values["optimiser"] |= {"epochs": epochs}
    config = TrainConfig.model_validate(values)
    parts = split(config.data, read_log(config.data, config.tasks))
    states = config.data.spec.distinct_states(parts[2])[0]
    pick = numpy_generator(0, "cost_estimators", "states").choice(len(states), _STATES, replace=False)
    return Setting(
        folder, config, parts, truth, states.iloc[pick].reset_index(drop=True), folder / "costs/cost_maps.json"
    )


def network(setting: Setting, name: str, seed: int) -> dict[str, Any]:
    """Train one of the networks and judge it."""
    values = to_dict(setting.config)
    values["model"] |= NETWORKS[name]
    if name == PLAIN:
        values["tasks"] = {
            task: {**options, "loss": "mse"} if options["loss"] == "share" else options
            for task, options in TASKS.items()
        }
    values["seed"] = seed
    out = setting.folder / f"{name.split()[0]}-{seed}"
    result = train(TrainConfig.model_validate(values), out)
    estimator = result.estimator
    started = time.process_time()
    predicted = estimator.predict(setting.parts[2])
    row_rate = len(setting.parts[2]) / (time.process_time() - started)
    started = time.process_time()
    results = estimator.results(setting.states, ["retrieved", "preranked"])
    pair_rate = results["retrieved"].size / (time.process_time() - started)
    rates = {
        "lr": setting.config.optimiser.lr,
        "batch_size": setting.config.optimiser.batch_size,
        "train_rows_per_s": result.summary["train_rows_per_cpu_s"],
        "score_rows_per_s": row_rate,
        "score_pairs_per_s": pair_rate,
        "train_s": result.summary["train_cpu_s"],
    }
    return judge(setting, predicted, results) | rates


def boosted_trees(setting: Setting, seed: int, rounds: int, shares: bool = False) -> dict[str, Any]:
    """LightGBM with native categories, one model per task, the best of a grid by validation loss.

    ``shares``: it learns the share of the action's largest result with a logistic loss, as the networks do.
    """
    spec = setting.config.data.spec
    features = [_features(part, spec, setting.parts[0]) for part in setting.parts]
    joint = setting.states.loc[setting.states.index.repeat(spec.n_joint)].reset_index(drop=True)
    joint[list(spec.sub_actions)] = np.tile(spec.joint_table(), (len(setting.states), 1))
    pairs = _features(joint, spec, setting.parts[0])
    predicted, results, seconds, rows, score_s = {}, {}, 0.0, 0, 0.0
    for task, options in TASKS.items():
        labels = [part[task].to_numpy(np.float64) for part in setting.parts]
        labels = [(y > 0).astype(float) for y in labels] if options["loss"] == "bce" else labels
        objective = "binary" if options["loss"] == "bce" else "regression"
        caps = [np.ones(1)] * 4
        if shares and options["loss"] == "share":
            learnt = Task.fit(
                task, TaskConfig(loss="share"), labels[0], spec.joint_index(setting.parts[0]), spec.n_joint
            )
            assert learnt.caps is not None
            caps = [learnt.caps.double().numpy()[spec.joint_index(rows)] for rows in (*setting.parts, joint)]
            labels, objective = [np.minimum(y / cap, 1) for y, cap in zip(labels, caps)], "cross_entropy"
        best: lightgbm.Booster | None = None
        for grid in LIGHTGBM_GRID:
            started = time.process_time()
            model = _boost(features, labels, objective, grid, seed, rounds, caps)
            seconds += time.process_time() - started
            rows += len(labels[0]) * model.best_iteration
            if best is None or _validation(model) < _validation(best):
                best = model
        assert best is not None
        started = time.process_time()
        predicted[task] = np.maximum(best.predict(features[2], num_threads=1), 0) * caps[2]
        score_s += time.process_time() - started
        if options["loss"] != "bce":
            values = np.maximum(best.predict(pairs, num_threads=1), 0) * caps[3]
            results[task] = values.reshape(len(setting.states), -1).astype(np.float32)
    rates = {
        "train_rows_per_s": len(TASKS) * len(LIGHTGBM_GRID) * len(setting.parts[0]) / seconds,
        "score_rows_per_s": len(setting.parts[2]) / score_s,
        "score_pairs_per_s": len(setting.parts[2]) / score_s,
        "train_s": seconds / len(LIGHTGBM_GRID),
    }
    return judge(setting, predicted, results) | rates


def noise_floor(setting: Setting) -> dict[str, Any]:
    """The world's own expected results as predictions: nothing that sees the same columns can do better on average."""
    truth, test, spec = setting.truth, setting.parts[2], setting.config.data.spec
    tables = truth.world.tables
    classes, joint = truth.latent(test)["class"].to_numpy(), spec.joint_index(test)
    predicted = {
        "retrieved": tables.retrieved[classes, joint],
        "preranked": tables.preranked[classes, joint],
        "clicks": 1 - tables.p0[classes, joint],
    }
    at = truth.latent(setting.states)["class"].to_numpy()
    results = {name: getattr(tables, name)[at].astype(np.float32) for name in ("retrieved", "preranked")}
    return judge(setting, predicted, results)


def judge(setting: Setting, predicted: dict[str, np.ndarray], results: dict[str, np.ndarray]) -> dict[str, Any]:
    """Each task's metrics on the test rows, and what the results' costs are worth."""
    row: dict[str, Any] = {}
    for task, options in TASKS.items():
        labels = setting.parts[2][task].to_numpy(np.float64)
        binary = options["loss"] == "bce"
        found = (binary_metrics if binary else regression_metrics)(labels > 0 if binary else labels, predicted[task])
        row |= {f"{task}_{metric}": value for metric, value in found.items()}
    return row | cost_value(setting, results)


def cost_value(setting: Setting, results: dict[str, np.ndarray]) -> dict[str, float]:
    """Error of C against the truth, and revenue lost by deciding with it at the world's budget.

    Both decide by argmax Q − λC with the true Q; λ keeps the direction of the clairvoyant's prices and is scaled until the
    *true* spending meets the budget, as a controller would see to it.
    """
    model = CostModel(_any_estimator(setting), CostMaps.load(setting.maps))
    costs = model.from_results(results, model.idc_codes(setting.states))
    true, values = setting.truth.costs(setting.states), setting.truth.values(setting.states)
    budget = np.min(list(setting.truth.world.budgets().values()), axis=0)
    lambda_ = clairvoyant(values, true, budget).lambda_
    best, own = (_earned(values, used, true, budget, lambda_) for used in (true, costs))
    return {
        "cost_error_pct": float(100 * np.abs(costs - true).sum() / true.sum()),
        "cost_median_error_pct": float(100 * np.median(np.abs(costs.sum(2) / true.sum(2) - 1))),
        "revenue_lost_pct": 100 * (1 - own / best),
    }


def _earned(values: np.ndarray, used: np.ndarray, true: np.ndarray, budget: np.ndarray, lambda_: np.ndarray) -> float:
    """Revenue per state of argmax Q − s·λ·used, interpolated to where the tightest service truly spends its budget."""

    def decide(scale: float) -> tuple[float, float]:
        choice = np.argmax(values - (used * (scale * lambda_).astype(np.float32)).sum(2), axis=1)
        rows = np.arange(len(values))
        return float(values[rows, choice].mean()), float((true[rows, choice].mean(axis=0) / budget).max())

    low, high = 1e-3, 1e3  # spends too much, spends too little
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if decide(middle)[1] > 1 else (low, middle)
    (q_over, over), (q_under, under) = decide(low), decide(high)
    share = (1 - under) / (over - under) if over > under else 0.0
    return q_under + share * (q_over - q_under)


def _any_estimator(setting: Setting) -> Estimator:
    """The cost model needs an estimator's columns only; its results come from the caller."""
    path = setting.folder / "columns"
    values = to_dict(setting.config)
    values["data"] |= {"max_rows": 2000}
    values["optimiser"] |= {"epochs": 1}
    values["model"] |= {"deep": [4], "experts": 1, "cross": "none"}
    return train(TrainConfig.model_validate(values), path).estimator


def _features(frame: pd.DataFrame, spec: RequestSpec, reference: pd.DataFrame) -> pd.DataFrame:
    states = {
        name: pd.Categorical(frame[name].astype(str), categories=sorted(reference[name].astype(str).unique()))
        for name in spec.state
    }
    return pd.DataFrame(states | {name: frame[name].to_numpy() for name in spec.sub_actions})


def _boost(
    features: Sequence[pd.DataFrame],
    labels: Sequence[np.ndarray],
    objective: str,
    grid: dict[str, Any],
    seed: int,
    rounds: int,
    weights: Sequence[np.ndarray],
) -> lightgbm.Booster:
    scaled = [None if len(weight) == 1 else weight / weights[0].mean() for weight in weights]
    sets = [lightgbm.Dataset(features[0], labels[0], weight=scaled[0])]
    sets.append(lightgbm.Dataset(features[1], labels[1], weight=scaled[1], reference=sets[0]))
    fixed = {
        "learning_rate": 60 / rounds,
        "num_threads": 1,
        "verbose": -1,
        "seed": integer_seed(seed, "lightgbm") % 2**31,
    }
    parameters = {"objective": objective, **fixed, **grid}
    stop = lightgbm.early_stopping(20, verbose=False)
    return lightgbm.train(parameters, sets[0], rounds, valid_sets=[sets[1]], valid_names=["v"], callbacks=[stop])


def _validation(model: lightgbm.Booster) -> float:
    return next(iter(model.best_score["v"].values()))


def draw(table: pd.DataFrame, path: Path) -> None:
    """A bar per estimator and task metric, the noise floor as a line."""
    shown = [*(f"{task}_{metric}" for task, metric in OWN_METRIC.items()), "cost_error_pct"]
    titles = ["MAE of retrieved, items", "MAE of preranked, items", "AUC of a click", "error of C, % of its sum"]
    figure, axes = new_figure(1, 4, width=13, height=3.4)
    models = [name for name in dict.fromkeys(table["estimator"]) if name != "noise floor"]
    for axis, column, title in zip(axes, shown, titles):
        by = table.groupby("estimator")[column].agg(["mean", "std"]).loc[models]
        axis.barh(models, by["mean"], xerr=by["std"].fillna(0), height=0.6)
        axis.axvline(table.loc[table["estimator"] == "noise floor", column].iloc[0], color="k", lw=1, ls="--")
        axis.invert_yaxis()
        axis.set_title(title)
        if column.endswith("auc"):
            axis.set_xlim(left=0.5)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    figure.suptitle("Predicting what actions result in (dashed: noise floor)")
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="demo world (350,000 rows), one seed, 4 epochs")
    add_keep(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    setting = prepare("demo", 4) if arguments.quick else prepare("base", 6)
    seeds = [100] if arguments.quick else [100, 101, 102]
    jobs: dict[str, Callable[[int], dict[str, Any]]] = {"noise floor": lambda _: noise_floor(setting)}
    jobs |= {name: partial(network, setting, name) for name in NETWORKS}
    rounds = 300 if arguments.quick else 600
    jobs["LightGBM"] = lambda seed: boosted_trees(setting, seed, rounds)
    jobs["LightGBM, shares"] = lambda seed: boosted_trees(setting, seed, rounds, shares=True)
    records = []
    for name, job in jobs.items():
        for seed in seeds[:1] if name == "noise floor" else seeds:
            kept = setting.folder / "judged" / f"{name.replace(' ', '_')}-{seed}.json"
            if not kept.exists():
                write_json(kept, job(seed))
            records.append({"estimator": name, "world": setting.folder.name, "seed": seed} | read_json(kept))
            print({key: round(value, 4) for key, value in records[-1].items() if isinstance(value, float)}, name, seed)
    stamp = {f"version_{key}": str(value) for key, value in versions().items()}
    table = pd.DataFrame(records).assign(rows=len(setting.parts[0]), **stamp)
    stem = "cost_estimators_quick" if arguments.quick else "cost_estimators"
    write_table(table, arguments.results / f"{stem}.csv")
    draw(table, arguments.results / f"{stem}.png")


if __name__ == "__main__":
    main()
