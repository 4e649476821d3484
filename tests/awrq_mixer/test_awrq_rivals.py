"""Rivals that are given what awrq_plus is given: Gaussian vectors of states, set encoder, out-of-fold history; and references."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.lightgbm_history import FOLDS, NEVER, History, groupings, residuals, shrinkage
from awrq_mixer.networks.gaussian_states import infer, without_own
from awrq_mixer.serving import Predictor
from awrq_mixer.train import make_learner, train
from awrq_mixer.training.training_log import load_log, make_batch
from marca_common.seeding import numpy_generator

REMEMBER = ["low_rank", "neural_process", "lightgbm_history"]
STATES = pd.DataFrame({"place": ["0", "2", "1"], "segment": ["3", "7", "never seen"]})


def _rows(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nine rows of three states, the last of which has none: factors (9, 2), residual, precision, state."""
    factors, residual = torch.from_numpy(rng.normal(size=(9, 2))), torch.from_numpy(rng.normal(size=9))
    return factors, residual, torch.from_numpy(rng.uniform(1, 5, 9)), torch.tensor([0, 1, 0, 0, 1, 0, 1, 0, 0])


def test_vectors_of_states_are_the_dense_gaussian_s() -> None:
    factors, residual, precision, state = _rows(np.random.default_rng(0))
    known = infer(factors, residual, precision, state, 3)
    for s in range(2):
        mine = (state == s).numpy()
        v, e = factors.numpy()[mine], residual.numpy()[mine]
        covariance = v @ v.T + np.diag(1 / precision.numpy()[mine])  # of the rows, u integrated out
        gain = v.T @ np.linalg.inv(covariance)
        assert known.mean[s].numpy() == pytest.approx(gain @ e)
        assert known.covariance[s].numpy() == pytest.approx(np.eye(2) - gain @ v)
        expected = multivariate_normal(np.zeros(len(e)), covariance).logpdf(e) + 0.5 * len(e) * math.log(2 * math.pi)
        assert float(known.log_likelihood[s]) == pytest.approx(expected)
    assert known.mean[2].tolist() == [0, 0]
    assert torch.equal(known.covariance[2], torch.eye(2, dtype=torch.float64))
    assert float(known.log_likelihood[2]) == 0


def test_a_row_is_known_from_the_other_rows_of_its_state() -> None:
    factors, residual, precision, state = _rows(np.random.default_rng(1))
    known = infer(factors, residual, precision, state, 3)
    mean, variance = without_own(known, factors, residual, precision, state)
    for i in range(len(state)):
        keep = torch.arange(len(state)) != i
        others = infer(factors[keep], residual[keep], precision[keep], state[keep], 3)
        v, s = factors[i], state[i]
        assert float(mean[i]) == pytest.approx(float(v @ others.mean[s]))
        assert float(variance[i]) == pytest.approx(float(v @ others.covariance[s] @ v))


