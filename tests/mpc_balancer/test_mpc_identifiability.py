"""Can the table say what λ does? Refusals and warnings before training, and the learned relief."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpc_fixtures import trained_model
from price_tables import (
    HIGH,
    PLANT,
    SCALE,
    after_traffic,
    arrivals,
    as_data,
    constant,
    dithered,
    ruled,
    seldom,
    together,
)

from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.system import system_table
from mpc_balancer.config import ColumnsConfig, ControllerConfig, SystemModelConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.price_scale import PriceScale, without_outliers
from mpc_balancer.system_model.identifiability import learned_relief, price_move_skill, swapped, unidentified, unsure
from mpc_balancer.system_model.minute_table import prices_in_force
from mpc_balancer.system_model.price_effects import long_run, price_effects
from mpc_balancer.system_model.table_checks import odd_data, require_learnable
from mpc_balancer.testbed.commissioning import commissioned_table, excite
from mpc_balancer.testbed.control_loop import closed_loop
from mpc_balancer.testbed.reference_plant import ReferencePlant
from mpc_balancer.train import fit_model, load_data, train


def verdict(frame: pd.DataFrame, high: Any = None) -> tuple[list[str], list[str]]:
    """Sentences on what cannot be told, and on what looks swapped."""
    data = as_data(frame)
    effects = price_effects(data, PriceScale.from_data(data.price, high))
    return unidentified(data, effects), swapped(data, effects)


# -- the regression ------------------------------------------------------------------------------------------------------


def law(rng: np.random.Generator, slope: float, minutes: int = 700) -> pd.DataFrame:
    """Minutes of log CPU' = a + log traffic - slope · u' + noise, with u' drawn anew each minute."""
    unit = rng.uniform(0.2, 0.8, (minutes, 2))
    qps = 300 * np.exp(0.3 * np.sin(np.arange(minutes) / 100) + 0.02 * rng.standard_normal(minutes))
    cpu = 50 * (qps[:, None] / 300) * np.exp(-slope * (unit - 0.5) + 0.02 * rng.standard_normal((minutes, 2)))
    frame = pd.DataFrame(
        {"timestamp": pd.date_range("2026-01-01", periods=minutes, freq="min"), "idc": "a", "qps": qps}
    )
    for j, name in enumerate(PLANT.services):
        frame[f"cpu_{name}"], frame[f"lambda_{name}"] = cpu[:, j], SCALE.from_unit(unit)[:, j]
        frame[f"next_cpu_{name}"] = frame[f"cpu_{name}"].shift(-1)
    return frame.assign(next_qps=frame["qps"].shift(-1)).iloc[:-1]


def test_the_regression_is_least_squares_on_all_terms_at_once() -> None:
    data = as_data(law(np.random.default_rng(0), 0.8), extras=[])
    found = price_effects(data, SCALE)
    now, coming = (SCALE.to_unit(one) for one in prices_in_force(data))
    rows = np.arange(1, len(data) - 1)  # the first has none before it, the last row's next price is not in the table
    logs = [np.log(one) for one in (data.next_qps[rows], data.qps[rows], data.qps[rows - 1])]
    after, qps, past = (one - one.mean() for one in logs)
    cpu, cpu_past = (np.log(data.cpu[at]) - np.log(data.cpu[at]).mean(axis=0) for at in (rows, rows - 1))
    turn = 2 * np.pi * rows / 1440
    terms = [np.ones_like(qps), after, after**2, after**3, qps, qps**2, past, *cpu.T, *(cpu**2).T, *cpu_past.T]
    terms += [*now[rows].T, *now[rows - 1].T]
    terms += [wave(k * turn) for k in (1, 2, 3) for wave in (np.sin, np.cos)]
    whole = np.column_stack([*coming[rows].T, *terms])
    expected = -np.linalg.lstsq(whole, np.log(data.next_cpu[rows]), rcond=None)[0][:2].T
    assert found.slope == pytest.approx(expected, rel=1e-6)
    assert found.movement == pytest.approx(coming[rows].std(axis=0), rel=0.05)  # all of it is independent
    assert found.rows == len(rows)


