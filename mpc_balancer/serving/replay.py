"""A decision log decided again: the same measurements, the same prices, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.config import replaced
from mpc_balancer.serving.balancer import steered_groups
from mpc_balancer.serving.decision_log import measurement_of, read_log
from mpc_balancer.serving.serve_config import ServeConfig
from mpc_balancer.system_model.model import SystemModel


def replay(config: ServeConfig, folder: str | Path, model: SystemModel | None = None) -> pd.DataFrame:
    """The log's rows with ``replayed_<price>`` beside each ``price_<price>``.

    Every controller starts where its log does; rows of one whose start is not in the log are left out. A deadline of the
    solver is left out too: it depends on what else the machine did.
    """
    model = model if model is not None or config.model is None else SystemModel.load(config.model)
    frames = [
        _again(config, model, str(group), rows) for (group, _), rows in read_log(folder).groupby(["group", "born"])
    ]
    return pd.concat(frames, ignore_index=True)


def differing(frame: pd.DataFrame) -> int:
    """Rows of a replay in which any price is another one."""
    names = [name.removeprefix("replayed_") for name in frame if name.startswith("replayed_")]
    pairs = [frame[f"price_{name}"].to_numpy() != frame[f"replayed_{name}"].to_numpy() for name in names]
    return int(np.any(pairs, axis=0).sum())


def _again(config: ServeConfig, model: SystemModel | None, group: str, rows: pd.DataFrame) -> pd.DataFrame:
    if rows["step"].iloc[0] != 0:
        return rows.iloc[:0]
    own = replaced(config.controllers.get(group, config.controller), {"mpc.solver.deadline_ms": None})
    alone = config.model_copy(update={"groups": [group], "controllers": {}, "controller": own})
    one, prices = steered_groups(alone, model)[group], []
    for row in rows.to_dict("records"):
        one.shadow = bool(row["shadow"])
        one.decide(measurement_of(row, *one.names) if row["kind"] == "measured" else None, str(row["kind"]))
        prices.append(one.lambda_)
    return rows.assign(**{f"replayed_{name}": column for name, column in zip(one.names[1], np.array(prices).T)})
