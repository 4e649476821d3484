"""The circle: a policy is trained, served, its decisions are carried out by the world, joined, and learned from again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from decision_fixtures import push

from awrq_mixer.config import TrainConfig
from awrq_mixer.serving import HullPolicy, Predictor
from awrq_mixer.train import train
from cascade_world.records.request_log import request_luck, serve
from cascade_world.world import Truth, load_truth
from examples.decision_service.config import DecisionServiceConfig, JoinConfig
from examples.decision_service.decision_log import DecisionLog
from examples.decision_service.join import join
from examples.decision_service.served_policy import ServedPolicy
from examples.decision_service.service import DecisionService
from marca_common.tables import Column
from marca_measures.frontier import capture_curve

SIDE = "predicted_value"
BUDGETS = [0.04, 0.08, 0.12, 0.2, 0.3]


def rounds(world_folder: Path, folder: Path, seed: int, count: int, rows: int, explore: float) -> list[float]:
    """Capture of the policy learned from the world's log, and after each of ``count`` rounds of serving ``rows`` requests."""
    truth = load_truth(world_folder)
    log = truth.request_spec().read(
        world_folder / "logs/requests.parquet", results=True, extra=[Column(SIDE, "float", 0)]
    )
    found = []
    for turn in range(count + 1):
        here = folder / str(turn)
        here.mkdir(parents=True)
        log.to_parquet(here / "requests.parquet")
        model = learned(truth, here, seed)
        found.append(capture(truth, model))
        if turn < count:
            log = pd.concat([log, served(truth, model, here, seed + turn, rows, explore)], ignore_index=True)
    return found


def learned(truth: Truth, here: Path, seed: int) -> Predictor:
    config = {
        "learner": "low_rank", "requests": str(here / "requests.parquet"), "spec": truth.request_spec().model_dump(),
        "network": {"embedding": 8, "hidden": 16}, "plus": {"surrogate": SIDE, "members": 1, "rank": 6, "history": ["user_value", "placement", "segment"]},
        "optimiser": {"lr": 0.02, "weight_decay": 0.3, "clip": 5.0}, "batch_size": 2048, "epochs": 6, "seed": seed,
    }  # fmt: skip
    train(TrainConfig.model_validate(config), here / "learner")
    return Predictor.load(here / "learner/best.pt")


def capture(truth: Truth, model: Predictor) -> float:
    """Mean capture over budgets, on states drawn as traffic draws them."""
    codes = truth.world.population.sample(request_luck(999, np.arange(600)), np.full(600, 14 * 24.0 + 12))
    states = truth.world.population.frame(codes)
    cost = truth.costs(states).sum(2)
    curve = capture_curve(model.values(states), cost, truth.values(states), np.ones(len(states)), BUDGETS)
    return float(np.mean([row["capture"] for row in curve]))


def served(truth: Truth, model: Predictor, here: Path, seed: int, rows: int, explore: float) -> pd.DataFrame:
    """Decisions by the service, outcomes by the world, joined to a request log."""
    world, spec = truth.world, truth.request_spec()
    number = 10**9 * (seed + 1) + np.arange(rows)
    codes = world.population.sample(
        request_luck(seed, number), np.sort(np.random.default_rng(seed).random(rows)) * 24 + 14 * 24
    )
    states = world.population.frame(codes)
    HullPolicy.build(spec.distinct_states(states)[0], model.values, truth.costs, quiet=True).save(here / "policy.npz")
    service = start(truth, here, seed, explore)
    prices = dict.fromkeys(truth.services, price(service, truth, states))
    service.push(push(dict.fromkeys(world.groups, prices)))
    answers = service.many(pa.Table.from_pandas(states.astype(str), preserve_index=False)).to_pandas()
    service.log.write(service.log.take())
    joint = spec.joint_index(answers)
    outcomes = serve(world, seed, int(number[0]), codes, joint, "serve again")
    outcomes.assign(request=answers["request"]).to_parquet(here / "outcomes.parquet")
    config = JoinConfig(log=str(here / "log"), outcomes=str(here / "outcomes.parquet"), extra=[SIDE], spec=spec)
    return join(config, here / "joined").requests


def start(truth: Truth, here: Path, seed: int, explore: float) -> DecisionService:
    spec = truth.request_spec()
    config = DecisionServiceConfig(
        policy=str(here / "policy.npz"), spec=spec, prices=list(truth.services), groups=list(truth.world.groups),
        group_column="idc", fallback_prices=dict.fromkeys(truth.services, 1.0),
        fallback_action=dict.fromkeys(spec.sub_actions, 0), explore_share=explore, seed=seed,
    )  # fmt: skip
    policy, log = ServedPolicy(config), DecisionLog(here / "log")
    log.keep_states(policy.version, policy.states)
    return DecisionService(config, policy, log)


def price(service: DecisionService, truth: Truth, states: pd.DataFrame) -> float:
    """The price, equal for all services, that spends an eighth of the way to the dearest useful decision."""
    policy = service.policy.policy
    ids = np.arange(len(policy.states))

    def spent(one: float) -> float:
        return float(policy.expected(ids, policy.decide(ids, np.full(len(truth.services), one)))[1].sum(1).mean())

    low, high = 1e-9, 1.0
    goal = spent(high) + 0.12 * (spent(low) - spent(high))
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if spent(middle) > goal else (low, middle)
    return high
