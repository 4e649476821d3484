"""What the loop writes between programs: scores on a sample of logged states, and the policy of one's own log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor
from cascade_world.world import load_truth
from marca_common.requests import RequestSpec
from marca_common.scores import ScoreMatrix, write_scores
from marca_common.seeding import numpy_generator
from marca_loop.scene import Parts
from revenue_sim.train import GroundTruth


def score_sample(
    requests: str, size: int, seed: int, learners: Iterable[str], tree_weight: float, parts: Parts, folder: Path
) -> None:
    """Write learned Q and C, and the truth (own logs: the ensemble's estimate), of states in the log's last tenth."""
    spec = parts.spec
    log = spec.read(requests)
    states, _, counts = spec.distinct_states(log.iloc[int(0.9 * len(log)) :])
    size = min(size, len(states))
    chosen = numpy_generator(seed, "sample").choice(len(states), size, replace=False, p=counts / counts.sum())
    states = states.iloc[np.sort(chosen)].reset_index(drop=True)
    model = parts.cost_model()
    files = {"predicted_costs": _by_service(model.costs(states), model.services)}
    if parts.world is not None:
        truth = load_truth(parts.world)
        files["costs"] = _by_service(truth.costs(states), truth.services)
        files["truth"] = {"value": truth.values(states)} | {f"cost_{name}": c for name, c in files["costs"].items()}
    else:
        ensemble = GroundTruth.load(parts.root / "ground_truth", spec, tree_weight)
        files["truth"] = {"value": ensemble.values(states)}
    for name in learners:
        files[name] = {"q": Predictor.load(parts.learned(name)).values(states)}
    for name, scores in files.items():
        write_scores(ScoreMatrix(states, scores), folder / f"{name}.parquet")


def export_policy(requests: str, most: int, parts: Parts, folder: Path) -> None:
    """Write policy.npz: the decisions of the log's ``most`` frequent states at any price."""
    spec: RequestSpec = parts.spec
    states, _, counts = spec.distinct_states(spec.read(requests))
    states = states.iloc[np.sort(np.argsort(-counts, kind="stable")[:most])].reset_index(drop=True)
    values, costs = Predictor.load(parts.values(None)), parts.cost_model()
    HullPolicy.build(states, values.values, costs.costs).save(folder / "policy.npz")


def peak_budgets(parts: Parts) -> list[float] | None:
    """What C_m allows at the ordinary peak, core-ms per request and service, mean over requests; None with own logs."""
    if parts.world is None:
        return None
    world = load_truth(parts.world).world
    budgets, shares = world.budgets(), world.config.states.idcs
    return [
        float(one)
        for one in np.average([budgets[g] for g in world.groups], axis=0, weights=[shares[g] for g in world.groups])
    ]


def _by_service(costs: np.ndarray, services: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: costs[..., j] for j, name in enumerate(services)}
