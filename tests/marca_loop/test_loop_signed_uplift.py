"""An uplift from a request log and a table of costs alone, as a platform has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_loop.judged_half import LOGGED, POLICY, RIVALS, STATIC, Decided, price_at, worth_of
from marca_loop.signed_uplift import SignedUplift, halves_of, judged_halves, signed_uplift_of_log
from marca_loop.uplift_tables import saved
from revenue_sim.off_policy.directions import ActionEffects
from revenue_sim.off_policy.signed import UNTOLD, Effects, signed_uplift

SPEC = RequestSpec(
    state={"tier": "category", "kind": "category"},
    agents={"one": ["a1", "a2"], "two": ["a3"]},
    sizes={"a1": 3, "a2": 2, "a3": 3},
)
ROWS = 4000


def own_log(seed: int = 0, rows: int = ROWS) -> pd.DataFrame:
    """Kinds of requests that gain by different sub-actions; higher tiers earn more and were given more."""
    generator = np.random.default_rng(seed)
    tier, kind = generator.integers(0, 4, rows), generator.integers(0, 5, rows)
    explore = generator.random((rows, 3)) < 0.5
    random = generator.integers(0, SPEC.shape, (rows, 3))
    ruled = np.minimum(tier[:, None], np.array(SPEC.shape) - 1)
    action = np.where(explore, random, ruled)
    gain = np.where(kind[:, None] % 2 == 0, [0.4, 0.0, 0.1], [0.0, 0.5, 0.1])
    mean = np.exp(0.4 * tier + (gain * action).sum(axis=1))
    frame = pd.DataFrame({"tier": [f"t{one}" for one in tier], "kind": [f"k{one}" for one in kind]})
    frame["timestamp"] = pd.Timestamp("2026-01-05") + pd.to_timedelta(np.arange(rows) * 60, unit="s")
    for j, name in enumerate(SPEC.sub_actions):
        frame[name] = action[:, j]
    frame["revenue"] = mean * generator.gamma(0.5, 2.0, rows)
    return frame


def cost_table() -> pd.DataFrame:
    table = pd.DataFrame(SPEC.joint_table(), columns=list(SPEC.sub_actions))
    return table.assign(cpu=1.0 + table["a1"] + table["a2"], gpu=0.5 * table["a3"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    own_log().to_parquet(folder / "requests.parquet")
    cost_table().to_csv(folder / "costs.csv", index=False)
    return folder


def config_of(files: Path, *overrides: str) -> SignedUplift:
    costs = {"estimator": None, "maps": None, "table": str(files / "costs.csv"), "services": ["cpu", "gpu"]}
    return load_config(
        SignedUplift,
        "configs/own_uplift.yaml",
        [
            f"requests={files / 'requests.parquet'}",
            f"spec={json.dumps(SPEC.model_dump(mode='json'))}",
            f"costs={json.dumps(costs)}",
            "learner.plus.surrogate=null",
            "learner.epochs=2",
            "spend_shares=[0.7, 0.8, 1.0]",
            "price_requests=500",
            "static_by=learner",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def result(files: Path) -> Any:
    return signed_uplift_of_log(config_of(files), files / "out")


def test_every_spend_and_rival_has_an_interval(result: Any) -> None:
    table = result.table
    assert table[["spend_share", "rival"]].to_numpy().tolist() == [[s, r] for s in (0.7, 0.8, 1.0) for r in RIVALS]
    assert (table["low_pct"] < table["uplift_pct"]).all()
    assert (table["uplift_pct"] < table["high_pct"]).all()
    assert table["warning"].isna().all()
    for share, part in table.groupby("spend_share"):
        spent = part.set_index("rival")[["core_ms", "rival_core_ms"]].drop(index=LOGGED).to_numpy()
        assert spent == pytest.approx(float(str(share)) * result.summary["core_ms_today"], rel=0.02)


def test_what_a_manager_asks_is_in_the_summary_and_on_disk(result: Any) -> None:
    summary = json.loads((result.out / "summary.json").read_text())
    assert summary["rows"] == ROWS
    stored = pd.read_csv(result.out / "uplift.csv")
    today = stored[(stored["spend_share"] == 1.0) & (stored["rival"] == LOGGED)].iloc[0]
    assert summary["at_todays_spend"][LOGGED]["low_pct"] == pytest.approx(today["low_pct"])
    assert set(summary["at_20_pct_less_cpu"]) == set(RIVALS)
    assert all("tier" in one for one in summary["propensities"]["groupings"])
    assert summary["propensities"]["calibration"] < 5
    assert summary["check_by_matches"]["effective_rows"] > 80  # 18 joint actions: here rows that match can tell, too
    matched, effects = summary["check_by_matches"], summary["at_todays_spend"][LOGGED]
    assert matched["low_pct"] < effects["uplift_pct"] < matched["high_pct"]
    assert all((result.out / name).stat().st_size > 5000 for name in ("uplift.png", "power.png"))
    assert f"{effects['uplift_pct']:+.1f} %" in (result.out / "report.html").read_text()


def test_another_reward_for_the_same_decisions(files: Path, tmp_path: Path) -> None:
    """Twice the revenue is the same uplift; revenue that is the same for all is no uplift."""
    config = config_of(files)
    halves, _ = judged_halves(config, config.costs.per_state(config.spec), files / "out/halves")
    for half in halves:
        ratios = [
            one.valued[1.0, POLICY].value / one.valued[1.0, LOGGED].value
            for one in (half, half.revalued(2 * half.reward), half.revalued(np.ones(len(half.ids))))
        ]
        assert ratios[1] == pytest.approx(ratios[0])
        assert ratios[2] == pytest.approx(1, abs=0.01)


def test_errors_hold_what_effects_leave_out(result: Any, files: Path) -> None:
    config = config_of(files)
    halves, _ = judged_halves(config, config.costs.per_state(config.spec), files / "out/halves")
    ours, logged = ([one.valued[1.0, name] for one in halves] for name in (POLICY, LOGGED))
    of_rows = signed_uplift(ours, logged).se
    assert of_rows is not None
    table = result.table.set_index(["spend_share", "rival"])
    assert table.loc[(1.0, LOGGED), "se_log"] == pytest.approx(np.hypot(of_rows, 0.03))


def test_power_falls_with_exploration_which_costs_revenue(result: Any) -> None:
    power = pd.read_csv(result.out / "power.csv")
    assert power["rows"].notna().any()
    for _, part in power.groupby("rival"):
        rows = part.sort_values("explored")["rows"].to_numpy()
        assert rows[-1] < rows[0] or np.isnan(rows).all()  # a lead too small for any number of rows
        assert part["cost_pct"].iloc[0] == 0
        assert part["days"].to_numpy() == pytest.approx(part["rows"].to_numpy() / 1440, rel=1e-3, nan_ok=True)


def test_trained_halves_are_reused(result: Any, files: Path) -> None:
    (state,) = files.glob("out/halves/*/0/values/last.pt")
    before = state.stat().st_mtime_ns
    again = signed_uplift_of_log(config_of(files), files / "out")
    assert state.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again.table, result.table)


def test_users_as_clusters(result: Any, files: Path, tmp_path: Path) -> None:
    """Ten groups are few: the interval says so."""
    found = signed_uplift_of_log(config_of(files, 'split_by=["kind", "tier"]'), tmp_path / "out")
    by_row, by_group = (one.table[one.table["spend_share"] == 1.0].iloc[1] for one in (result, found))
    assert by_group["high_pct"] - by_group["low_pct"] > by_row["high_pct"] - by_row["low_pct"]


def test_a_foreign_log(files: Path, tmp_path: Path) -> None:
    """Other names, another separator, a numeric state column, noise below 0, and a sub-action with one choice."""
    log = own_log(rows=1500).assign(a3=0, age=np.arange(1500) % 60)
    log.loc[3, "revenue"] = -0.01
    log.rename(columns={"a1": "depth", "revenue": "money"}).to_csv(tmp_path / "log.csv", sep=";", index=False)
    spec = SPEC.model_dump(mode="json") | {
        "state": {"tier": "category", "age": "numeric"},
        "sizes": {"a1": 3, "a2": 2, "a3": 1},
        "columns": {"depth": "a1", "money": "revenue"},
        "separator": ";",
        "negative": {"revenue": "clip"},
    }
    table = cost_table()
    table[table["a3"] == 0].to_csv(tmp_path / "costs.csv", index=False)
    costs = json.dumps({"estimator": None, "maps": None, "table": str(tmp_path / "costs.csv"), "services": ["cpu"]})
    config = config_of(files, f"spec={json.dumps(spec)}", f"costs={costs}", f"requests={tmp_path / 'log.csv'}")
    found = signed_uplift_of_log(config, tmp_path / "out")
    assert found.table["low_pct"].notna().all()


def test_worth_of_decisions_against_a_loop_over_rows() -> None:
    """Row by row, and the gradient by differences: two rules of unequal weight, four states, thirty rows."""
    generator = np.random.default_rng(0)
    actions, ids, joint = ActionEffects.of((2, 3)), generator.integers(0, 4, 30), generator.integers(0, 6, 30)
    along, reward = generator.normal(size=(30, 3)), generator.gamma(1.0, size=30)
    chosen, there = generator.integers(0, 6, (2, 4)), generator.normal(size=(2, 4, 3))
    decided = Decided(np.array([0.3, 0.7]), chosen, there, 1.0)
    size = actions.columns.shape[1] + 3
    slope = 0.3 * generator.normal(size=size)

    def mean(slope: np.ndarray) -> float:
        earned = 0.0
        for i, state in enumerate(ids):
            for w, weight in enumerate(decided.weights):
                new = np.r_[actions.columns[chosen[w, state]], there[w, state]]
                old = np.r_[actions.columns[joint[i]], along[i]]
                earned += weight * reward[i] * np.exp(slope @ (new - old)) / 30
        return float(earned)

    effects = Effects(slope, np.zeros((30, size)), np.zeros((size, size)), np.ones(size, bool), np.zeros(0))
    found = worth_of(effects, actions, decided, ids, joint, along, reward)
    assert found.value == pytest.approx(mean(slope))
    steps = 1e-5 * np.eye(size)
    assert found.gradient == pytest.approx(
        [(np.log(mean(slope + one)) - np.log(mean(slope - one))) / 2e-5 for one in steps], abs=1e-6
    )


def test_a_half_is_judged_by_what_the_other_learned(files: Path, tmp_path: Path) -> None:
    """The rows of half k are those that half k's model has not seen."""
    config = config_of(files, "spend_shares=[1.0]")
    halves, log = judged_halves(config, config.costs.per_state(config.spec), tmp_path)
    half = halves_of(log, None, config.seed)
    for k, one in enumerate(halves):
        (path,) = tmp_path.glob(f"*/{k}/requests.parquet")
        assert len(pd.read_parquet(path)) == (half == k).sum()
        assert one.reward.tolist() == log["revenue"][half != k].tolist()


