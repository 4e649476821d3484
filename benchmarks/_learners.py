"""What the learner tables compare: each learner's settings, the paper's own figures, and one run of one learner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from awrq_mixer.config import TrainConfig
from awrq_mixer.evaluate import evaluate_scores
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.train import TrainResult, train
from benchmarks._references import REFERENCES
from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from cascade_world.world import Truth, load_truth
from marca_common.config import content_hash, load_config
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from revenue_sim.judging.return_pct import return_pct
from revenue_sim.quotas import quota

BUDGETS = [0.04, 0.08, 0.12, 0.2, 0.3]  # shares of the way from the cheapest to the clairvoyant's largest useful spend
CONFIGS = Path("configs/awrq_mixer")

# Columns whose equal values are one state's rows, where they are others than the configs', for configs that name any.
HISTORY = {"manifold": ["user", "placement"]}
REMEMBERING = {
    "awrq_plus.yaml": "stack",
    **dict.fromkeys(["latent_classes.yaml", "low_rank.yaml", "neural_process.yaml"], "plus"),
}

# Learners with a target network. `demo.yaml` has τ = 1, no target network; the paper has τ = 100 (rows `<learner>_tau_100`).
BOOTSTRAPPING = ["dqn", "ddqn", "drqn", "averaged_dqn", "rem", "awrq_mixer"]
# What stands in every table: references that know nothing of a request, and the strongest rivals given what awrq_plus is given.
ALWAYS = [*REFERENCES, "glm"]

# Row name → (config file, overrides). What `benchmarks.tune_learners` chose is added to them.
LEARNERS: dict[str, tuple[str, list[str]]] = {
    "profile_true": ("demo.yaml", ["learner=glm"]),  # scored by benchmarks._references; the GLM gives levels
    "profile_estimated": ("demo.yaml", ["learner=glm"]),
    "glm": ("demo.yaml", ["learner=glm"]),
    "dqn": ("demo.yaml", ["learner=dqn"]),
    "dqn_joint": ("demo.yaml", ["learner=dqn_joint"]),
    "dqn_reward_everywhere": ("demo.yaml", ["learner=dqn_reward_everywhere"]),
    "ddqn": ("demo.yaml", ["learner=ddqn"]),
    "drqn": ("demo.yaml", ["learner=drqn"]),
    "drqn_sees_actions": ("demo.yaml", ["learner=drqn", "network.drqn_observe=own"]),
    "averaged_dqn": ("demo.yaml", ["learner=averaged_dqn"]),
    "rem": ("demo.yaml", ["learner=rem"]),
    "vdn": ("demo.yaml", ["learner=vdn"]),
    "wqmix": ("demo.yaml", ["learner=wqmix"]),
    "qmix": ("demo.yaml", ["learner=qmix"]),
    "awrq_mixer": ("demo.yaml", []),
    "awrq_residual": ("demo.yaml", ["learner=awrq_residual"]),
    "regression": ("demo.yaml", ["learner=regression"]),
    "regression_mse": ("demo.yaml", ["learner=regression", "loss.kind=mse"]),
    "lightgbm": ("demo.yaml", ["learner=lightgbm"]),
    "lightgbm_mse": ("demo.yaml", ["learner=lightgbm", "loss.kind=mse"]),
    "regression_surrogate": ("demo.yaml", ["learner=regression", "plus.surrogate=predicted_value"]),
    "lightgbm_surrogate": ("demo.yaml", ["learner=lightgbm", "plus.surrogate=predicted_value"]),
    "awrq_residual_surrogate": ("demo.yaml", ["learner=awrq_residual", "plus.surrogate=predicted_value"]),
    "neural_process": ("neural_process.yaml", []),
    "lightgbm_history": ("latent_classes.yaml", ["learner=lightgbm_history"]),
    "low_rank": ("low_rank.yaml", []),
    "latent_classes": ("latent_classes.yaml", []),
    "latent_classes_member": ("latent_classes.yaml", ["plus.classes=128"]),  # as in the stack, whatever tuning chose
    "low_rank_member": ("low_rank.yaml", []),
    "latent_no_surrogate": ("latent_classes.yaml", ["plus.surrogate=null"]),
    "latent_no_history": ("latent_classes.yaml", ["plus.history=[]"]),
    "latent_one_class": ("latent_classes.yaml", ["plus.classes=1"]),
    "latent_one_member": ("latent_classes.yaml", ["plus.members=1"]),
    "latent_no_pairs": ("latent_classes.yaml", ["plus.pairs=false"]),
    "told_classes": ("latent_classes.yaml", []),
    "awrq_plus": ("awrq_plus.yaml", []),
    "awrq_plus_not_crossed": ("awrq_plus.yaml", ["stack.cross_fit=false"]),
    "no_aw": ("demo.yaml", ["learner=awrq_no_aw"]),
    "no_smc": ("demo.yaml", ["learner=awrq_no_smc"]),
    "no_vgca": ("demo.yaml", ["learner=awrq_no_vgca"]),
    **{f"gamma_{g}": ("demo.yaml", [f"td.gamma={g}"]) for g in ("0.70", "0.80", "0.90", "0.99")},
    **{f"heads_{k}": ("demo.yaml", [f"network.heads={k}"]) for k in (1, 5, 20, 100, 200)},
    **{f"{name}_tau_100": ("demo.yaml", [f"learner={name}", "td.target_update=100"]) for name in BOOTSTRAPPING},
    "awrq_mixer_bf16": ("demo.yaml", ["precision=bf16"]),
    "awrq_mse": ("demo.yaml", ["loss.kind=mse"]),
    "awrq_mse_heads_20": ("demo.yaml", ["loss.kind=mse", "network.heads=20"]),
    "no_aw_mse": ("demo.yaml", ["learner=awrq_no_aw", "loss.kind=mse"]),
    "no_aw_mse_heads_20": ("demo.yaml", ["learner=awrq_no_aw", "loss.kind=mse", "network.heads=20"]),
    "no_aw_heads_20": ("demo.yaml", ["learner=awrq_no_aw", "network.heads=20"]),
    **{f"head_loss_{w}": ("demo.yaml", [f"td.head_loss_weight={w}"]) for w in ("0", "0.1")},
}
TABLES: dict[str, list[str]] = {
    "1": [
        "dqn", "ddqn", "drqn", "averaged_dqn", "rem", "vdn", "wqmix", "qmix", "awrq_mixer", "awrq_residual", "regression", "lightgbm",
        "awrq_residual_surrogate", "regression_surrogate", "lightgbm_surrogate", "neural_process", "lightgbm_history", "low_rank",
        "latent_classes", "low_rank_member", "latent_classes_member", "awrq_plus", "told_classes", *ALWAYS, "dqn_joint", "dqn_reward_everywhere", "drqn_sees_actions", "regression_mse",
        "lightgbm_mse", "latent_no_surrogate", "latent_no_history", "latent_one_class", "latent_one_member",
        "latent_no_pairs", "awrq_plus_not_crossed",
    ],
    "2": ["awrq_mixer", "no_aw", "no_smc", "no_vgca", *ALWAYS],
    "aw": [
        "awrq_mixer", "no_aw", "heads_20", "no_aw_heads_20", "awrq_mse", "no_aw_mse", "awrq_mse_heads_20",
        "no_aw_mse_heads_20", *ALWAYS,
    ],
    "precision": ["awrq_mixer", "awrq_mixer_bf16", *ALWAYS],
    "gamma": [*(name for name in LEARNERS if name.startswith("gamma_")), *ALWAYS],
    "heads": [*(name for name in LEARNERS if name.startswith("heads_")), *ALWAYS],
    "head_loss": ["qmix", "awrq_mixer", "head_loss_0.1", "head_loss_0", *ALWAYS],
    "tau": [name for one in BOOTSTRAPPING for name in (one, f"{one}_tau_100")] + ALWAYS,
}  # fmt: skip
# The paper's Spearman r_s and Return% (Tables 1 and 2, §4), on its own private logs.
PAPER: dict[str, tuple[float, float | None]] = {
    "dqn": (0.859, 82.59), "ddqn": (0.860, 85.46), "drqn": (0.862, 86.82), "averaged_dqn": (0.870, 87.48),
    "rem": (0.881, 89.47), "vdn": (0.896, 95.10), "wqmix": (0.900, 95.65), "qmix": (0.902, 96.00),
    "awrq_mixer": (0.911, 97.26), "no_aw": (0.910, 97.17), "no_smc": (0.908, 96.92), "no_vgca": (0.906, 96.71),
    "gamma_0.70": (0.9096, None), "gamma_0.80": (0.9107, None), "gamma_0.90": (0.9112, None),
    "gamma_0.99": (0.9105, None), "heads_1": (0.9065, None), "heads_5": (0.9081, None), "heads_20": (0.9112, None),
    "heads_100": (0.9118, None), "heads_200": (0.9120, None),
}  # fmt: skip


# Rows that are variants of a learner take over what was tuned for it; all others were tuned themselves.
VARIANT_OF = {
    "drqn_sees_actions": "drqn", "regression_mse": "regression", "lightgbm_mse": "lightgbm", "told_classes": "latent_classes",
    **dict.fromkeys(REFERENCES, "glm"), **{f"{name}_tau_100": name for name in BOOTSTRAPPING},
    **{name: "latent_classes" for name in LEARNERS if name.startswith("latent_") and "classes" not in name},
    **dict.fromkeys(["awrq_plus_not_crossed", "latent_classes_member", "low_rank_member"], "awrq_plus"),
    **{name: "awrq_mixer" for name in LEARNERS if name.startswith(("no_", "awrq_mse", "awrq_mixer_bf16", "gamma_", "heads_", "head_loss_"))},
}  # fmt: skip
TUNING = Path(__file__).parent / "results" / "tuning.csv"


def tuned(learner: str) -> list[str]:
    """Overrides that tuning chose for a learner (the stored ``tuning.csv``); none before it was run."""
    if not TUNING.exists():
        return []
    table = pd.read_csv(TUNING, keep_default_na=False)
    chosen = table[(table["learner"] == VARIANT_OF.get(learner, learner)) & (table["chosen"] == 1)]
    return chosen["setting"].iloc[0].split() if len(chosen) else []


@dataclass(frozen=True)
class Job:
    """One learner on one world and seed."""

    learner: str
    world: str  # config of the world
    seed: int
    rows: int
    epochs: float | None  # None: the learner's own
    folder: Path  # worlds and runs
    setting: tuple[str, ...] | None = None  # overrides; None: what tuning chose


def world_folder(job: Job) -> Path:
    """Where the job's world stands."""
    return job.folder / f"{Path(job.world).stem}_{job.seed}_{job.rows}"


