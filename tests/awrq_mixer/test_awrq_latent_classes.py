"""Latent classes: evidence against a slow reference, memory, whole states in a batch, and what remembering brings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad
from scipy.special import gammaln, logsumexp
from scipy.stats import gamma, multivariate_normal, poisson

from awrq_mixer.config import TrainConfig
from awrq_mixer.learner_config import PlusConfig
from awrq_mixer.learners.base import Batch
from awrq_mixer.networks.latent_classes import CountSums, SizeSums, Surface, profile_order
from awrq_mixer.serving import Predictor
from awrq_mixer.train import make_learner, train
from awrq_mixer.training.training_log import batches, load_log, make_batch
from awrq_mixer.training.training_rows import MemoryRows
from marca_common.requests import RequestSpec
from marca_measures.rank_correlation import spearman_within


def test_a_surface_is_a_sum_of_tables_of_one_two_and_three_sub_actions() -> None:
    sizes = (2, 3, 2)
    joint = torch.cartesian_prod(*(torch.arange(n) for n in sizes))
    surface = Surface(sizes, joint, 1, 1, 3, 1.0)
    surface.reset(torch.Generator().manual_seed(0))
    tables = [table.detach()[0, :, 0] for table in surface.tables]
    assert [len(table) for table in tables] == [2, 3, 2, 6, 4, 6, 12]
    a, b, c = 1, 2, 0
    rows = [a, b, c, a * 3 + b, a * 2 + c, b * 2 + c, (a * 3 + b) * 2 + c]
    expected = sum(float(table[row]) for table, row in zip(tables, rows))
    assert float(surface().detach()[0, (a * 3 + b) * 2 + c, 0]) == pytest.approx(expected)


@pytest.mark.parametrize(("pairs", "surrogate", "order"), [(True, "clicks", 3), (True, None, 2), (False, "clicks", 1)])
def test_triples_need_a_side_column(pairs: bool, surrogate: str | None, order: int) -> None:
    assert profile_order(PlusConfig(pairs=pairs, surrogate=surrogate)) == order


def _evidence(residual: Any, variance: Any) -> Any:
    """Sums of rows (rows, classes) with variances (rows,), one member."""
    e, v = torch.tensor(residual)[None], torch.tensor(variance)[None, :, None]
    return SizeSums(e / v, e**2 / v, 1 / v, -torch.log(v))


def test_evidence_is_the_gaussian_marginal_likelihood() -> None:
    rng = np.random.default_rng(0)
    residual, variance, tau2 = rng.normal(size=(5, 3)), rng.uniform(0.1, 0.5, 5), 0.3
    precision = torch.tensor([[[1 / tau2]]], dtype=torch.float64)
    rows = _evidence(residual, variance)
    state = torch.tensor([0, 0, 1, 0, 1])
    states = rows.by_state(state, 2)
    found, level = states.log_likelihood(precision)[0], states.level(precision)[0]
    for s in range(2):
        mine = np.flatnonzero(state.numpy() == s)
        covariance = np.diag(variance[mine]) + tau2
        for z in range(3):
            e = residual[mine, z]
            expected = multivariate_normal(np.zeros(len(mine)), covariance).logpdf(e)
            constant = -0.5 * len(mine) * math.log(2 * math.pi)  # the same for every class, so left out
            assert float(found[s, z]) == pytest.approx(expected - constant)
            inverse = np.linalg.inv(covariance)
            mean, variance_left = tau2 * (inverse @ e).sum(), tau2 - tau2**2 * inverse.sum()
            assert float(level[s, z]) == pytest.approx(mean + variance_left / 2)  # log E exp of a Gaussian


def test_a_row_s_others_are_the_state_without_it() -> None:
    rng = np.random.default_rng(1)
    residual, variance = rng.normal(size=(4, 2)), rng.uniform(0.1, 0.5, 4)
    rows, state = _evidence(residual, variance), torch.zeros(4, dtype=torch.long)
    others = rows.by_state(state, 1).without(rows, state)
    alone = _evidence(residual[1:], variance[1:]).by_state(state[1:], 1)
    for name in ("first", "second", "precision", "log_precision"):
        assert torch.allclose(getattr(others, name)[:, 0], getattr(alone, name)[:, 0])


def test_counts_have_the_marginal_likelihood_of_a_gamma_poisson() -> None:
    rates, counts, prior = np.array([0.3, 1.2, 0.7]), np.array([0.0, 3.0, 1.0]), 2.5
    log_rate = torch.tensor(np.log(rates))[None, :, None]
    rows = CountSums(
        torch.tensor(counts)[None, :, None] * log_rate, log_rate.exp(), torch.tensor(counts)[None, :, None]
    )
    state = rows.by_state(torch.zeros(3, dtype=torch.long), 1)
    shape = torch.tensor([[[prior]]], dtype=torch.float64)

    def likelihood(theta: float) -> float:
        return float(gamma.pdf(theta, prior, scale=1 / prior) * np.prod(poisson.pmf(counts, theta * rates)))

    total = quad(likelihood, 0, 60)[0]
    mean = quad(lambda theta: theta * likelihood(theta), 0, 60)[0] / total
    constant = -gammaln(counts + 1).sum()  # the same for every class, so left out
    assert float(state.log_likelihood(shape)) == pytest.approx(np.log(total) - constant, rel=1e-6)
    assert float(state.level(shape)) == pytest.approx(np.log(mean), rel=1e-6)


def test_batches_keep_groups_together_and_miss_no_row() -> None:
    rng = np.random.default_rng(2)
    groups = torch.tensor(np.r_[rng.integers(0, 60, 900), np.full(100, 60)])  # the last group is larger than a batch
    stream = batches(1000, 64, seed=3, groups=groups)
    epoch = [next(stream) for _ in range(1000 // 64)]
    assert sorted(torch.cat(epoch).tolist()) == list(range(1000))
    assert all(len(rows) for rows in epoch)
    where = {group: {i for i, rows in enumerate(epoch) if (groups[rows] == group).any()} for group in range(61)}
    assert all(len(where[group]) == 1 for group in range(60))
    assert len(where[60]) <= 2
    again = batches(1000, 64, seed=3, start=4, groups=groups)
    assert torch.equal(next(again), epoch[4])
    assert torch.equal(next(batches(1000, 64, seed=4, groups=groups)), epoch[0]) is False


@pytest.fixture(scope="module")
def hinted(small_world: Any, small_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config values of a log with a noisy hint, and places whose class columns hide: 40 segments of 8 kinds."""
    folder = tmp_path_factory.mktemp("hinted")
    frame, spec, rng = small_world.frame, small_world.spec, np.random.default_rng(7)
    joint = np.ravel_multi_index([frame[name] for name in spec["sizes"]], tuple(spec["sizes"].values()))
    value = small_world.truth(frame)[np.arange(len(frame)), joint]
    frame.assign(hint=value * np.exp(rng.normal(0, 0.4, len(frame)))).to_parquet(folder / "log.parquet", index=False)
    return {
        **small_config,
        "learner": "latent_classes",
        "requests": str(folder / "log.parquet"),
        "plus": {"surrogate": "hint", "classes": 6, "rank": 3, "members": 2},
        "optimiser": {"lr": 0.02},
        "epochs": 4,
    }