@pytest.fixture(scope="module")
def hinted(small_world: Any, small_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config values of 600 rows of the small log with a noisy hint of what a request is worth."""
    folder = tmp_path_factory.mktemp("hinted")
    frame, spec, rng = small_world.frame.head(600), small_world.spec, np.random.default_rng(7)
    joint = np.ravel_multi_index([frame[name] for name in spec["sizes"]], tuple(spec["sizes"].values()))
    value = small_world.truth(frame)[np.arange(len(frame)), joint]
    frame.assign(hint=value * np.exp(rng.normal(0, 0.4, len(frame)))).to_parquet(folder / "log.parquet", index=False)
    return {
        **small_config,
        "requests": str(folder / "log.parquet"),
        "plus": {"surrogate": "hint", "rank": 3, "members": 2},
        "boost": {"trees": 5, "min_rows": 5},
        "epochs": 3,
    }


def _learner(hinted: Any, name: str, **changes: Any) -> tuple[Any, Batch]:
    config = TrainConfig.model_validate({**hinted, "learner": name, **changes})
    log = load_log(config)
    batch = make_batch(log.train, log.spec, log.encoder, "hint")
    return make_learner(config, log, batch).eval(), batch


def _slow_low_rank(learner: Any, codes: torch.Tensor, numbers: torch.Tensor) -> np.ndarray:
    """log Q by the docstring of low_rank, from the joint Gaussian of a state's rows and all joint actions."""
    found, keys = [], learner.keys(learner.memory_codes.long())
    for model in learner.online:
        level, centre = (one.double().numpy() for one in (model.level(codes, numbers), model.centre(codes, numbers)))
        factors, profile = model.factors()[0].double().numpy(), model.profile()[0, :, 0].double().numpy()
        tau2, noise = math.exp(float(model.log_variance[1])), 1 / model.precision().double().numpy()
        table = np.empty((len(codes), learner.space.n_joint))
        for s, key in enumerate(learner.keys(codes)):
            rows = np.flatnonzero((keys == key).numpy())
            a = learner.memory_joint.numpy()[rows]
            past = (learner.memory_codes[rows].long(), learner.memory_numbers[rows])
            expected = (model.centre(*past).double().numpy() * factors[a]).sum(1) + profile[a]
            e = learner.memory_signal.numpy()[rows] - model.level(*past).double().numpy()[:, 0] - expected
            prior = factors @ factors.T + tau2  # of all joint actions
            gain = prior[:, a] @ np.linalg.inv(prior[np.ix_(a, a)] + np.diag(noise[a]))
            mean, variance = gain @ e, np.diag(prior - gain @ prior[a])
            table[s] = level[s].sum() + profile + centre[s] @ factors.T + mean + variance / 2
        found.append(table + model.correction()[0, :, 0].double().numpy())
    return np.asarray(np.exp(np.mean(found, axis=0)) * float(learner.reward_scale))


def test_low_rank_serves_the_posterior_of_a_state_s_rows(hinted: Any, tmp_path: Path) -> None:
    model = train(TrainConfig.model_validate({**hinted, "learner": "low_rank"}), tmp_path).model
    learner: Any = model.scorer
    codes, numbers = (torch.from_numpy(x) for x in model.encoder.transform(STATES))
    with torch.no_grad():
        assert model.values(STATES) == pytest.approx(_slow_low_rank(learner, codes, numbers), rel=1e-3)


def test_revenue_corrects_levels_and_sub_actions_of_low_rank_only(hinted: Any) -> None:
    learner, batch = _learner(hinted, "low_rank")
    found = []
    for factor in (1.0, 3.0):
        learner.zero_grad()
        scaled = Batch(batch.codes, batch.numbers, batch.actions, factor * batch.reward, batch.surrogate)
        torch.autograd.backward(learner.loss(scaled)[0])
        found.append({name: p.grad.clone() for name, p in learner.online.named_parameters() if p.grad is not None})
    for column, name in ((0, "levels"), (0, "bias"), (0, "slopes")):  # what the signal's level is, revenue leaves alone
        assert all(torch.equal(*(one[f"{m}.{name}"][..., column] for one in found)) for m in range(2))
    moved = {name.split(".")[1] for name in found[0] if not torch.equal(found[0][name], found[1][name])}
    assert moved == {"levels", "bias", "correction"}


def test_a_row_does_not_tell_the_set_encoder_of_itself(hinted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = _learner(hinted, "neural_process")
    seen = []

    def spy(x: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros(2, len(x))

    monkeypatch.setattr(learner.online["joint"], "outputs", spy)
    changed = Batch(batch.codes, batch.numbers, batch.actions, batch.reward, batch.surrogate.clone())
    changed.surrogate[5] *= 100
    for one in (batch, changed):
        learner.loss(one)
    moved = (seen[0] - seen[1]).abs().amax(1) > 1e-4
    same_state = learner.keys(batch.codes) == learner.keys(batch.codes)[5]
    same_state[5] = False
    assert torch.equal(moved, same_state)


@pytest.mark.parametrize("name", REMEMBER)
def test_order_of_a_state_s_rows_changes_nothing(hinted: Any, name: str) -> None:
    log = load_log(TrainConfig.model_validate({**hinted, "learner": name}))
    batch = make_batch(log.train, log.spec, log.encoder, "hint")
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(batch)))
    codes, numbers = (torch.from_numpy(x) for x in log.encoder.transform(STATES))
    found = []
    for rows in (batch, batch.take(order)):
        if name == "lightgbm_history":
            history = History.fit(rows, [0, 1], log.space.categories, log.space.sizes, seed=0)[0]
            sums = history.groups[0].choice_sum  # shrinkage differs a little: folds are drawn by row
            found.append(sums)
            continue
        learner, _ = _learner(hinted, name)
        learner.prepare(rows, learner.profile.clone())
        with torch.no_grad():
            found.append(learner.values(codes, numbers).numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REMEMBER)
def test_remembered_rows_move_known_states_only_and_survive_the_checkpoint(
    hinted: Any, tmp_path: Path, name: str
) -> None:
    model = train(TrainConfig.model_validate({**hinted, "learner": name}), tmp_path).model
    scorer: Any = model.scorer
    before = model.values(STATES)
    assert np.array_equal(Predictor.load(tmp_path / "best.pt").values(STATES), before)
    if name == "lightgbm_history":
        moved = scorer.history.features(np.array([[1, 4], [1, 0]]), np.zeros((2, 3), np.int64))
        assert (moved[0, :6] != 0).all()  # the state itself
        assert (moved[1, :6] == 0).all()
        return
    scorer.memory_signal += 1.0
    after = model.values(STATES)
    assert (after[:2] != before[:2]).any(1).all()
    assert np.array_equal(after[2], before[2])


def _small_batch(rows: int = 80) -> Batch:
    rng = np.random.default_rng(3)
    codes = torch.from_numpy(np.stack([rng.integers(1, 4, rows), rng.integers(1, 5, rows)], 1))
    actions = torch.from_numpy(np.stack([rng.integers(0, 2, rows), rng.integers(0, 3, rows)], 1))
    money = torch.from_numpy(rng.gamma(1, 1, (2, rows)).astype(np.float32))
    return Batch(codes, torch.zeros(rows, 1), actions, money[0], money[1] + 0.1)


def test_history_of_training_rows_is_out_of_fold() -> None:
    batch = _small_batch()
    history, own = History.fit(batch, [0, 1], (4, 5), (2, 3), seed=9)
    rest, fold = residuals(batch, (4, 5), (2, 3)), numpy_generator(9, "history_folds").integers(0, FOLDS, len(batch))
    codes, actions = batch.codes.numpy(), batch.actions.numpy()
    assert [group.columns for group in history.groups] == [[0, 1], [1], [0]]
    assert own.shape == (80, history.width) == (80, 3 * (1 + 2 + 2))
    served = history.features(codes, actions)
    for g, group in enumerate(history.groups):
        for i in range(len(batch)):
            alike = (codes[:, group.columns] == codes[i, group.columns]).all(1)
            for table, rows in ((own, alike & (fold != fold[i])), (served, alike)):
                n = rows.sum()
                means = [rest[rows, kind].sum() / (n + group.shrink[kind]) for kind in range(2)]
                slow = [math.log1p(n), *means]
                for t in range(2):
                    same = rows & (actions[:, t] == actions[i, t])
                    k = group.choice_shrink[t]
                    slow.append((rest[same, 0].sum() + k * means[0]) / (same.sum() + k))
                assert table[i, 5 * g : 5 * g + 5] == pytest.approx(slow, rel=1e-4, abs=1e-6)
    assert (history.features(np.array([[0, 0]]), np.array([[0, 0]])) == 0).all()


def test_shrinkage_is_noise_over_signal() -> None:
    # groups (0, 2) and (4, 6): variance within 2, between means 8 = signal + 2/2, so the signal's is 7 and k = 2/7
    group = np.array([0, 0, 1, 1])
    assert shrinkage(group, np.array([0.0, 2.0, 4.0, 6.0])) == pytest.approx(2 / 7)
    assert shrinkage(group, np.array([0.0, 2.0, 0.0, 2.0])) == NEVER
    assert shrinkage(np.arange(4), np.arange(4.0)) == NEVER


def test_groups_leave_out_one_column_in_turn() -> None:
    assert groupings([2, 0, 1]) == [[2, 0, 1], [0, 1], [2, 1], [2, 0]]
    assert groupings([3]) == [[3]]
    assert groupings([]) == []


def test_history_must_name_categories(small_config: Any) -> None:
    for name in ("low_rank", "neural_process", "lightgbm_history"):
        with pytest.raises(
            ValueError, match=r"plus\.history: got 'b1'; expected categorical state columns, of \['place'"
        ):
            TrainConfig.model_validate({**small_config, "learner": name, "plus": {"history": ["b1"]}})


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEMBER)
def test_rows_of_a_state_tell_what_its_columns_hide(tmp_path: Path, name: str) -> None:
    """Each of 300 states draws its taste at random, so only its own rows can tell it."""
    rng = np.random.default_rng(0)
    taste, rows = rng.normal(size=(20, 15, 3)), 12_000
    place, segment, action = rng.integers(0, 20, rows), rng.integers(0, 15, rows), rng.integers(0, 3, (rows, 2))
    mean = np.exp(taste[place, segment, action[:, 0]] + 0.3 * action[:, 1])
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
    values: dict[str, Any] = {"learner": name, "requests": str(tmp_path / "log.parquet"), "spec": spec, "epochs": 20}
    values |= {"network": {"embedding": 4, "hidden": 32}, "batch_size": 512}
    values["optimiser"] = {"lr": 0.03 if name == "low_rank" else 0.01}
    values |= {"boost": {"min_rows": 20}, "validation_rows": 1000}
    log = frame.drop_duplicates(["place", "segment"])[["place", "segment"]]
    own = taste[log["place"].astype(int), log["segment"].astype(int)]
    truth = (own[:, :, None] + 0.3 * np.arange(3)).reshape(len(log), 9)
    found = {}
    histories: tuple[list[str] | None, ...] = (None, [])
    for history in histories:
        config = TrainConfig.model_validate(
            values | {"plus": {"surrogate": "hint", "rank": 3, "members": 1, "history": history}}
        )
        scored = train(config, tmp_path / str(history)).model.values(log)
        found[str(history)] = np.mean([np.corrcoef(np.log(a), b)[0, 1] for a, b in zip(scored, truth)])
    assert found["None"] > 0.9
    assert found["[]"] < found["None"] - 0.04  # trees can tell small groups apart by their columns