def test_the_long_run_variance_by_hand() -> None:
    """Twenty scores remember two rows: Σs² + 2·⅔·Σs(t)s(t-1) + 2·⅓·Σs(t)s(t-2)."""
    assert long_run(np.ones(20)) ** 2 == pytest.approx(20 + 4 / 3 * 19 + 2 / 3 * 18)
    assert long_run(np.tile([1.0, -1.0], 10)) ** 2 == pytest.approx(20 - 4 / 3 * 19 + 2 / 3 * 18)
    assert long_run(np.array([3.0, 4.0])) == 5.0  # too few to remember


def test_standard_errors_cover_the_truth() -> None:
    draws = [price_effects(as_data(law(np.random.default_rng(s), 0.8), extras=[]), SCALE) for s in range(60)]
    score = np.array([(one.slope.diagonal() - 0.8) / one.error.diagonal() for one in draws]).ravel()
    cross = np.array([one.slope[0, 1] / one.error[0, 1] for one in draws])
    assert (np.abs(score) < 2).mean() == pytest.approx(0.95, abs=0.06)
    assert (np.abs(cross) < 2).mean() == pytest.approx(0.95, abs=0.08)


def test_effects_are_the_same_in_any_unit_and_for_either_reading_of_the_price() -> None:
    data = as_data(dithered())
    plain = price_effects(data, PriceScale.from_data(data.price))
    scaled = as_data(dithered().assign(**{f"lambda_{s}": 1e6 * dithered()[f"lambda_{s}"] for s in PLANT.services}))
    assert price_effects(scaled, PriceScale.from_data(scaled.price)).slope == pytest.approx(plain.slope)
    shifted = (
        dithered().assign(**{f"lambda_{s}": dithered()[f"lambda_{s}"].shift(-1) for s in PLANT.services}).iloc[:-1]
    )
    other = as_data(shifted, price_in_force="next_minute")
    again = price_effects(other, PriceScale.from_data(data.price))
    assert again.slope == pytest.approx(plain.slope, rel=0.02)


def test_too_few_rows_tell_nothing() -> None:
    data = as_data(dithered().iloc[:25])
    effects = price_effects(data, SCALE)
    assert np.isinf(effects.error).all()
    assert unidentified(data, effects)[0].endswith("23 rows with a known next row are too few")


# -- what is refused, and what is said ------------------------------------------------------------------------------------


def test_a_dithered_table_is_fine() -> None:
    assert verdict(dithered()) == ([], [])
    assert verdict(dithered(0.03)) == ([], [])


@pytest.mark.parametrize(
    ("frame", "high", "expected"),
    [
        (lambda: ruled(constant), [1e-3, 1e-3], r"'lambda_retrieval' .* cannot be learned: it is 0.000\d+ in all rows"),
        (
            lambda: dithered(0.0),
            None,
            r"only 0\.\d% of its spread is moves that its last values, CPU, traffic and",
        ),
        (lambda: ruled(after_traffic), None, r"only \d\.\d% of its spread is moves"),
        (lambda: ruled(seldom, minutes=2880), None, r"only \d\.\d% of its spread is moves"),
        (lambda: ruled(together), None, "moved only together with the other prices .* in columns.price"),
    ],
)
def test_a_price_that_never_moved_by_itself_is_told(frame: Any, high: Any, expected: str) -> None:
    notes, crossed = verdict(frame(), high)
    assert len(notes) == 2
    assert not crossed
    assert pd.Series(notes).str.contains(expected).any(), notes


@pytest.mark.parametrize("name", ["pi", "pi_feedforward", "mpc"])
def test_days_under_a_controller_of_ours_teach_nothing_without_dither(name: str) -> None:
    minutes, controller = 2880, make_controller(ControllerConfig(name=name), "reference", trained_model())
    loop = closed_loop(ReferencePlant(PLANT, 11, minutes), controller, arrivals(11, minutes))
    notes, crossed = verdict(system_table(loop, PLANT.services))
    assert len(notes) == 2
    assert all("% of its spread is moves that its last values" in note for note in notes)
    assert not crossed