def make_world(job: Job) -> None:
    """Generate the job's world unless it stands there already."""
    if not (world_folder(job) / "summary.json").exists():
        overrides = [f"seed={job.seed}", f"logs.requests={job.rows}", "logs.system_days=1", "workers=1"]
        generate(load_config(WorldConfig, job.world, overrides), world_folder(job))


def run_job(job: Job) -> dict[str, Any]:
    """Train, score a seeded sample of test states, judge; one row of the runs table."""
    make_world(job)
    folder = world_folder(job)
    truth = load_truth(folder)
    spec = truth.request_spec()
    requests, told = folder / "logs/requests.parquet", job.learner == "told_classes"
    if told:
        requests, spec = _told_log(truth, folder, spec)
    config, result = train_job(job, requests, spec)
    kept = (
        "samples_to_95_percent",
        "gradient_variance",
        "train_s",
        "samples",
        "validation_shape_gain",
        "eta_least",
        "eta_most",
    )
    training = {key: result.summary.get(key) for key in kept}
    known = {"learner": job.learner, "world": Path(job.world).stem, "seed": job.seed, "rows": job.rows}
    return known | judge(job, config, result.model, truth) | training


def judge(job: Job, config: TrainConfig, model: Predictor, truth: Truth) -> dict[str, float]:
    """Order, capture and Return% of a trained learner on a seeded sample of test states."""
    states, counts, joint = sample_states(config.spec, config, job.seed)
    value, cost = truth.values(states), truth.costs(states)
    scores_of = REFERENCES.get(job.learner)
    scored = scores_of(model, states, value, counts) if scores_of else model.values(states)
    judged = evaluate_scores(scored, value, cost, counts, BUDGETS)
    curve = judged.pop("curve")
    judged |= {f"capture_{share}": row["capture"] for share, row in zip(BUDGETS, curve)}
    return judged | _returns(scored, value, counts, joint)


