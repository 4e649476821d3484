"""Who gets computation and why: hand-worked ledgers and contributions, and the program on a small world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_loop.explain import Explain, explain
from marca_loop.explain_figures import ledger_figure, mix_figure, spend_figure
from marca_loop.explaining import Decided, action_mix, agent_contributions, by_column, ledger

SPEC = RequestSpec(state={"user": "category"}, agents={"one": ["a1"], "two": ["a2"]}, sizes={"a1": 2, "a2": 2})
PRICE = np.array([1.0])


@pytest.mark.slow
def test_the_program_explains_a_run(finished: Path, tmp_path: Path) -> None:
    learner = next(path for path in sorted((finished / "anchored").glob("*/anchored.pt")))
    settings = {
        "checkpoint": str(learner), "estimator": str(finished / "costs/results/estimator.pt"),
        "cost_maps": str(finished / "costs/maps/cost_maps.json"), "requests": str(finished / "logs/logs/requests.parquet"),
        "price": {"retrieval": 1.0, "ranking": 1.0}, "max_states": 60,
    }  # fmt: skip
    found = explain(Explain.model_validate(settings), tmp_path / "out")
    at = found.by_column.groupby(["column", "factor"])
    assert np.allclose(at["requests"].sum(), 1)
    spent = found.by_column.assign(all=lambda t: (t["cost_retrieval"] + t["cost_ranking"]) * t["requests"])
    falling = spent.groupby(["column", "factor"])["all"].sum().unstack()
    assert (np.diff(falling.to_numpy(), axis=1) <= 1e-9).all()  # dearer computation: less of it
    assert falling.nunique(axis=1).min() > 1
    assert found.ledger["score"].iloc[0] == pytest.approx((found.ledger["q"] - found.ledger["priced_cost"]).max())
    names = {"by_column.csv", "action_mix.csv", "agents.csv", "ledger.csv", "ledger.png", "who_placement.png"}
    assert names <= {path.name for path in (tmp_path / "out").iterdir()}
    state = {"request": {"user_value": "v01"}}
    with pytest.raises(UserError, match="request: got user_value; expected the state columns"):
        explain(Explain.model_validate({**settings, **state}), tmp_path / "other")
    with pytest.raises(UserError, match="price: got x; expected one of each of retrieval, ranking"):
        explain(Explain.model_validate({**settings, "price": {"x": 1}}), tmp_path / "other")
    with pytest.raises(ValueError, match="factors: expected multiples of λ that fall"):
        Explain.model_validate({**settings, "factors": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"price": {"cpu": 0.0}}, "price: got 0 for all services"),
        ({"price": {"cpu": float("nan")}}, "finite"),
        ({"columns": ["user", "user"]}, "columns: expected each name once"),
        ({"factors": [1.0, 1.0]}, "factors: expected multiples of λ that fall"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(more: dict[str, Any], message: str) -> None:
    files = dict.fromkeys(("checkpoint", "estimator", "cost_maps", "requests"), "x")
    with pytest.raises(ValueError, match=message):
        Explain.model_validate({**files, "price": {"cpu": 1.0}, **more})


def test_figures_are_drawn_where_nothing_is_bought_and_values_are_no_numbers(tmp_path: Path) -> None:
    one = decided([[0.0, 1, 1, 1]] * 2, [[0.0, 1, 1, 2]] * 2, [0.5, 0.5])
    one.states["user"] = ["²", "2"]
    table = by_column(one, "user", np.array([9.0]), [2.0, 1.0])
    assert table["marginal"].isna().all()
    spend_figure(table, tmp_path / "who.png")
    mix_figure(action_mix(one, "user", PRICE, [1.0]), tmp_path / "mix.png")
    ledger_figure(ledger(one.q[0], one.c[0], PRICE, SPEC, ["cpu"]), tmp_path / "ledger.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


def decided(q: list[list[float]], c: list[list[float]], weight: list[float]) -> Decided:
    states = pd.DataFrame({"user": [str(row) for row in range(len(q))]})
    return Decided(states, np.array(weight), np.array(q), np.array(c)[..., None], ("cpu",), SPEC)


def test_a_ledger_by_hand() -> None:
    # Q − C: 1 − 0 = 1, 4 − 1 = 3, 5 − 3 = 2, 2 − 2 = 0. The last one never wins.
    # 0 → 1 at factor 3, 1 → 2 at factor 1/2.
    found = ledger(np.array([1.0, 4, 5, 2]), np.array([[0.0], [1], [3], [2]]), PRICE, SPEC, ["cpu"])
    assert found["joint"].tolist() == [1, 2, 0]
    assert found["behind"].tolist() == [0, 1, 2]
    assert found["factor_low"].tolist() == [0.5, 0, 3]
    assert found["factor_high"].tolist() == [3, 0.5, np.inf]
    assert found["price_cpu"].tolist()[1:] == [0.5, 3]
    assert np.isnan(found["price_cpu"][0])
    assert found[["a1", "a2"]].to_numpy().tolist() == [[0, 1], [1, 0], [0, 0]]


numbers = st.lists(st.floats(0, 9), min_size=4, max_size=4)


@given(numbers, numbers, numbers, st.floats(0.1, 5))
def test_the_ledger_says_who_wins_at_each_factor(q: list[float], c: list[float], d: list[float], factor: float) -> None:
    costs, price = np.array([c, d]).T, np.array([0.7, 1.3])
    found = ledger(np.array(q), costs, price, SPEC, ["x", "y"])
    score = np.array(q) - factor * costs @ price
    inside = found[(found["factor_low"] < factor) & (factor < found["factor_high"])]
    assert all(score[joint] >= score.max() - 1e-9 for joint in inside["joint"])
    runner_up = np.sort(np.array(q) - costs @ price)[-2]
    assert found["score"].iloc[1] == pytest.approx(runner_up)


def test_at_the_price_that_it_names_the_runner_up_is_as_good() -> None:
    q, c = np.array([1.0, 3, 3.5, 2]), np.array([[0.1, 0.2], [1, 1], [1.5, 1.4], [0.5, 0.9]])
    price = np.array([0.6, 0.5])
    found = ledger(q, c, price, SPEC, ["x", "y"])
    best = found["joint"].iloc[0]
    for d, name in enumerate(["x", "y"]):
        for row in found.iloc[1:].itertuples():
            changed = price.copy()
            changed[d] = getattr(row, f"price_{name}")
            if np.isfinite(changed[d]):
                score = q - c @ changed
                assert score[row.joint] == pytest.approx(score[best])
    assert found[["price_x", "price_y"]].notna().any(axis=None)


def test_contributions_by_hand() -> None:
    # Two users, equally many. a1 = 1 is worth 4 to the first alone, a2 = 1 is worth 2 to the second alone; each costs 1.
    c = [[0.0, 1.0, 1.0, 2.0]] * 2
    q = [[0.0, 0.0, 4.0, 4.0], [0.0, 2.0, 0.0, 2.0]]
    found = agent_contributions(decided(q, c, [0.5, 0.5]), PRICE).set_index("agent")
    # nobody looks: a1 = 1 for all earns (3 − 1)/2 = 1, a2 = 1 for all (−1 + 1)/2 = 0; all look: (3 + 1)/2 = 2
    assert found.loc["all"].tolist() == [1, 1]
    assert found.loc["one"].tolist() == [0.5, 0.5]  # one alone: 3/2, with a2 the same for both
    assert found.loc["two"].tolist() == [0.5, 0.5]  # two alone: a1 = 1 for all, (3 − 1 + 1)/2


def test_who_gets_what_by_hand() -> None:
    c = [[0.0, 1, 1, 2]] * 2
    q = [[0.0, 0.1, 4, 4.1], [0, 2, 0.1, 2.1]]
    table = by_column(decided(q, c, [0.75, 0.25]), "user", PRICE, [3.0, 1.0, 0.05])
    first, second = (table[table["of"] == user].reset_index(drop=True) for user in ("0", "1"))
    assert first["cost_cpu"].tolist() == [1, 1, 2]
    assert second["cost_cpu"].tolist() == [0, 1, 2]
    assert first["requests"].tolist() == [0.75] * 3
    assert second["marginal"].tolist()[1:] == pytest.approx([2, 0.1])  # 2 money for the first core-ms, 0.1 for the next
    assert np.isnan(first["marginal"][1])  # nothing more was bought
    assert first["return"].tolist() == pytest.approx([4, 4, 2.05])
    mix = action_mix(decided(q, c, [0.75, 0.25]), "user", PRICE, [1.0]).set_index(["of", "sub_action", "choice"])
    assert mix["share"].to_dict() == {("0", "a1", 1): 1, ("1", "a1", 0): 1, ("0", "a2", 0): 1, ("1", "a2", 1): 1}


@given(st.integers(0, 1000))
def test_contributions_lie_between_nothing_and_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = decided(rng.random((5, 4)).tolist(), rng.random((5, 4)).tolist(), [0.2] * 5)
    found = agent_contributions(one, PRICE)
    whole = found["alone"][0]
    for name in ("alone", "without"):
        assert ((found[name] >= -1e-12) & (found[name] <= whole + 1e-12)).all()


def test_a_column_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="columns: got 'city'; expected state columns, of user"):
        by_column(decided([[0.0] * 4], [[0.0] * 4], [1.0]), "city", PRICE, [1.0, 0.5])
