"""How far off is the system model? Errors by look-ahead, service and regime."""

from __future__ import annotations

import numpy as np
import pandas as pd

from marca_common.progress import progress
from mpc_balancer.system_model.minute_table import SystemData
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.training_windows import make_windows


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
    path = np.concatenate([np.stack(paths[i : i + steps], axis=1) for i in range(0, len(paths), steps)])  # (n, N, D)
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
