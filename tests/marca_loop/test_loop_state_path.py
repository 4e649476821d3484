"""How far a request's state travels: the files that are handed its columns between the log row and the decision."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autobucket.config import TrainConfig as ResultsConfig
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.cost_model import CostModel
from autobucket.fit_costs import fit_costs
from autobucket.train import train as train_results
from awrq_mixer.config import TrainConfig as ValuesConfig
from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.train import train as train_values
from marca_common.config import load_config

REPOSITORY = Path(__file__).parents[2]
KNOWN = {"marca_common/requests.py", "marca_common/tables.py", "awrq_mixer/serving/policy.py"}
DOOR = {
    "marca_common/table_files.py",
    "marca_common/column_values.py",
    "marca_common/scores.py",
}  # of any table, no state's own
NEW = (
    KNOWN
    | DOOR
    | {
        "awrq_mixer/serving/predictor.py",
        "marca_common/encoding.py",
        "autobucket/costs/cost_model.py",
        "autobucket/results/estimator.py",
    }
)


def files_handed(columns: set[str], work: Any) -> set[str]:
    """Project files in which a function is called with a frame that holds the state columns."""
    found: set[str] = set()

    def look(frame: FrameType, event: str, _: Any) -> None:
        name = Path(frame.f_code.co_filename)
        if event != "call" or not name.is_relative_to(REPOSITORY) or ".venv" in name.parts or "tests" in name.parts:
            return
        arguments = (frame.f_locals.get(one) for one in frame.f_code.co_varnames[: frame.f_code.co_argcount])
        if any(isinstance(one, pd.DataFrame) and columns <= set(one.columns) for one in arguments):
            found.add(str(name.relative_to(REPOSITORY)))

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.slow
def test_a_state_passes_at_most_eight_files(small_world: Path, tmp_path: Path) -> None:
    requests = small_world / "logs/requests.parquet"
    few = [f"requests={requests}", "epochs=1"]
    values = train_values(load_config(ValuesConfig, "configs/awrq_mixer/smoke.yaml", few), tmp_path / "values").model
    results = load_config(ResultsConfig, "configs/autobucket/smoke.yaml", [f"data.requests={requests}"])
    train_results(results, tmp_path / "results")
    loadtest = [f"loadtest={small_world / 'logs/loadtest.csv'}", "bootstrap=0"]
    fit_costs(load_config(FitCostsConfig, "configs/autobucket/costs.yaml", loadtest), tmp_path / "maps")
    costs = CostModel.load(tmp_path / "results/estimator.pt", tmp_path / "maps/cost_maps.json")
    spec, price = values.spec, np.full(2, 1e-3)
    states = spec.distinct_states(spec.read(requests))[0]
    policy = HullPolicy.build(states.head(50), values.values, costs.costs, quiet=True)
    columns = set(spec.state)

    def served(state: int) -> set[str]:
        row = states.iloc[[state]]
        return files_handed(columns, lambda: policy.decide(row, price)) | files_handed(
            columns, lambda: spec.distinct_states(spec.read(requests))
        )

    assert served(3) <= KNOWN | DOOR  # and the kernel that scans its candidates, which is handed a number
    assert served(60) <= NEW
    assert (
        len(NEW - DOOR) + 1 <= 8
    )  # with that kernel; past encoding.py and estimator.py the state is a tensor of codes