def _slow_values(learner: Any, codes: Any, numbers: Any, joint_rows: Any, reward_scale: Any) -> Any:
    """log Q of a log-normal signal by the module's docstring: loops over members, states, classes and logged rows."""
    net, part, found = learner.online, learner.online.size, []
    gate, surfaces = net.gate(codes, numbers).double().numpy(), part.surfaces().double().numpy()
    noise, correction = part.log_noise().double().numpy()[..., 0], net.correction().double().numpy()[..., 0]
    variance = part.log_variance.detach().double().numpy()[:, 0]
    past = learner.memory_codes.long()
    mine = (part.level(codes + net.offsets, numbers) + net.level(codes, numbers)).double().numpy()[..., 0]
    before = part.level(past + net.offsets, learner.memory_numbers).double().numpy()[..., 0]
    signal = np.log(learner.memory_signal.numpy() / float(learner.surrogate_scale))
    keys = learner.keys(past)
    for m in range(len(gate)):
        table = np.empty((len(codes), learner.space.n_joint))
        for s, key in enumerate(learner.keys(codes)):
            rows = np.flatnonzero((keys == key).numpy())
            weight, level = gate[m, s].copy(), np.zeros(gate.shape[2])
            tau2 = np.exp(variance[m, 1])
            for z in range(gate.shape[2]):
                actions = joint_rows[rows]
                e = signal[rows] - before[m, rows] - surfaces[m, z, actions]
                covariance = np.diag(np.exp(variance[m, 0] + noise[m, actions])) + tau2
                level[z] = tau2 / 2
                if len(rows):
                    weight[z] += multivariate_normal(np.zeros(len(rows)), covariance).logpdf(e)
                    inverse = np.linalg.inv(covariance)
                    level[z] = tau2 * (inverse @ e).sum() + (tau2 - tau2**2 * inverse.sum()) / 2
            weight = weight - logsumexp(weight) + level
            table[s] = mine[m, s] + correction[m] + logsumexp(weight[:, None] + surfaces[m], axis=0)
        found.append(table)
    return np.exp(np.mean(found, axis=0)) * reward_scale


