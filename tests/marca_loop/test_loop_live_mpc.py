"""MPC behind the live loop: commissioning, the learned model, and a day on a target with known costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autobucket.bench.live.queue_controllers import Observation
from autobucket.live import live
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_loop import live_mpc
from marca_loop.live_mpc import LiveMpc, Priced, measurement
from tests.autobucket.bench_fakes import FakeTarget, virtual_time


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(live_mpc, "live", partial(live, make_target=FakeTarget))
    settings = load_config(
        LiveMpc,
        "configs/live_mpc.yaml",
        [
            *("live.seconds=1.5", "live.interval_s=0.05", "live.peak_qps=200", "live.warmup_s=0"),
            *("live.accounting.pin=false", "live.controller.target_percent=6", "commission_s=6", "training.epochs=3"),
        ],
    )
    with virtual_time():
        yield settings


MODEL: Any = None  # no controller of these tests looks at it


def seen(cpu: Any, **others: Any) -> Any:
    return Observation(0, 1.0, 80.0, {"retrieval": 0.4 * cpu, "ranking": 0.6 * cpu}, 60.0, {}, 80.0, 5.0, **others)


def test_it_commissions_learns_steers_and_reuses_the_model(config: Any, tmp_path: Path) -> None:
    result = live_mpc.live_mpc(config, tmp_path)
    assert result.summary["controller"] == "mpc"
    assert len(result.rows) == 30
    table = pd.read_csv(tmp_path / "commission/system.csv")
    assert len(table) == 119
    assert table["lambda_service"].std() > 0.05  # the price was dithered
    written = (tmp_path / "model/system_model.pt").stat().st_mtime_ns
    live_mpc.live_mpc(config.model_copy(update={"live": config.live.model_copy(update={"seed": 5})}), tmp_path)
    assert (tmp_path / "model/system_model.pt").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "summary.json").read_text())["intervals"] == 30


class Wants:
    """A controller that asks for one price."""

    def __init__(self, price: Any) -> None:
        self.price = price

    def step(self, measured: Any) -> Any:
        return np.broadcast_to(self.price, 1)


@pytest.mark.parametrize(("price", "lengths"), [(0.0, (100, 80, 150)), (1.0, (1, 1, 4)), (0.5, (10, 9, 24))])
def test_a_price_becomes_queue_lengths_by_hand(
    config: Any, monkeypatch: pytest.MonkeyPatch, price: Any, lengths: Any
) -> None:
    monkeypatch.setattr(live_mpc, "make_controller", lambda *_: Wants(live_mpc.PRICES.from_unit(np.array([price]))))
    chosen = Priced(config, MODEL)(seen(50.0))
    assert tuple(chosen.values()) == lengths


def test_a_late_service_is_braked_whatever_the_price(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_mpc, "make_controller", lambda *_: Wants(0.0))
    controller = Priced(config, MODEL)
    late = Observation(0, 1.0, 80.0, {"service": 20.0}, 60.0, {}, 80.0, 5000.0)
    assert [controller(late)["queue_a"] for _ in range(6)][-1] == 1


def test_clocks_a_little_over_all_cores_read_100_percent() -> None:
    assert measurement(seen(102.0), np.zeros(1)).cpu.tolist() == [100.0]
    assert measurement(seen(40.0), np.zeros(1)).cpu == pytest.approx([40.0])


def test_a_commissioning_too_short_to_learn_from_is_refused_before_it_runs() -> None:
    with pytest.raises(UserError, match="commission_s: got 60 seconds, 60 intervals; expected at least 108"):
        load_config(LiveMpc, "configs/live_mpc.yaml", ["commission_s=60"])
