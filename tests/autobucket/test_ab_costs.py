"""Eq. 26, isotonic regression, cost maps and the fit from load-test rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobucket.costs.additive import fit_additive
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.measured_costs import cost_per_request
from autobucket.costs.queue_curves import choose_knots, ramp_basis
from autobucket.fit_costs import fit_costs, fit_service
from marca_common.config import load_config
from marca_common.cost_maps import ActionsConfig, CostMaps, interpolate
from marca_common.errors import UserError
from tests.autobucket.conftest import ACTIONS, SETS, make_loadtest, true_cost
from tests.reference.isotonic_reference import isotonic_by_max_min

values = st.lists(st.tuples(st.floats(-50, 50, allow_nan=False), st.floats(0.1, 10)), min_size=1, max_size=14)


def test_cost_per_request_by_hand() -> None:
    # 50 % of 2 machines with 16 cores at 4,000 requests a second: 16 core-seconds a second over 4,000 requests
    assert cost_per_request(*map(np.asarray, (50.0, 2, 16, 4000.0))) == pytest.approx(4.0)
    # idle 2 %: 0.48 · 32 = 15.36 core-seconds a second
    assert cost_per_request(*map(np.asarray, (50.0, 2, 16, 4000.0, 2.0))) == pytest.approx(3.84)
    with pytest.raises(ValueError, match="positive rate"):
        cost_per_request(np.array([50.0, 2.0]), np.array(2), np.array(16), np.array([10.0, 0.0]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.5, 20), min_size=8, max_size=14))
def test_a_curve_without_smoothing_is_the_isotonic_regression(costs: Any) -> None:
    """One queue, a knot at each length: the fit is the isotonic regression under the weights of its last round."""
    y, n = np.array(costs), len(costs)
    rows = pd.DataFrame({"length": 10.0 * np.arange(1, n + 1), "cost": y})
    actions = ActionsConfig.model_validate({"idc": None, "elements": {"length": {}}})
    config = FitCostsConfig(loadtest="none.csv", actions=actions, smoothness=0, merge_pct=0)
    found = fit_additive(config, rows, "here")
    level = np.full(n, np.median(y))
    for _ in range(3):
        expected = isotonic_by_max_min(y, 1 / level**2)
        level = np.maximum(expected, 0.05 * np.median(y))
    np.testing.assert_allclose(found.fitted, expected, rtol=2e-3)


@settings(deadline=None)
@given(values, st.floats(-10, 200))
def test_ramps_times_nonnegative_steps_never_fall(pairs: Any, start: Any) -> None:
    knots = start + np.cumsum([p[1] for p in pairs])
    steps = np.abs([p[0] for p in pairs])[: max(len(knots) - 1, 0)]
    x = np.linspace(knots[0] - 5, knots[-1] + 5, 50)
    curve = ramp_basis(x, knots) @ steps
    assert (np.diff(curve) >= -1e-9).all()
    np.testing.assert_allclose(curve, interpolate(x, knots, np.concatenate([[0], np.cumsum(steps)])), atol=1e-6)


def test_choose_knots_merges_near_lengths_and_keeps_the_ends() -> None:
    assert choose_knots(np.array([10.0, 10.1, 50.0, 50.2, 100.0]), 16, 2.0).tolist() == [10.0, 50.0, 100.0]
    many = choose_knots(np.arange(1.0, 500.0), 8, 0.0)
    assert len(many) == 8
    assert (many[0], many[-1]) == (1.0, 499.0)


def fit(tmp_path: Path, rows: pd.DataFrame, actions: dict[str, Any], **options: Any) -> Any:
    path = tmp_path / "loadtest.csv"
    rows.to_csv(path, index=False)
    config = FitCostsConfig(loadtest=path, actions=ActionsConfig.model_validate(actions), bootstrap=5, **options)
    return fit_costs(config, tmp_path / "costs")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fit of noisy rows, and its folder."""
    folder = tmp_path_factory.mktemp("fitted")
    return fit(folder, make_loadtest(noise=0.02), ACTIONS), folder


def test_known_costs_are_recovered(fitted: Any) -> None:
    result, folder = fitted
    maps = CostMaps.load(folder / "costs/cost_maps.json")
    assert maps.services == ("retrieval", "ranking")
    for idc in ("north", "south"):
        for service in maps.services:
            for channels in SETS:
                for model in ("light", "heavy"):
                    lengths = {"retrieved": np.array([25.0, 100.0, 300.0]), "preranked": np.array([10.0, 50.0, 70.0])}
                    found = maps.cost(idc, service, lengths, channels, {"model": model})
                    pairs = zip(lengths["retrieved"], lengths["preranked"])
                    truth = [true_cost(service, idc, channels, model, r, p) for r, p in pairs]
                    np.testing.assert_allclose(found, truth, rtol=0.03)
    assert result.summary["left_out_error_pct"] < 4
    assert result.summary["idle_percent"]["north.retrieval"] == pytest.approx(1.5)
    assert max(result.summary["additivity_pct"].values()) < 2


def test_f_of_d_is_the_saving_at_a_level(tmp_path: Path) -> None:
    fit(tmp_path, make_loadtest(), ACTIONS)
    one = CostMaps.load(tmp_path / "costs/cost_maps.json").maps["north"]["ranking"]
    cost = true_cost("ranking", "north", "1+2", "light", 160.0, 40.0)
    assert one.degradation[0] == [0.0, 1.0, 2.0]
    np.testing.assert_allclose(one.degradation[1], [0, -0.2 * cost, -0.4 * cost], rtol=1e-6, atol=1e-9)