def test_a_price_that_hardly_acts_is_known_to_do_so() -> None:
    frame = law(np.random.default_rng(1), 0.0)
    data = as_data(frame, extras=[])
    effects = price_effects(data, SCALE)
    assert not effects.sure.any()
    assert unidentified(data, effects) == []


def test_one_price_for_two_services() -> None:
    frame = ruled(together)
    columns = {"price": ["lambda_ranking"]}
    data = as_data(frame, **columns)
    effects = price_effects(data, PriceScale.from_data(data.price))
    assert effects.own() == [0, 0]
    assert unidentified(data, effects) == swapped(data, effects) == []


def test_swapped_services_are_named() -> None:
    names = {"lambda_retrieval": "lambda_ranking", "lambda_ranking": "lambda_retrieval"}
    notes, crossed = verdict(dithered().rename(columns=names))
    (line,) = crossed
    assert line.startswith("columns 'lambda_retrieval' and 'lambda_ranking' look swapped: 'lambda_retrieval' takes 0.9")
    assert not notes  # each still acts a little on its own service, too


def share(frame: pd.DataFrame) -> pd.DataFrame:
    cpu = [name for name in frame if "cpu_" in name]
    return frame.assign(**{name: frame[name] / 100 for name in cpu})


def next_is(lag: int, service: str = "ranking") -> Callable[[pd.DataFrame], pd.DataFrame]:
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(next_cpu_ranking=frame[f"cpu_{service}"].shift(-lag)).iloc[:-2]

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            share,
            r"column 'cpu_retrieval': no reading is above 1; expected percent from 0 to 100: multiply a share",
        ),
        (
            next_is(0),
            "column 'next_cpu_ranking': agrees with 'cpu_ranking' of the same row .* expected this service's CPU",
        ),
        (next_is(2), "agrees with 'cpu_ranking' of the row 2 rows later"),
        (next_is(-1), "agrees with 'cpu_ranking' of the row before"),
        (next_is(1, "retrieval"), "agrees with 'cpu_retrieval' of the next row"),
    ],
)
def test_columns_that_are_not_what_they_are_called_are_refused(edit: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        require_learnable(as_data(edit(dithered())))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "edit", [lambda f: f.round(0), lambda f: f.iloc[:12], lambda f: f.drop(index=range(3, 880, 5))]
)
def test_rounded_short_and_gappy_tables_pass(edit: Any) -> None:
    frame = edit(dithered()[[name for name in dithered() if name.startswith(("cpu_", "next_cpu"))]])
    require_learnable(as_data(dithered().loc[frame.index].assign(**frame), gaps="split"))


def test_a_next_cpu_measured_by_another_sensor_passes() -> None:
    rng = np.random.default_rng(0)
    noisy = {f"next_cpu_{s}": dithered()[f"next_cpu_{s}"] + rng.normal(0, 4, len(dithered())) for s in PLANT.services}
    require_learnable(as_data(dithered().assign(**noisy).clip(upper=dithered().max(), axis=1)))


def test_one_outlier_does_not_set_the_box() -> None:
    prices = np.append(np.linspace(0, 2, 2000), 50.0)
    assert without_outliers(prices) == 2.0
    assert without_outliers(prices[:-1]) == 2.0
    assert without_outliers(np.array([0.0, 0.0, 0.0, 1.0])) == 1.0
    frame = dithered()
    frame = frame.assign(lambda_ranking=frame["lambda_ranking"].where(frame.index != 300, 1.0))
    box = PriceScale.from_data(as_data(frame).price).high
    assert box == pytest.approx(dithered()[["lambda_retrieval", "lambda_ranking"]].drop(index=300).max(), rel=1e-9)
    (note,) = odd_data(as_data(frame))
    assert note.startswith("column 'lambda_ranking': the largest value is 1, the largest that is no outlier 0.00")
    assert odd_data(as_data(dithered())) == []