def test_every_head_of_the_joint_bandit_is_the_mean_of_its_action(
    small_world: Any, small_config: Any, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate({**small_config, "learner": "dqn_joint", "epochs": 20})
    model = train(config, tmp_path).model
    states, _, _ = model.spec.distinct_states(small_world.frame)
    counts = states.merge(small_world.frame, on=["place", "segment"]).groupby(["place", "segment"]).size()
    scored = np.average(model.values(states), axis=0, weights=counts.loc[list(zip(states["place"], states["segment"]))])
    joint = model.spec.joint_index(small_world.frame)
    observed = np.bincount(joint, small_world.frame["money"]) / np.bincount(joint)
    assert np.corrcoef(scored, observed)[0, 1] > 0.85


def test_the_glm_gives_all_states_one_order(small_config: Any, tmp_path: Path) -> None:
    values = train(TrainConfig.model_validate({**small_config, "learner": "glm"}), tmp_path).model.values(STATES)
    ratio = values / values.mean(1, keepdims=True)
    assert ratio == pytest.approx(np.repeat(ratio[:1], 3, axis=0), rel=1e-4)
    assert np.ptp(ratio[0]) > 0.1
    assert len(np.unique(values.mean(1))) == 3


def test_networks_of_averaged_dqn_share_nothing_and_have_errors_of_their_own(small_config: Any) -> None:
    config = {**small_config, "learner": "averaged_dqn", "loss": {"kind": "mse"}, "td": {"gamma": 1.0}}
    log = load_log(TrainConfig.model_validate(config))
    batch = make_batch(log.train, log.spec, log.encoder)
    learner: Any = make_learner(TrainConfig.model_validate(config), log, batch)
    first, second, third = learner.online
    heads = [torch.tensor([1.0, 2.0, 6.0])[None, :, None].expand(len(batch), 3, n) for n in (2, 3, 4)]
    learner.q_values = lambda network, rows: heads
    batch.reward = torch.zeros(len(batch))
    loss, logged = learner.loss(batch)
    # targets are the mean, 3: errors 2, 1, 3 before the last sub-step; the values themselves at the last
    assert float(logged["td_last"]) == pytest.approx((1 + 4 + 36) / 3)
    assert float(loss) == pytest.approx(2 * (4 + 1 + 9) / 3 + 41 / 3)
    weights = [{p.data_ptr() for p in one.parameters()} for one in (first, second, third)]
    assert not weights[0] & weights[1]
    assert not weights[1] & weights[2]
