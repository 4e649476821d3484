"""Traffic: shapes, events that touch nothing else, traces at any interval, and bad traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cascade_world.config import TrafficEvent
from cascade_world.population.world_traffic import day_shape, make_traffic, read_trace
from marca_common.errors import UserError


def test_day_has_its_peak_and_its_night(make_config: Any) -> None:
    shape = day_shape(make_config(), np.arange(1440))
    assert shape.max() == pytest.approx(1.0)
    assert shape.min() == pytest.approx(0.3)
    assert 19 * 60 < shape.argmax() < 22 * 60
    assert 2 * 60 < shape.argmin() < 7 * 60


def test_counts_follow_the_declared_rate(make_config: Any) -> None:
    config = make_config("traffic.noise=0", "traffic.burst=0")
    traffic = make_traffic(config, 5, 7)
    assert traffic.arrivals.shape == (2, 7 * 1440, 6)
    peak = traffic.qps.sum(axis=0)[: 5 * 1440].max()
    assert peak == pytest.approx(config.traffic.peak_qps, rel=0.005)
    weekend = traffic.qps[:, 5 * 1440 :].sum() / traffic.qps[:, : 2 * 1440].sum()
    assert weekend == pytest.approx(0.92, rel=0.01)
    assert traffic.qps[0].sum() / traffic.qps.sum() == pytest.approx(0.55, rel=0.01)


def test_flash_sale_doubles_one_minute_and_leaves_the_past_alone(make_config: Any) -> None:
    config = make_config()
    sale = TrafficEvent(kind="flash", day=0.5, factor=2.0, decay_minutes=20, announced=True, announced_factor=1.6)
    plain, busy = make_traffic(config, 3, 1), make_traffic(config, 3, 1, events=[sale])
    assert np.array_equal(plain.arrivals[:, :720], busy.arrivals[:, :720])
    ratio = busy.qps / plain.qps
    assert ratio[:, 720] == pytest.approx(2.0, abs=0.01)
    assert ratio[:, 740] == pytest.approx(1 + np.exp(-1), abs=0.01)
    assert len(plain.calendar) == 0
    assert busy.calendar.iloc[0].tolist() == [pd.Timestamp("2026-01-05 12:00:00"), 1.6, 20.0]


def test_failover_moves_traffic_and_is_not_announced(make_config: Any) -> None:
    config = make_config()
    event = TrafficEvent(kind="failover", day=0.25, factor=1.35, decay_minutes=30, group="south", announced=True)
    plain, lost = make_traffic(config, 3, 0.5), make_traffic(config, 3, 0.5, events=[event])
    ratio = lost.qps / plain.qps
    assert ratio[0, 360:390] == pytest.approx(1.35, abs=0.02)
    assert ratio[1, 360:390].max() < 0.03
    assert ratio[:, 390:] == pytest.approx(1.0)
    assert len(lost.calendar) == 0


def test_a_trace_at_any_interval_drives_the_world(make_config: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    times = pd.date_range("2014-07-01", periods=200, freq="7min")
    values = 100 + 50 * np.sin(np.arange(200) / 20)
    pd.DataFrame({"timestamp": times, "value": values}).to_csv(path, index=False)
    config = make_config(f"traffic.trace={path}", "traffic.noise=0", "traffic.burst=0")
    traffic = make_traffic(config, 0, 0.9)
    seconds, read = read_trace(path)
    wanted = np.interp(np.arange(len(traffic.timestamps)) * 60.0, seconds, read)
    total = traffic.qps.sum(axis=0)
    assert np.corrcoef(total, wanted)[0, 1] > 0.999
    assert total.max() == pytest.approx(config.traffic.peak_qps, rel=0.01)
    with pytest.raises(UserError, match="days after its start"):
        make_traffic(config, 0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp,value\n2014-01-01 00:00,1\n2014-01-01 00:02,2\n2014-01-01 00:01,3\n", r"row 3, column 'timestamp'"),
        ("timestamp,value\n2014-01-01 00:00,1\n2014-01-01 00:01,-2\n", r"row 2, column 'value': got -2"),
        ("timestamp,value\n2014-01-01 00:00,1\nnever,2\n", r"row 2, column 'timestamp': got 'never'"),
        ("time,value\n2014-01-01 00:00,1\n", r"column 'timestamp' is missing"),
        ("", r"is empty"),
    ],
)
def test_a_bad_trace_names_its_row(tmp_path: Path, text: Any, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_trace(path)