QUICK: dict[str, Any] = {
    "hidden": [24],
    "epochs": 40,
    "patience": 40,
    "rollout_steps": 1,
    "forecast_horizon": 2,
    "tune_pi": False,
    "lr": 0.01,
    "max_minutes": 60,
}


def test_train_refuses_with_what_to_do_or_warns_where_it_is_told_to(tmp_path: Path) -> None:
    ruled(constant, minutes=300).to_csv(tmp_path / "system.csv", index=False)
    settings = SystemModelConfig(table=str(tmp_path / "system.csv"), **QUICK | {"epochs": 1})
    with pytest.raises(
        UserError, match=r"in all rows; .* \(python -m mpc_balancer.commission .* allow_unidentified: true"
    ):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(settings.model_copy(update={"allow_unidentified": True}), tmp_path / "run")
    summary = read_json(tmp_path / "run/summary.json")
    assert len(summary["warnings"]) == 2
    assert summary["relief_se"] == {"retrieval": None, "ranking": None}
    assert summary["own_moves"] == {"retrieval": 0.0, "ranking": 0.0}


# -- what was learned -----------------------------------------------------------------------------------------------------


def test_the_model_that_predicts_best_is_ranked_last() -> None:
    """Days without a move of λ are the easiest to predict; the skill at λ's moves is what tells such a model."""
    config = SystemModelConfig(**QUICK, allow_unidentified=True, price_high=HIGH.tolist())
    days = {
        "dithered": dithered(minutes=1440),
        "traffic": ruled(after_traffic, minutes=1440),
        "constant": ruled(constant, minutes=1440),
    }
    seen = {name: fit_model(as_data(frame), config)[1] for name, frame in days.items()}
    error = {name: one["rollout_rmse_points"] for name, one in seen.items()}
    skill = {name: one["price_move_skill"] for name, one in seen.items()}
    assert max(error, key=lambda name: error[name]) == "dithered"  # error alone would call it the worst
    assert skill["dithered"] > 0.5 > 0.2 > skill["traffic"] > skill["constant"] == 0.0


def true_relief(config: SystemModelConfig) -> np.ndarray:
    """What the plant's own prices take off its CPUs in the commissioned days, by trying both quartiles each minute."""
    data, minutes = load_data(config), int(config.commission_days * 1440)
    quartiles, tried = np.quantile(data.price, [0.25, 0.75], axis=0), []

    class Tried(ReferencePlant):
        def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Any:
            row = []
            for j in range(2):
                low, high = lambda_.copy(), lambda_.copy()
                low[j], high[j] = quartiles[:, j]
                row.append(np.log(self.preview(low, exogenous)[j] / self.preview(high, exogenous)[j]))
            tried.append(row)
            return super().step(lambda_, exogenous)

    excite(Tried(PLANT, config.seed, minutes), arrivals(config.seed, minutes), SCALE, config.seed)
    return np.asarray(np.mean(tried, axis=0))


def test_the_learned_relief_is_the_plants_within_its_standard_error() -> None:
    config = SystemModelConfig(commission_days=2.2)
    data, model = load_data(config), trained_model()
    effects = price_effects(data, model.prices)
    learned = learned_relief(model, data, effects)
    relief, error = (np.array(list(learned[name].values())) for name in ("relief", "relief_se"))
    assert np.all(np.abs(relief - true_relief(config)) < 2.5 * error)
    assert np.all(error < 0.25 * relief)
    assert unsure(learned, effects) == []
    assert price_move_skill(model, commissioned_table(ColumnsConfig(), 0.3, 9)) > 0.7
    note = unsure({**learned, "relief": {"retrieval": 0.01, "ranking": 1.0}}, effects)
    assert note == [note[0]]
    assert note[0].startswith(
        "what λ takes off retrieval's CPU was learned as 0.01 log points, by regression it is 0.2"
    )