def test_values_are_what_the_docstring_says_and_survive_the_checkpoint(hinted: Any, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({**hinted, "max_rows": 400})
    model = train(config, tmp_path).model
    states = pd.DataFrame({"place": ["0", "2", "1"], "segment": ["3", "7", "never seen"]})
    values = model.values(states)
    learner: Any = model.scorer
    codes, numbers = (torch.from_numpy(x) for x in model.encoder.transform(states))
    with torch.no_grad():
        slow = _slow_values(learner, codes, numbers, learner.memory_joint.numpy(), float(learner.reward_scale))
    assert values == pytest.approx(slow, rel=1e-3)
    again: Any = Predictor.load(tmp_path / "best.pt")
    assert np.array_equal(again.values(states), values)
    assert len(again.scorer.memory_signal) == 320  # the training rows of 400


def test_remembered_rows_move_known_states_only(hinted: Any, tmp_path: Path) -> None:
    model = train(TrainConfig.model_validate({**hinted, "max_rows": 2000}), tmp_path).model
    states = pd.DataFrame({"place": ["0", "1"], "segment": ["3", "never seen"]})
    learner: Any = model.scorer
    before = model.values(states)
    learner.memory_signal += 1.0
    after = model.values(states)
    assert (after[0] > before[0]).all()
    assert np.array_equal(after[1], before[1])


def test_training_keeps_states_whole_where_rows_are_remembered(
    hinted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def spy(rows: MemoryRows, *how: Any) -> Any:
        seen["groups"], seen["codes"] = rows.groups, rows.known.codes
        return given(rows, *how)

    given = MemoryRows.batches
    monkeypatch.setattr(MemoryRows, "batches", spy)
    train(TrainConfig.model_validate({**hinted, "max_rows": 400, "epochs": 1}), tmp_path / "whole")
    pairs = set(zip(seen["groups"].tolist(), map(tuple, seen["codes"].tolist())))
    assert (
        len(pairs) == len({group for group, _ in pairs}) == len({codes for _, codes in pairs}) > 10
    )  # one group a state
    plus = {**hinted["plus"], "history": []}
    train(TrainConfig.model_validate({**hinted, "max_rows": 400, "epochs": 1, "plus": plus}), tmp_path / "rows")
    assert seen["groups"] is None


def test_revenue_teaches_levels_and_correction_only(hinted: Any) -> None:
    config = TrainConfig.model_validate({**hinted, "max_rows": 400})
    log = load_log(config)
    batch = make_batch(log.train, log.spec, log.encoder, "hint")
    learner = make_learner(config, log, batch).eval()  # nothing random in the gradients
    found = []
    for factor in (1.0, 3.0):
        learner.zero_grad()
        scaled = Batch(batch.codes, batch.numbers, batch.actions, factor * batch.reward, batch.surrogate)
        torch.autograd.backward(learner.loss(scaled)[0])
        found.append({name: p.grad.clone() for name, p in learner.online.named_parameters() if p.grad is not None})
    moved = {name.split(".")[0] for name in found[0] if not torch.equal(found[0][name], found[1][name])}
    assert moved == {"levels", "bias", "correction"}


def test_memory_resolves_classes_that_columns_hide(tmp_path: Path) -> None:
    """Each of 300 states draws its class at random, so only its own rows can tell it."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, (20, 15))
    effect = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    rows = 12_000
    place, segment, action = rng.integers(0, 20, rows), rng.integers(0, 15, rows), rng.integers(0, 3, (rows, 2))
    mean = np.exp(effect[kind[place, segment], action[:, 0]] + 0.3 * action[:, 1])
    frame = pd.DataFrame({"place": place.astype(str), "segment": segment.astype(str)})
    frame = frame.assign(b1=action[:, 0], b2=action[:, 1], hint=mean * np.exp(rng.normal(0, 0.5, rows)))
    frame["money"] = np.where(rng.random(rows) < 0.3, mean * rng.gamma(1, 1, rows) / 0.3, 0.0)
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    spec = {
        "state": {"place": "category", "segment": "category"},
        "agents": {"one": ["b1"], "two": ["b2"]},
        "sizes": {"b1": 3, "b2": 3},
        "results": [],
        "reward": "money",
        "timestamp": None,
        "propensity": None,
    }
    found = {}
    histories: tuple[list[str] | None, ...] = (None, [])
    for history in histories:
        config = TrainConfig.model_validate(
            {
                "learner": "latent_classes",
                "requests": str(tmp_path / "log.parquet"),
                "spec": spec,
                "network": {"embedding": 2, "hidden": 4},
                "plus": {"surrogate": "hint", "classes": 4, "rank": 2, "members": 1, "history": history},
                "optimiser": {"lr": 0.03, "weight_decay": 0.1},
                "batch_size": 512,
                "epochs": 8,
                "validation_rows": 1000,
            }
        )
        model = train(config, tmp_path / str(history)).model
        states, _, _ = RequestSpec.model_validate(spec).distinct_states(frame)
        own = effect[kind[states["place"].astype(int), states["segment"].astype(int)]]  # (S, 3)
        truth = (own[:, :, None] + 0.3 * np.arange(3)).reshape(len(states), 9)
        found[str(history)] = spearman_within(model.values(states), truth, np.ones(len(truth)))
    assert found["None"] > 0.95
    assert found["[]"] < found["None"] - 0.1


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ([0.3, 2.5, 1.0, 4.0], ["SizePart"]),
        ([0, 1, 3, 0], ["CountPart"]),
        ([0, 1, 1, 0], ["CountPart"]),
        ([0.0, 2.5, 0.0, 4.0], ["CountPart", "SizePart"]),
    ],
)
def test_values_of_the_side_column_decide_its_likelihood(hinted: Any, values: list[float], parts: list[str]) -> None:
    config = TrainConfig.model_validate({**hinted, "max_rows": 400})
    log = load_log(config)
    log.train["hint"] = np.tile(values, 80)
    learner: Any = make_learner(config, log, make_batch(log.train, log.spec, log.encoder, "hint"))
    assert [type(part).__name__ for part in learner.parts()] == parts


@pytest.mark.parametrize("kind", ["count", "hurdle"])
def test_a_side_column_of_mostly_zeros_still_tells_classes(
    hinted: Any, small_world: Any, kind: str, tmp_path: Path
) -> None:
    frame, rng = pd.read_parquet(hinted["requests"]), np.random.default_rng(4)
    rate = 0.3 * frame["hint"] / frame["hint"].mean()
    column = rng.poisson(rate) if kind == "count" else np.where(rng.random(len(frame)) < rate, frame["hint"], 0.0)
    frame.assign(hint=column).to_parquet(tmp_path / "log.parquet", index=False)
    assert 0.6 < (column == 0).mean() < 0.9
    model = train(
        TrainConfig.model_validate({**hinted, "requests": str(tmp_path / "log.parquet")}), tmp_path / "run"
    ).model
    states, _, counts = model.spec.distinct_states(frame)
    assert spearman_within(model.values(states), small_world.truth(states), counts) > 0.75
    saved = Predictor.load(tmp_path / "run" / "best.pt")
    assert np.array_equal(saved.values(states), model.values(states))


def test_one_key_for_all_rows_is_weighed_in_pieces(
    hinted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(TrainConfig.model_validate({**hinted, "max_rows": 2000, "epochs": 1}), tmp_path).model
    states = pd.DataFrame({"place": ["0", "1", "2"], "segment": ["3", "4", "never seen"]})
    whole = model.values(states)
    monkeypatch.setattr("awrq_mixer.learners.latent_classes._CHUNK", 7)
    assert model.values(states) == pytest.approx(whole, rel=1e-4)


def test_history_must_name_categories(small_config: Any) -> None:
    with pytest.raises(
        ValueError, match=r"plus\.history: got 'b1'; expected categorical state columns, of \['place', 's"
    ):
        TrainConfig.model_validate({**small_config, "learner": "latent_classes", "plus": {"history": ["b1"]}})


def test_a_loss_without_a_log_link_is_refused(small_config: Any) -> None:
    with pytest.raises(
        ValueError, match=r"loss\.kind: got 'mse'; latent_classes models log revenue, expected 'tweedie'"
    ):
        TrainConfig.model_validate({**small_config, "learner": "latent_classes", "loss": {"kind": "mse"}})
