"""The platform's tables in the columns of data/README.md, which every room reads: our names, our units, times in UTC."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from marca_common.prices import PRICE_UNIT
from own_system.coded_log import declared_codes
from own_system.declaration import OwnSystem


def request_frame(own: OwnSystem, frame: pd.DataFrame) -> pd.DataFrame:
    """The request log of ``own.spec``: sub-actions as places among their declared values."""
    codes = {name: declared_codes(frame[name], values) for name, values in own.sub_actions.items()}
    table = frame.assign(**codes)
    for name in own.state:
        if own.state[name] == "category":
            table[name] = table[name].astype(str)
    if "timestamp" in table:
        table = table.sort_values("timestamp", kind="stable")
    return table.reset_index(drop=True)


def system_frame(own: OwnSystem, frame: pd.DataFrame) -> pd.DataFrame:
    """The minute table, each data centre's rows in time order; CPU one minute later is that of the next row, if it is the next minute."""
    table = frame.assign(idc=frame["idc"].astype(str)).sort_values(["idc", "timestamp"], kind="stable")
    step = table["timestamp"].diff().shift(-1)
    follows = (table["idc"] == table["idc"].shift(-1)) & (step == step[step > pd.Timedelta(0)].median())
    for name in own.services:
        table[f"next_cpu_{name}"] = table[f"cpu_{name}"].shift(-1).where(follows)
    return table


def minute_columns(own: OwnSystem) -> dict[str, Any]:
    """``columns`` of mpc_balancer's configs for such a table."""
    degradation = ["degradation"] if own.minutes.columns.degradation else []
    return {
        "price": list(own.prices.values()),
        "price_unit": PRICE_UNIT,
        "next_qps": None,
        "extras": [*degradation, *own.minutes.extras],
        "gaps": "split",
    }


def load_test_frame(own: OwnSystem, frame: pd.DataFrame) -> pd.DataFrame:
    """The load tests, services under their declared names; rows of others are left out."""
    names = {one.load_test or name: name for name, one in own.services.items()}
    kept = frame[frame["service"].astype(str).isin(list(names))]
    table = kept.assign(service=kept["service"].astype(str).map(names))
    for name in table:
        if isinstance(table[name].dtype, pd.CategoricalDtype):
            table[name] = table[name].astype(str)
    whole = {name: table[name].astype(np.int64) for name in ("round", "machines", "cores")}
    return table.assign(**whole).reset_index(drop=True)


def cost_actions(own: OwnSystem) -> dict[str, Any]:
    """``actions`` of autobucket.fit_costs: which measured setting is which declared value."""
    tests = own.load_tests
    channels = tests.channels
    return {
        "idc": own.data_centre.requests if own.data_centre else None,
        "channels": None
        if channels is None
        else {"action": channels.action, "values": own.sub_actions[channels.action]},
        "channel_switch": None if channels is None else channels.switch,
        "switches": {name: {"action": name, "values": own.sub_actions[name]} for name in tests.switches},
        "elements": {name: {"switch": length.switch} for name, length in tests.lengths.items()},
    }
