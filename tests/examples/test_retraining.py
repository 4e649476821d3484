"""Logs written by the served policy are read back, and what is learned from them decides better."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from retraining import rounds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_two_rounds_of_serving_and_retraining_improve_capture(small_world: Path, tmp_path: Path, seed: int) -> None:
    first, _, last = rounds(small_world, tmp_path, seed, count=2, rows=20_000, explore=0.5)
    assert last > first + 0.1
    again = pd.read_parquet(tmp_path / "1/joined/requests.parquet")
    assert len(again) == 20_000
    best = again["propensity"] >= 0.5  # what the policy would do without exploring
    weights = best / again["propensity"].astype(float)
    assert float(weights.mean()) == pytest.approx(1, abs=4 * float(weights.std()) / len(again) ** 0.5)
    assert 0.5 < best.mean() < 0.99
