"""How fast decisions are made, per core: `python -m benchmarks.serving [--quick]`.

`cached`: HullPolicy.decide over known states, one or two prices, by id or (`rows`) by a DataFrame of their columns. `scored`: Q of all 1,000 joint actions of unseen states
(`share_of_bound` against the tree's own matrix products, timed in the same run). `uncached`: scoring plus the scan. `results`:
predicted results of all joint actions, from which costs follow; `results_plain` without the work that they share. Times are process CPU seconds, so that other work on the machine counts less; weights are random, as speed does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from autobucket.results.estimator_config import ModelConfig
from autobucket.results.joint_scoring import JointScorer
from autobucket.results.result_network import ActionResultModel
from awrq_mixer.config import TrainConfig
from awrq_mixer.learners import LEARNERS
from awrq_mixer.learners.base import Batch
from awrq_mixer.networks.agents import initialise
from awrq_mixer.networks.space import Space
from awrq_mixer.serving import HullPolicy, Predictor
from awrq_mixer.serving.decide_kernels import scan
from benchmarks._results import add_keep
from marca_common.compute import set_threads
from marca_common.encoding import StateEncoder
from marca_common.requests import RequestSpec
from marca_common.run_folder import versions
from marca_common.seeding import numpy_generator, torch_generator
from marca_common.tables import write_table

VOCABULARY = {"user_value": 100, "placement": 6, "segment": 400, "idc": 2}


def main() -> None:
    """Time every path and write serving.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer states and shorter timings")
    add_keep(parser)
    arguments = parser.parse_args()
    set_threads(1)
    seconds, states = (0.5, 500) if arguments.quick else (3.0, 4000)
    rows = [row for lambdas in (1, 2) for row in cached(lambdas, states, seconds)]
    for learner, hidden in (("awrq_mixer", 64), ("awrq_mixer", 256), ("latent_classes", 64)):
        rows += uncached(learner, hidden, seconds)
    rows += results(seconds)
    table = pd.DataFrame(rows).assign(torch=versions()["torch"], cpus=versions()["cpus"], seed=0)
    write_table(table, arguments.results / "serving.csv")
    print(table.to_string(index=False))


def rate(work: Callable[[], object], items: int, seconds: float) -> float:
    """Items per CPU second of this process, after one warm call."""
    work()
    start, done = time.process_time(), 0
    while time.process_time() - start < seconds:
        work()
        done += items
    return done / (time.process_time() - start)


