"""Values, costs and logs: what is judged on what."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.files import read_json
from marca_common.requests import RequestSpec
from marca_common.scores import read_scores
from recommender.build import build
from recommender.build_parts import COSTS_FILE, LOG_FILE, PAGES_FILE, STATES_FILE, VISITS_FILE, Parts
from recommender.build_summary import ranker_leads
from recommender.config import CostConfig
from recommender.histories.split import JUDGED, LOGGED
from recommender.records.logging_policy import LoggingPolicy
from recommender.records.request_log import request_log
from recommender.truth.costs import Costs, measure_costs, measuring_order
from recommender.truth.variance import variance_shares
from recommender.truth.worth import Worth, discounts, expected_revenue, value_table
from tests.recommender.conftest import tiny_config
from tests.recommender.tiny_movielens import tiny_ratings, write_100k


def test_a_pages_worth_by_hand() -> None:
    worth = Worth(film=np.array([10.0, 20, 40, 80]), user=np.array([1.0, 0.5]), click=0.5, stray=0.1)
    gain = worth.click_rates(np.array([2])) * worth.film
    assert gain.tolist() == [1, 2, 20, 8]
    assert discounts(3) == pytest.approx([1, 1 / 1.5849625, 0.5])
    pages = np.array([[2, 0, 3], [0, -1, -1], [-1, -1, -1]])
    assert expected_revenue(pages, gain) == pytest.approx([20 + 1 / 1.5849625 + 4, 1, 0])


def test_values_of_a_half_know_nothing_of_the_other(parts: Parts) -> None:
    split = parts.people.split
    swapped = dataclasses.replace(split, half=np.where(split.half == JUDGED, -1, split.half).astype(np.int8))
    people = dataclasses.replace(parts.people, split=swapped)
    assert (value_table(people, parts.pages.films, parts.worth, LOGGED) == parts.values[0]).all()
    assert not (value_table(people, parts.pages.films, parts.worth, JUDGED) == parts.values[1]).all()
    log = request_log(
        people, parts.states, parts.pages, parts.space.distinct, parts.worth, parts.config.spec, parts.config.log,
        parts.config.split.tiers, parts.config.seed,
    )  # fmt: skip
    written = pd.read_parquet(parts.folder / LOG_FILE)
    assert (log["revenue"].to_numpy() == written["revenue"].to_numpy()).all()  # rewards never meet the judged half


def test_propensities_sum_to_one_and_match_frequencies() -> None:
    spec = RequestSpec(agents={"retrieval": ["a1", "a2"], "ranking": ["a3"]}, sizes={"a1": 3, "a2": 2, "a3": 2})
    policy = LoggingPolicy(spec, 0.4, tiers=3)
    value, activity = np.repeat([0, 2], 60_000), np.repeat([0, 1], 60_000)
    exact = policy.probabilities(value[[0, -1]], activity[[0, -1]])
    assert exact.sum(axis=1) == pytest.approx(1)
    joint, propensity = policy.act(value, activity, np.random.default_rng(0))
    for part, row in ((slice(0, 60_000), exact[0]), (slice(60_000, None), exact[1])):
        assert propensity[part] == pytest.approx(row[joint[part]])
        seen = np.bincount(joint[part], minlength=12) / 60_000
        assert np.abs(seen - row).max() < 4 * np.sqrt(0.25 / 60_000)
    assert policy.rule(np.array([0, 1, 2]), np.array([0, 1, 2])).tolist() == [[0, 0, 0], [1, 1, 1], [2, 1, 1]]


def test_the_log_is_what_the_contract_says(parts: Parts) -> None:
    spec = parts.config.spec
    log = pd.read_parquet(parts.folder / LOG_FILE)
    read = spec.read(parts.folder / LOG_FILE, results=True)
    assert len(read) == 4 * len(parts.people.visits)
    assert log["timestamp"].is_monotonic_increasing
    assert (read["revenue"].to_numpy() == log["revenue"].to_numpy()).all()
    assert read["propensity"].between(0, 1).all()
    joint = spec.joint_index(log)
    pages = parts.pages.films[log["visit"], parts.space.distinct[joint]]
    assert (log["impressions"].to_numpy() == (pages >= 0).sum(axis=1)).all()
    assert ((log["revenue"] > 0) == (log["clicks"] > 0)).all()
    assert (log["retrieved"] >= log["preranked"]).all()
    assert (log["preranked"] <= 25).all()
    users = parts.people.ratings.users[parts.people.visits.user[log["visit"]]]
    assert (log["user"].to_numpy() == users).all()
    money = parts.worth.user[parts.people.visits.user[log["visit"]]]
    assert money[log["user_value"] == 0].max() < money[log["user_value"] == 2].min()


def test_mean_rewards_of_the_log_are_the_logged_values(parts: Parts) -> None:
    config = tiny_config(Path(), "log.draws=400").log
    spec, distinct = parts.config.spec, parts.space.distinct
    arguments: Any = (parts.people, parts.states, parts.pages, distinct, parts.worth, spec, config, 3, 5)
    log = request_log(*arguments)
    expected = parts.values[0][log["visit"], distinct[spec.joint_index(log)]]
    error = log["revenue"] - expected
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    assert log["revenue"].mean() > 10 * 4 * error.std() / np.sqrt(len(error))  # the bound says something


def test_the_order_of_measuring_repeats_and_is_random() -> None:
    order = measuring_order(3, 2, 50, seed=4)
    assert (order == measuring_order(3, 2, 50, seed=4)).all()
    assert (np.sort(order, axis=1) == np.arange(100)).all()
    assert not (order[0] == order[1]).all()
    assert not (order == measuring_order(3, 2, 50, seed=5)).all()


def test_costs_take_the_median_over_rounds_and_say_how_rounds_differ() -> None:
    rounds = np.array([[[[1.0, 2], [4, 4]]], [[[1, 4], [4, 4]]], [[[9, 3], [4, 4]]]])
    costs = Costs(rounds)
    assert costs.table.tolist() == [[[1, 3], [4, 4]]]
    totals = np.array([3.0, 5, 12])
    assert costs.between_round_cv == pytest.approx([totals.std(ddof=1) / totals.mean(), 0])
    frame = costs.frame(["one", "two"])
    assert (Costs.of_frame(frame).rounds == rounds).all()
    assert frame["action"].tolist() == ["one", "two"] * 3


def test_a_tier_that_nobody_visits_in_costs_nothing_known(parts: Parts) -> None:
    """Where histories are equally long, quantiles cut empty tiers."""
    request = parts.people.request(parts.people.visits, 0)
    config = CostConfig(rounds=2, visits=1)
    found = measure_costs(parts.cascade, [[], [request], []], parts.space, config, seed=0)
    assert np.isnan(found.table[[0, 2]]).all()
    assert (found.table[1, :, 0] > 0).all()
    assert np.isfinite(found.between_round_cv).all()


def test_every_service_is_measured_but_what_is_not_asked(parts: Parts) -> None:
    cached = np.array([one.cached for one in parts.space.settings])
    assert (parts.costs.rounds[:, :, :, 0] > 0).all()
    assert (parts.costs.rounds[:, :, ~cached, 1] > 0).all()
    assert (parts.costs.rounds[:, :, cached, 1] == 0).all()  # the kept answer asks nothing of ranking


def test_variance_shares_by_hand() -> None:
    generator = np.random.default_rng(0)
    user = np.repeat(np.arange(400), 10)
    states = pd.DataFrame({"taste": user % 2, "noise": generator.integers(0, 800, 4000)})
    level, sign = generator.normal(0, 2, 400)[user], np.where(user % 2 == 0, 1.0, -1.0)
    luck = 3 * generator.normal(size=(4000, 2))
    values = level[:, None] + sign[:, None] * np.array([3.0, -3]) + np.array([1.0, -1]) + luck
    found = variance_shares(values, states, user, 0)
    total = values.var()
    assert found["profile"] == pytest.approx(1 / total, rel=0.2)
    assert found["departure"]["taste"] == pytest.approx(9 / total, rel=0.05)
    assert found["departure"]["noise"] == pytest.approx(
        0, abs=0.01
    )  # five visits a group: their own means would say .04
    assert found["between_visits"] == pytest.approx((level.var() + 4.5) / total, rel=0.05)
    assert abs(found["level"]["taste"]) < 0.02
    rich = variance_shares(values + 4 * sign[:, None], states, user, 0)
    assert rich["level"]["taste"] == pytest.approx(16 / (total + 16), rel=0.1)
    nothing = variance_shares(np.ones((4, 2)), states[:4], user[:4], 0)
    assert (nothing["profile"], nothing["level"]["taste"]) == (0, 0)


def test_truth_by_state_is_the_mean_over_its_visits(parts: Parts) -> None:
    spec, space = parts.config.spec, parts.space
    truth = read_scores(parts.folder / STATES_FILE, spec)
    assert list(truth.scores) == ["value", "cost_retrieval", "cost_ranking"]
    visits = pd.read_parquet(parts.folder / VISITS_FILE)
    first = truth.states.iloc[3]
    own = (visits[list(spec.state)].astype(str) == first).all(axis=1).to_numpy()
    assert own.any()
    assert truth.scores["value"][3] == pytest.approx(parts.values[1][own].mean(axis=0)[space.distinct], rel=1e-5)
    cost = parts.costs.table[int(first["history"])][space.distinct]
    assert truth.scores["cost_ranking"][3] == pytest.approx(cost[:, 1], rel=1e-5)


@pytest.mark.slow
def test_a_build_goes_on_where_it_was_interrupted(
    parts: Parts, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_folder)
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "_measured", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(config, tmp_path / "run")
    unfinished = next((tmp_path / "run").glob("unfinished-*"))
    written = (unfinished / PAGES_FILE).stat().st_mtime_ns
    out = build(config, tmp_path / "run").folder
    assert (out / PAGES_FILE).stat().st_mtime_ns == written
    for file in (LOG_FILE, PAGES_FILE, VISITS_FILE):
        assert (out / file).read_bytes() == (parts.folder / file).read_bytes(), file  # and the same seed gives the same
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml", "costs.png", "load", "logs", "models.pt", "summary.json", "truth", "values.png", "versions.json",
    ]  # fmt: skip


def test_the_summary_counts_what_it_says(parts: Parts) -> None:
    summary = read_json(parts.folder / "summary.json")
    assert "warnings" not in summary
    assert (summary["joint_actions"], summary["distinct_actions"]) == (810, 298)
    assert summary["value"]["least"] <= summary["value"]["best_with"]["none"] <= summary["value"]["best"]
    assert summary["value"]["own_half_best"] >= summary["value"]["best"]  # it knows what it is judged by
    rounds = pd.read_parquet(parts.folder / COSTS_FILE)["round"].nunique()
    assert (rounds, summary["visits"]) == (2, len(parts.people.visits))


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    frame = tiny_ratings()
    few = (frame["user"] == 3) & (frame.groupby("user").cumcount() >= 5)
    at_once = frame["time"].where(frame["user"] != 4, 880_000_000)
    spoilt = pd.concat([frame.assign(time=at_once)[~few], frame[frame["user"] == 7].head(6).assign(time=990_000_000)])
    built = build(tiny_config(write_100k(tmp_path / "data", spoilt)), tmp_path / "run")
    assert built.summary["duplicates"] == 6
    assert read_json(built.folder / "summary.json")["warnings"] == [
        "6 ratings left out: their user had rated the film before",
        "1 users left out: fewer ratings than data.min_ratings",
        "1 users never visit: their ratings cannot be cut in three by time",
    ]


@pytest.mark.slow
def test_a_learner_reads_the_log_by_configuration_alone(parts: Parts, tmp_path: Path) -> None:
    from awrq_mixer.config import EvaluateConfig, TrainConfig
    from awrq_mixer.evaluate import evaluate
    from awrq_mixer.train import train

    log = parts.folder / LOG_FILE
    config = TrainConfig(requests=str(log), spec=parts.config.spec, epochs=1, learner="regression")
    train(config, tmp_path / "learner")
    truth = str(parts.folder / STATES_FILE)
    judged = EvaluateConfig(
        checkpoint=str(tmp_path / "learner/best.pt"), requests=str(log), truth=truth, buckets=4, slices=[]
    )
    assert "truth" in evaluate(judged, tmp_path / "judged").summary


def test_leads_of_rankers_by_hand() -> None:
    """Two users; the best action with a ranker is the one with the largest mean."""
    judged = np.array([[1.0, 3.0, 2.0, 5.0], [1.0, 1.0, 2.0, 5.0], [1.0, 1.0, 2.0, 2.0]])
    user = np.array([0, 0, 1])
    by_ranker = {"none": np.array([0, 1]), "small": np.array([2]), "large": np.array([3])}
    found = ranker_leads(by_ranker, judged, user, seed=0)
    assert set(found) == {"small_over_none", "large_over_small"}
    small = found["small_over_none"]  # −1, 1 of user 0 and 1 of user 1
    assert small["mean"] == pytest.approx(1 / 3)
    assert small["low"] == pytest.approx(0.0)  # user 0 drawn twice
    assert small["high"] == pytest.approx(1.0)  # user 1 drawn twice
    large = found["large_over_small"]  # 3, 3 and 0
    assert (large["mean"], large["low"], large["high"]) == pytest.approx((2.0, 0.0, 3.0))
