"""Another tool's score file: one row per state and action."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.requests import RequestSpec
from marca_common.scores import ScoreMatrix, action_keys
from marca_common.tables import write_table


def write_long_scores(matrix: ScoreMatrix, spec: RequestSpec, path: str | Path) -> None:
    """Write one row per (state, action), CSV or Parquet by the suffix."""
    size = len(matrix.states)
    frame = pd.DataFrame(
        {"state": np.repeat(matrix.keys(), spec.n_joint), "action": np.tile(action_keys(spec), size)}
        | {name: values.ravel() for name, values in matrix.scores.items()}
    )
    write_table(frame, path)