def train_job(job: Job, requests: Path, spec: RequestSpec, more: Sequence[str] = ()) -> tuple[TrainConfig, TrainResult]:
    """Train the job's learner on a log, under its tuned setting or the job's own; a finished run on the same log is reused.

    ``more`` overrides come last.
    """
    config, chosen = config_of(job, requests, spec, more)
    out = f"{world_folder(job).name}_{job.learner}_{job.epochs or 'own'}_{content_hash([chosen, str(requests)])[:8]}"
    return config, train(config, job.folder / "runs" / out)


def config_of(job: Job, requests: Path, spec: RequestSpec, more: Sequence[str] = ()) -> tuple[TrainConfig, list[str]]:
    """The job's training config, and the overrides that tuning or somebody chose."""
    name, overrides = LEARNERS[job.learner]
    setting = tuned(job.learner) if job.setting is None else list(job.setting)
    extra = [f"requests={requests}", f"seed={job.seed}", f"spec={json.dumps(spec.model_dump(mode='json'))}"]
    extra += [f"epochs={job.epochs}"] if job.epochs else []
    columns = HISTORY.get(Path(job.world).stem)
    if columns and name in REMEMBERING:
        extra.append(f"{REMEMBERING[name]}.history={json.dumps(columns)}")
    return load_config(TrainConfig, CONFIGS / name, [*setting, *overrides, *extra, *more]), [*setting, *more]


