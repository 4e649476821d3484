"""A small synthetic log and load test whose results and costs are known formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

SETS = ["1", "1+2", "1+2+3", "1+2+3+4"]
ACTIONS = {  # how the synthetic load test's settings map to sub-actions
    "channels": {"action": "a1", "values": SETS},
    "channel_switch": "model",
    "switches": {"model": {"action": "a4", "values": ["light", "heavy"]}},
    "elements": {"retrieved": {"switch": "model"}, "preranked": {}},
}
LENGTHS = np.array([5, 10, 20, 40, 80])


def make_log(rows: int = 6000, seed: int = 0) -> pd.DataFrame:
    """Retrieved depends on state and a1…a3, preranked on it and a5; both noisy counts."""
    rng = np.random.default_rng(seed)
    user, place, idc = rng.integers(0, 12, rows), rng.integers(0, 3, rows), rng.integers(0, 2, rows)
    a = [rng.integers(0, size, rows) for size in (4, 5, 5, 2, 5)]
    supply = 30 + 10 * user * (1 + place)
    asked = LENGTHS[a[1]] * np.minimum(a[0] + 1, 2) + LENGTHS[a[2]] * np.maximum(a[0] - 1, 0)
    retrieved = np.minimum(asked, supply * np.exp(0.1 * rng.standard_normal(rows))).round()
    preranked = np.minimum(LENGTHS[a[4]], retrieved)
    clicks = rng.random(rows) < 0.05 + 0.3 * (user > 5)
    return pd.DataFrame(
        {
            "timestamp": pd.Timestamp("2026-01-05") + pd.to_timedelta(np.arange(rows), unit="s"),
            "user_value": [f"u{v}" for v in user],
            "placement": [f"p{v}" for v in place],
            "segment": [f"s{v}" for v in rng.integers(0, 5, rows)],
            "idc": np.array(["north", "south"])[idc],
            **{f"a{j + 1}": values for j, values in enumerate(a)},
            "retrieved": retrieved.astype(int),
            "preranked": preranked.astype(int),
            "clicks": clicks.astype(int),
            "revenue": clicks * 2.0,
            "propensity": 1e-3,
        }
    )


def true_cost(service: str, idc: str, channels: str, model: str, retrieved: float, preranked: float) -> float:
    """The formula behind ``make_loadtest``, core-ms per request."""
    heavy, n = model == "heavy", len(channels.split("+"))
    factor = 1.2 if idc == "south" else 1.0
    if service == "retrieval":
        return factor * (0.6 + 0.35 * n * (1.5 if heavy else 1.0) + (0.018 if heavy else 0.008) * retrieved)
    return factor * (0.3 + 0.006 * retrieved + 0.05 * preranked)


def make_loadtest(noise: float = 0.0, load_slope: float = 0.0, rounds: int = 2, seed: int = 0) -> pd.DataFrame:
    """Rows of a bench on 2 machines of 16 cores; cost changes by ``load_slope`` from 0 to 100 % load."""
    rng, rows = np.random.default_rng(seed), []
    sets = [*SETS, "2", "3+4"]
    for idc, service, round_ in itertools.product(("north", "south"), ("retrieval", "ranking"), range(rounds)):
        common = {"idc": idc, "service": service, "round": round_, "machines": 2, "cores": 16}
        idle = {"channels": "none", "model": "light", "retrieved": 0.0, "preranked": 0.0, "degradation": 0.0}
        rows.append(common | idle | {"qps": 0.0, "cpu_percent": 1.5})
        cells = itertools.product(sets, ("light", "heavy"), (10.0, 40.0, 160.0, 320.0), (5.0, 40.0, 80.0), (25, 55))
        for channels, model, retrieved, preranked, aim in cells:
            cost = true_cost(service, idc, channels, model, retrieved, preranked)
            row = {"channels": channels, "model": model, "retrieved": retrieved, "preranked": preranked}
            row |= {"degradation": 0.0, "qps": aim / 100 * 32 * 1000 / cost}
            cpu = aim * (1 + load_slope * aim / 100) * np.exp(noise * rng.standard_normal())
            rows.append(common | row | {"cpu_percent": 1.5 + cpu})
        for model, level in itertools.product(("light", "heavy"), (1.0, 2.0)):
            cost = true_cost(service, idc, "1+2", model, 160.0, 40.0)
            row = {"channels": "1+2", "model": model, "retrieved": 160.0, "preranked": 40.0, "degradation": level}
            cpu = 40 * (1 - 0.2 * level)
            rows.append(common | row | {"qps": 0.4 * 32 * 1000 / cost, "cpu_percent": 1.5 + cpu})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log of 6,000 rows."""
    path = tmp_path_factory.mktemp("autobucket") / "requests.parquet"
    make_log().to_parquet(path, index=False)
    return str(path)