def test_a_dependence_on_load_is_found_and_normalised_to_the_higher_load(tmp_path: Path) -> None:
    result = fit(tmp_path, make_loadtest(load_slope=-0.4), ACTIONS)
    # from 25 to 55 % load the cost falls by 0.9 → 0.78: −13 %
    for change in result.summary["rate_sensitivity_pct"].values():
        assert change == pytest.approx(100 * (0.78 / 0.9 - 1), abs=1.5)
    maps, lengths = result.maps, {"retrieved": np.array([40.0]), "preranked": np.array([40.0])}
    plain = true_cost("ranking", "north", "1+2", "light", 40.0, 40.0)
    assert maps.cost("north", "ranking", lengths, "1+2", {"model": "light"}) == pytest.approx(0.78 * plain, rel=0.02)
    low = maps.cost("north", "ranking", lengths, "1+2", {"model": "light"}, load=25)
    assert low == pytest.approx(0.9 * plain, rel=0.03)


def test_a_surcharge_of_channel_pairs_is_reported(tmp_path: Path) -> None:
    rows = make_loadtest()
    several = rows["channels"].str.count(r"\+") >= 1
    rows.loc[several, "cpu_percent"] *= 1.15
    additivity = fit(tmp_path, rows, ACTIONS).maps.maps["north"]["ranking"].quality["additivity"]
    assert additivity["testable"]
    assert additivity["worst_pct"] > 3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_fitted_cost_never_falls_with_a_queue_or_a_channel(seed: int) -> None:
    rows = make_loadtest(noise=0.5, rounds=1, seed=seed)
    rows = rows[(rows["idc"] == "north") & (rows["service"] == "ranking")].assign(bucket="").reset_index(drop=True)
    config = FitCostsConfig(loadtest="none.csv", actions=ActionsConfig.model_validate(ACTIONS), bootstrap=0)
    one, _ = fit_service(config, "north", "ranking", rows, np.random.default_rng(0))
    maps = CostMaps(("ranking",), ("north",), config.actions, {"north": {"ranking": one}})
    x = np.linspace(0, 600, 61)
    for model in ("light", "heavy"):
        by_set = [maps.cost("north", "ranking", {"retrieved": x, "preranked": x}, c, {"model": model}) for c in SETS]
        assert (np.diff(by_set, axis=1) >= -1e-9).all()
        assert (np.diff(by_set, axis=0) >= -1e-9).all()


def change(rows: Any, where: Any, column: Any, value: Any) -> Any:
    out = rows.astype({column: object})
    out.loc[where, column] = value
    return out


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda r: r.drop(columns="cpu_percent"), "column 'cpu_percent' is missing"),
        (lambda r: change(r, 3, "cpu_percent", 130.0), "row 4, column 'cpu_percent': got 130"),
        (lambda r: r.assign(qps=0.0), "got only 0"),
        (lambda r: change(r, 5, "retrieved", np.nan), "column 'retrieved': got an empty value"),
        (lambda r: r[r["model"] == "light"], "setting 'heavy' was never measured"),
        (lambda r: r[~r["channels"].str.contains("4")], "channel '4' was never measured"),
        (lambda r: r.assign(cpu_percent=1.6), "rows use more than 0.5 % CPU above idle"),
        (lambda r: r[(r["idc"] == "north") | (r["service"] == "ranking")], "has no rows of service 'retrieval'"),
        (lambda r: r.iloc[:0], "no rows"),
    ],
)
def test_bad_load_tests_get_one_line(tmp_path: Path, spoil: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        fit(tmp_path, spoil(make_loadtest(rounds=1)), ACTIONS)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "costs/cost_maps.json").exists()


def test_bad_map_files_get_one_line(tmp_path: Path, fitted: Any) -> None:
    content = json.loads((fitted[1] / "costs/cost_maps.json").read_text())
    curve = content["maps"]["north"]["ranking"]["queues"]["preranked"]["all"]
    curve["cost"] = curve["cost"][::-1]
    for spoiled, message in [
        (content, "never fall"),
        (content | {"format": "other"}, "not a cost map"),
        (content | {"maps": {}}, "'north' is missing"),
        ({k: v for k, v in content.items() if k != "services"}, "'services' is missing"),
    ]:
        path = tmp_path / "spoiled.json"
        path.write_text(json.dumps(spoiled))
        with pytest.raises(UserError, match=message):
            CostMaps.load(path)


def test_a_map_survives_its_file(fitted: Any) -> None:
    maps, again = fitted[0].maps, CostMaps.load(fitted[1] / "costs/cost_maps.json")
    lengths = {"retrieved": np.linspace(0, 500, 20), "preranked": np.linspace(0, 100, 20)}
    for service in maps.services:
        for model in ("light", "heavy"):
            first, second = (
                m.cost("south", service, lengths, "1+2", {"model": model}, 40.0, 1.0) for m in (maps, again)
            )
            np.testing.assert_allclose(first, second, rtol=1e-9)


def test_shipped_costs_config_fits_the_request_spec() -> None:
    from marca_common.requests import RequestSpec

    load_config(FitCostsConfig, "configs/autobucket/costs.yaml").actions.check_spec(RequestSpec())


@pytest.mark.parametrize(
    "override, message",
    [
        ("actions.channel_switch=modle", "unknown switch 'modle'"),
        ("actions.elements={}", "at least one element"),
        ("max_knot=3", "did you mean 'max_knots'"),
    ],
)
def test_bad_cost_configs(override: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(FitCostsConfig, "configs/autobucket/costs.yaml", [override])