def sample_states(
    spec: RequestSpec, config: TrainConfig, seed: int, size: int = 1000
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """A seeded sample of distinct test states: states, requests of each, and their rows' joint actions."""
    frame = spec.read(config.requests)
    test = frame.iloc[round(len(frame) * (config.split.train + config.split.validation)) :].reset_index(drop=True)
    states, ids, counts = spec.distinct_states(test)
    keep = np.sort(numpy_generator(seed, "table_states").choice(len(states), min(size, len(states)), replace=False))
    rows = np.flatnonzero(np.isin(ids, keep))
    return states.iloc[keep].reset_index(drop=True), counts[keep], spec.joint_index(test.iloc[rows])


def _returns(scores: np.ndarray, truth: np.ndarray, counts: np.ndarray, joint: np.ndarray) -> dict[str, float]:
    """Return% (Eq. 20) under the test log's own action quotas, with the paper's greedy rule and the optimal transport."""
    quotas = np.bincount(joint, minlength=truth.shape[1])
    found = {}
    for name, method in (("greedy", quota.greedy), ("optimal", quota.optimal)):
        model, own = method(scores, counts, quotas), method(truth, counts, quotas)
        found[f"return_pct_{name}"] = return_pct(model.by_state(truth), own.by_state(truth))
    return found


def _told_log(truth: Truth, folder: Path, spec: RequestSpec) -> tuple[Path, RequestSpec]:
    """The log with the latent class of every request as one more state column: what a learner cannot know."""
    path = folder / "told.parquet"
    if not path.exists():
        frame = pd.read_parquet(folder / "logs/requests.parquet")
        states, ids, _ = spec.distinct_states(frame)
        frame["latent_class"] = truth.latent(states)["class"].to_numpy()[ids].astype(str)
        write_table(frame, path)
    return path, spec.model_copy(update={"state": {**spec.state, "latent_class": "category"}})
