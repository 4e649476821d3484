"""How far off is the system model? ``python -m mpc_balancer.evaluate --config configs/mpc_balancer/evaluate.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.cli import run_cli
from marca_common.figures import new_figure, save_figure
from marca_common.progress import progress
from marca_common.run_folder import RunFolder
from mpc_balancer.config import EvaluateConfig
from mpc_balancer.system_model.minute_table import SystemData, from_frame, read_system
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.training_windows import make_windows


@dataclass
class EvaluateResult:
    """Errors by step, service and regime."""

    errors: pd.DataFrame
    summary: dict[str, Any]


def evaluate(config: EvaluateConfig, out: str | Path) -> EvaluateResult:
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
        }
        folder.write_summary(summary)
    return EvaluateResult(errors, summary)


def error_table(model: SystemModel, data: SystemData, steps: int) -> pd.DataFrame:
    """RMSE and bias (predicted - measured, points) per step ahead, service and regime.

    Regimes: ``all``; ``rising``/``falling``/``steady`` traffic (over ±3 % in the minute); ``high`` CPU (start ≥ its 90 %
    quantile); ``night`` (traffic under its 20 % quantile).
    """
    windows = make_windows(data, model.features, model.prices, steps)
    paths = []
    for i in progress(range(0, len(windows), 4096), what="rollouts", unit="chunk", disable=len(windows) < 20_000):
        part = slice(i, i + 4096)
        cpu = windows.cpu[part].astype(np.float64)
        for k in range(steps):
            cpu = model.step_rows(cpu, windows.unit[part, k], windows.exogenous[part, k], windows.traffic[part, k])
            paths.append(cpu)
    path = np.concatenate([np.stack(paths[i : i + steps], axis=1) for i in range(0, len(paths), steps)])  # (n, N, S)
    error = np.where(windows.mask > 0, path - windows.target, np.nan)
    change = data.next_qps[windows.row] / np.maximum(data.qps[windows.row], 1e-9) - 1
    high = (windows.cpu >= np.quantile(windows.cpu, 0.9, axis=0)).any(axis=1)
    regimes = {
        "all": np.ones(len(windows), bool),
        "rising": change > 0.03,
        "falling": change < -0.03,
        "steady": np.abs(change) <= 0.03,
        "high": high,
        "night": data.qps[windows.row] <= np.quantile(data.qps[windows.row], 0.2),
    }
    rows = []
    for regime, chosen in regimes.items():
        if not chosen.any():
            continue
        for j, service in enumerate(model.services):
            for k in range(steps):
                values = error[chosen, k, j]
                values = values[np.isfinite(values)]
                if len(values):
                    rows.append(
                        {
                            "regime": regime,
                            "service": service,
                            "step": k + 1,
                            "count": len(values),
                            "rmse": float(np.sqrt(np.mean(values**2))),
                            "bias": float(values.mean()),
                        }
                    )
    return pd.DataFrame(rows)


def _data(config: EvaluateConfig, model: SystemModel) -> SystemData:
    columns = config.columns or model.columns
    if config.table is not None:
        data = read_system(config.table, columns, list(model.services))
    else:
        from mpc_balancer.testbed.commissioning import commission
        from mpc_balancer.testbed.reference_plant import ReferenceConfig

        data = from_frame(
            commission(
                ReferenceConfig(), config.commission_days, config.seed, steps_per_minute=60 // model.step_seconds
            ),
            columns,
            list(model.services),
        )
    for name in data.groups:
        model.features.group_index(name)
    index = np.array([model.features.group_index(name) for name in data.groups])
    return SystemData(**{**data.__dict__, "group": index[data.group], "groups": model.features.groups})


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
        evaluate, EvaluateConfig, default_config="configs/mpc_balancer/evaluate.yaml", default_out="runs/mpc_evaluate"
    )