def cached(lambdas: int, states: int, seconds: float) -> list[dict[str, Any]]:
    """Decisions of known states: surfaces with diminishing returns and noise, costs of one or two services."""
    rng = numpy_generator(0, "serving", lambdas)
    joint = RequestSpec().joint_table()
    steps = np.sqrt(joint + 1.0)  # (A, T)
    q = np.exp(0.3 * rng.normal(0, 1, (states, 5)) @ steps.T / 2 + 0.05 * rng.normal(size=(states, len(joint))))
    c = np.stack([1 + joint[:, :4].sum(1) * 0.5, 0.5 + joint[:, 4] * 1.0], 1) + 0.05 * rng.random(
        (states, len(joint), 2)
    )
    digits = np.unravel_index(np.arange(states), tuple(VOCABULARY.values()))
    frame = pd.DataFrame({name: part.astype(str) for name, part in zip(VOCABULARY, digits)})
    costs = c[:, :, :lambdas]
    policy = HullPolicy.build(frame, lambda f: q[f.index], lambda f: costs[f.index], quiet=True)
    price = np.full(lambdas, 0.05)
    many, few = rng.integers(0, states, 1_000_000), rng.integers(0, states, states // 2)
    rows = []
    asked = [("cached", few), ("cached_many_rows", many), ("cached_one_id", many[:1])]
    asked += [("cached_one_row", frame.iloc[many[:1]]), ("cached_100_rows", frame.iloc[many[:100]])]
    for path, ids in asked:
        per_s = rate(partial(policy.decide, ids, price), len(ids), seconds)
        rows.append({"path": path, "lambdas": lambdas, "per_s": per_s, "candidates": len(policy.joint) / states})
    return rows


def uncached(learner: str, hidden: int, seconds: float) -> list[dict[str, Any]]:
    """Scoring of all joint actions and one decision after it."""
    spec = RequestSpec()
    encoder = StateEncoder({name: [str(i) for i in range(n)] for name, n in VOCABULARY.items()}, {}, {})
    space = Space.of(spec, encoder)
    plus = {"surrogate": "predicted_value" if learner == "latent_classes" else None, "classes": 128}
    config = TrainConfig.model_validate({"learner": learner, "network": {"hidden": hidden, "heads": 20}, "plus": plus})
    model = LEARNERS[learner](space, config)
    initialise(model, "glorot_uniform", torch_generator(0, "serving"))
    model.prepare(random_log(space), model.profile)
    predictor = Predictor(model.eval(), config, encoder)
    rng = numpy_generator(0, "serving_states")
    states = pd.DataFrame({name: rng.integers(0, n, 256).astype(str) for name, n in VOCABULARY.items()})
    cost = rng.random((256, spec.n_joint, 2)).astype(np.float32)
    price = np.array([0.1, 0.1])
    scored = rate(lambda: predictor.values(states), 256, seconds)
    decided = rate(lambda: scan(predictor.values(states), cost, price), 256, seconds)
    one = states.iloc[:1]
    times = []
    for _ in range(int(100 * seconds)):
        start = time.process_time()
        scan(predictor.values(one), cost[:1], price)
        times.append(time.process_time() - start)
    bound = product_bound(hidden, seconds) if learner == "awrq_mixer" else None
    shared = {"learner": learner, "hidden": hidden, "lambdas": 2}
    return [
        {
            "path": "scored",
            "per_s": scored,
            "share_of_bound": scored / bound if bound else None,
            "bound_per_s": bound,
            **shared,
        },
        {"path": "uncached", "per_s": decided, "p99_ms": 1e3 * float(np.quantile(times, 0.99)), **shared},
    ]


def results(seconds: float) -> list[dict[str, Any]]:
    """States whose two results are predicted for all joint actions: with shared work, and by the plain network."""
    spec, rng = RequestSpec(), numpy_generator(0, "serving_results")
    actions = list(spec.sub_actions)
    sizes = [n + 1 for n in VOCABULARY.values()]
    model = ActionResultModel(
        ModelConfig(), list(VOCABULARY), sizes, 0, actions, list(spec.sizes.values()), [actions] * 2
    ).eval()
    table = spec.joint_table()
    codes = torch.from_numpy(np.stack([rng.integers(0, n, 64) for n in sizes], 1))
    with torch.no_grad():
        states = model.embed_states(codes, torch.zeros(64, 0))
        action, scorer = model.embed_actions(torch.from_numpy(table))[None], JointScorer(model, table)
        plain = rate(lambda: [model(one[:, None], action) for one in torch.split(states, 4)], 64, seconds)
        shared = rate(lambda: [scorer(one, [0, 1]) for one in torch.split(states, 16)], 64, seconds)
    return [{"path": "results", "per_s": shared}, {"path": "results_plain", "per_s": plain}]


def random_log(space: Space, rows: int = 200_000) -> Batch:
    """Training rows that latent_classes remembers: about three a state."""
    rng = numpy_generator(0, "serving_log")
    codes, actions = (
        torch.from_numpy(np.stack([rng.integers(low, n, rows) for n in sizes], 1))
        for low, sizes in ((1, space.categories), (0, space.sizes))
    )
    money = torch.from_numpy(rng.random((2, rows), dtype=np.float32))
    return Batch(codes, torch.zeros(rows, 0), actions, money[0], money[1])


def product_bound(hidden: int, seconds: float, states: int = 64) -> float:
    """States per second if only the tree's matrix products were done.

    Input products of both agents, recurrent products of 1 + 4 + 20 parents, heads of 100 leaves and of a5.
    """

    def product(rows: int, inner: int, outer: int) -> Callable[[], torch.Tensor]:
        left, right = torch.randn(rows * states, inner), torch.randn(outer, inner)
        return lambda: left @ right.T

    products = [
        *[product(1, 64, 3 * hidden)] * 2,
        product(1, hidden, 3 * hidden), product(4, hidden, 3 * hidden), product(20, hidden, 3 * hidden),
        product(100, hidden, 2), product(1, hidden, 5),
    ]  # fmt: skip
    return rate(lambda: [one() for one in products], states, seconds)


if __name__ == "__main__":
    main()
