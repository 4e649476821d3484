"""Load-test rows and what they say a request cost (Eq. 26)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from autobucket.costs.cost_config import FitCostsConfig
from marca_common.errors import UserError
from marca_common.load_test_table import load_test_schema
from marca_common.spread import require_usable
from marca_common.tables import read_table


def cost_per_request(
    cpu_percent: np.ndarray,
    machines: np.ndarray,
    cores: np.ndarray,
    qps: np.ndarray,
    idle_percent: np.ndarray | float = 0,
) -> np.ndarray:
    """Eq. 26 less the idle baseline: (p% − idle%) · n · N / QPS, in core-milliseconds per request.

    ``cpu_percent`` is utilisation of all n · N cores in percent; rates must be positive.
    """
    qps = np.asarray(qps, np.float64)
    if (qps <= 0).any():
        raise ValueError(f"Eq. 26 needs a positive rate, got {qps.min():g}")
    share = (np.asarray(cpu_percent, np.float64) - idle_percent) / 100
    return np.asarray(1000 * share * np.asarray(machines) * np.asarray(cores) / qps)


def read_loadtest(config: FitCostsConfig) -> pd.DataFrame:
    """Load-test rows under the schema of data/README.md, impossible combinations refused."""
    settings = [*(["channels"] if config.actions.channels else []), *config.actions.switches]
    schema = load_test_schema(settings, config.actions.elements)
    rows = read_table(config.loadtest, schema, rename=config.columns)
    for name, value in (("bucket", ""), ("degradation", 0.0)):
        if name not in rows:
            rows[name] = value
    if (rows["qps"] > 0).sum() == 0:
        raise UserError(
            f"{config.loadtest}: column 'qps': got only 0; expected measurements under load beside the idle ones"
        )
    return rows


def measured_costs(config: FitCostsConfig, rows: pd.DataFrame, place: str) -> tuple[float, pd.DataFrame]:
    """Idle CPU in percent (median of rows at qps 0; 0 without any) and the loaded rows with their ``cost`` (Eq. 26)."""
    resting = rows["qps"] == 0
    idle = float(rows.loc[resting, "cpu_percent"].median()) if resting.any() else 0.0
    table = rows[~resting].reset_index(drop=True)
    for name in config.actions.elements:
        missing = table[name].isna()
        if missing.any():
            raise UserError(
                f"{place}: row {int(missing.idxmax()) + 1} under load, column {name!r}: got an empty value; expected a length"
            )
        require_usable(table[name].to_numpy(), f"{place}: column {name!r}")
    require_usable(table["degradation"].to_numpy(), f"{place}: column 'degradation'")
    with np.errstate(over="ignore"):  # refused in the next line
        table["cost"] = cost_per_request(table["cpu_percent"], table["machines"], table["cores"], table["qps"], idle)
    require_usable(table["cost"].to_numpy(), f"{place}: cost per request by Eq. 26")
    strong = table["cpu_percent"] - idle > config.min_cpu_percent
    if strong.sum() < 8:
        raise UserError(
            f"{place}: {int(strong.sum())} rows use more than {config.min_cpu_percent:g} % CPU above idle; expected at least 8"
        )
    return idle, table[strong].reset_index(drop=True)


def round_cv(table: pd.DataFrame) -> float:
    """Median over buckets of the coefficient of variation between rounds, percent; NaN where nothing was repeated."""
    settings = [name for name in table if name not in ("round", "cpu_percent", "cost", "fitted")]
    groups = table.groupby(settings, observed=True)["cost"]
    cv = (groups.std() / groups.mean())[groups.count() > 1]
    return float(100 * cv.median()) if len(cv) else float("nan")
