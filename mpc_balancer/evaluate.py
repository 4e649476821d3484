"""How far off is the system model? ``python -m mpc_balancer.evaluate --config configs/mpc_balancer/evaluate.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.cli import run_cli
from marca_common.figures import new_figure, save_figure
from marca_common.run_folder import RunFolder
from mpc_balancer.config import SystemErrorsConfig
from mpc_balancer.system_model.error_table import error_table
from mpc_balancer.system_model.identifiability import price_move_skill
from mpc_balancer.system_model.minute_table import SystemData, read_system
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.commissioning import commissioned_table


@dataclass
class SystemErrors:
    """Errors by step, service and regime."""

    errors: pd.DataFrame
    summary: dict[str, Any]


def evaluate(config: SystemErrorsConfig, out: str | Path) -> SystemErrors:
    """One-step and N-step errors of a checkpoint on a table, by regime, with true traffic; no gain correction."""
    model = SystemModel.load(config.model)
    data = _data(config, model)
    with RunFolder(out, config) as folder:
        errors = error_table(model, data, config.steps)
        errors.to_csv(folder.path / "metrics.csv", index=False, lineterminator="\n")
        _figure(errors, folder.path / "errors.png")
        whole = errors[errors["regime"] == "all"]
        summary = {
            "rows": len(data),
            "one_step_rmse_points": float(np.sqrt((whole[whole["step"] == 1]["rmse"] ** 2).mean())),
            "n_step_rmse_points": float(np.sqrt((whole[whole["step"] == config.steps]["rmse"] ** 2).mean())),
            "price_move_skill": price_move_skill(model, data),
        }
        folder.write_summary(summary)
    return SystemErrors(errors, summary)


def _data(config: SystemErrorsConfig, model: SystemModel) -> SystemData:
    columns = config.columns or model.columns
    if config.table is not None:
        data = read_system(config.table, columns, list(model.services))
    else:
        data = commissioned_table(columns, config.commission_days, config.seed, 60 // model.step_seconds)
    index = np.array([model.features.group_index(name) for name in data.groups])
    return replace(data, group=index[data.group], groups=model.features.groups)


def _figure(errors: pd.DataFrame, path: Path) -> None:
    services = list(errors["service"].unique())
    figure, axes = new_figure(1, len(services), width=4.2 * len(services), height=3.4, sharey=True, squeeze=False)
    for axis, service in zip(axes[0], services):
        for regime, rows in errors[errors["service"] == service].groupby("regime", sort=False):
            axis.plot(rows["step"], rows["rmse"], marker="o", ms=3, label=str(regime))
        axis.set(
            title=f"Prediction error of {service} CPU",
            xlabel="minutes ahead",
            ylabel="RMSE (CPU points)",
            ylim=(0, None),
        )
    axes[0, 0].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_cli(
        evaluate,
        SystemErrorsConfig,
        default_config="configs/mpc_balancer/evaluate.yaml",
        default_out="runs/mpc_evaluate",
    )