def test_rows_of_equal_columns_share_a_half() -> None:
    log = own_log(rows=500)
    half = halves_of(log, ["kind"], 3)
    assert set(half) == {0, 1}
    assert (pd.Series(half).groupby(log["kind"]).nunique() == 1).all()
    assert (half == halves_of(log, ["kind"], 3)).all()
    assert halves_of(log, None, 3).mean() == pytest.approx(0.5, abs=0.1)
    assert pd.Series(halves_of(log, None, 3)).groupby(log["kind"]).nunique().eq(2).all()


def test_the_price_spends_the_budget_and_no_more() -> None:
    generator = np.random.default_rng(0)
    values, cost = generator.lognormal(size=(400, 12)), generator.lognormal(size=(400, 12))

    def spend(price: float) -> float:
        return float(cost[np.arange(400), np.argmax(values - price * cost, axis=1)].mean())

    for share in (0.3, 0.6, 0.9):
        budget = cost.min(axis=1).mean() * (1 - share) + share * spend(0.0)
        price = price_at(values, cost, budget)
        assert spend(price * 1.0001) <= budget + 0.01
        assert spend(price * 0.98) > budget - 0.02
    assert price_at(values, cost, 1e9) == 0.0


def test_cpu_saved_by_hand() -> None:
    """The estimate crosses 0 halfway between .6 and .8, the upper end below the curve, the lower one never."""
    curve = pd.DataFrame(
        {"spend_share": [0.6, 0.8, 1.0], "uplift_pct": [-2, 2, 5], "low_pct": [-9.0, -5, -1], "high_pct": [1.0, 5, 9]}
    )
    assert saved(curve) == {"estimate": pytest.approx(30.0), "low": None, "high": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("spend_shares=[0.8]", "spend_shares: got .*expected 1.0, today's spend, among them"),
        ('split_by=["user"]', "split_by: got 'user'; expected some of"),
        ('costs={"table": "costs.csv"}', "services: got none; expected the table's service columns"),
        ('costs={"table": "costs.csv", "services": ["cpu", "cpu"]}', "services: got .*expected each once"),
        ('costs={"estimator": "a.pt"}', "give either estimator and maps, or table"),
    ],
)
def test_settings_that_cannot_be_meant(files: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(files, override)


def test_a_spend_that_buys_nothing(files: Path, tmp_path: Path) -> None:
    """The cheapest joint action costs 1 of some 3.4 core-ms."""
    with pytest.raises(
        UserError, match=r"spend_shares: got 0.1; the cheapest joint action alone costs 0.\d+ of today's"
    ):
        signed_uplift_of_log(config_of(files, "spend_shares=[0.1, 1.0]"), tmp_path / "out")


def test_a_table_that_lacks_actions(files: Path, tmp_path: Path) -> None:
    cost_table().iloc[:-1].to_csv(tmp_path / "short.csv", index=False)
    costs = json.dumps({"table": str(tmp_path / "short.csv"), "services": ["cpu"]})
    with pytest.raises(UserError, match=r"short.csv: 17 rows; expected each of 18 joint actions once"):
        signed_uplift_of_log(config_of(files, f"costs={costs}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tables_and_logs_that_cannot_be_judged(files: Path, tmp_path: Path) -> None:
    cost_table().assign(cpu=0.0).to_csv(tmp_path / "free.csv", index=False)
    table = '{"table": "%s", "services": ["%s"]}'
    two = own_log(rows=1500).assign(revenue=np.where(np.arange(1500) < 8, 1.0, 0.0))
    two.to_parquet(tmp_path / "two.parquet")
    for override, message in (
        (f"costs={table % (files / 'costs.csv', 'a1')}", "costs.services: got 'a1', a sub-action"),
        (f"costs={table % (tmp_path / 'free.csv', 'cpu')}", "costs: the log's actions cost 0 core-ms on average"),
        ('split_by=["kind"]', "split_by: 5 values of kind; expected at least 20"),
        (f"requests={tmp_path / 'two.parquet'}", r"reward: \d rows paid; expected at least 14"),
    ):
        with pytest.raises(UserError, match=message):
            signed_uplift_of_log(config_of(files, override), tmp_path / "out")


def test_a_sub_action_by_rule_is_named(files: Path, tmp_path: Path) -> None:
    log = own_log(rows=1500)
    log.assign(a1=log["kind"].str[1:].astype(int) % 3).to_parquet(tmp_path / "rule.parquet")
    signed_uplift_of_log(config_of(files, f"requests={tmp_path / 'rule.parquet'}"), tmp_path / "out")
    warnings = json.loads((tmp_path / "out/summary.json").read_text())["warnings"]
    assert warnings[0] == UNTOLD  # departures of a1 have no slope where it follows the state
    assert warnings[1].startswith("a1 hardly varies")
    assert len(warnings) == 2


def test_times_of_a_zone_are_read_once(files: Path, tmp_path: Path) -> None:
    """In UTC they stand in the hour that Berlin's clocks skip: the halves on disk must not be read as Berlin's."""
    log = own_log(rows=1500)
    log["timestamp"] = pd.Timestamp("2026-03-29 04:10") + pd.to_timedelta(np.arange(1500) // 2, unit="s")
    log.to_parquet(tmp_path / "log.parquet")
    spec = json.dumps(SPEC.model_dump(mode="json") | {"timezone": "Europe/Berlin"})
    config = config_of(files, f"spec={spec}", f"requests={tmp_path / 'log.parquet'}")
    assert signed_uplift_of_log(config, tmp_path / "out").summary["rows"] == 1500


@pytest.mark.slow
def test_static_rivals_by_a_profile_of_their_own(files: Path, tmp_path: Path) -> None:
    """The same learner, so the same policy; only its rivals are chosen by another profile."""
    own, other = (
        signed_uplift_of_log(config_of(files, f"static_by={by}"), tmp_path / by).table for by in ("learner", "profile")
    )
    logged = own["rival"] == LOGGED
    pd.testing.assert_frame_equal(own[logged], other[logged])
    static = (own["rival"] == STATIC) & (own["spend_share"] == 1.0)
    assert abs(own[static]["uplift_pct"].iloc[0] - other[static]["uplift_pct"].iloc[0]) > 1e-6
