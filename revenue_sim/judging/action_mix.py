"""Who gets what: the action mix of an allocation, overall and by each state column."""

from __future__ import annotations

import numpy as np
import pandas as pd

from marca_common.requests import RequestSpec

MOST_VALUES = 100  # categories kept of a state column; the rest, by falling requests, is summed up as 'other'


def action_mix(
    spec: RequestSpec,
    states: pd.DataFrame,
    state: np.ndarray,
    action: np.ndarray,
    count: np.ndarray,
    model: str,
    allocation: str,
) -> pd.DataFrame:
    """Share of requests per choice of every sub-action: over all states, and within each value of each state column.

    Columns: model, allocation, by, value, sub_action, choice, requests, share (shares of a value and sub-action sum to 1).
    """
    chosen = spec.joint_table()[action]  # (E, sub-actions)
    parts = [_shares(spec, np.zeros(len(state), np.int64), ["all"], chosen, count, "all")]
    for column, kind in spec.state.items():
        if kind != "category":
            continue
        codes, values = _grouped(states[column].astype(str), state, count)
        parts.append(_shares(spec, codes[state], values, chosen, count, column))
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "allocation", allocation)
    table.insert(0, "model", model)
    return table


def _grouped(column: pd.Series, state: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Codes of a state column (S,), its values by name, the rare ones of a long tail under 'other'."""
    codes, values = pd.factorize(column, sort=True)
    names = [str(value) for value in values]
    if len(names) <= MOST_VALUES:
        return codes, names
    weight = np.bincount(codes[state], weights=count, minlength=len(names))
    kept = np.sort(np.argsort(-weight, kind="stable")[: MOST_VALUES - 1])
    lookup = np.full(len(names), len(kept))
    lookup[kept] = np.arange(len(kept))
    return lookup[codes], [*(names[index] for index in kept), "other"]


def _shares(
    spec: RequestSpec, group: np.ndarray, values: list[str], chosen: np.ndarray, count: np.ndarray, by: str
) -> pd.DataFrame:
    rows = []
    for j, name in enumerate(spec.sub_actions):
        size = spec.sizes[name]
        uses = np.bincount(group * size + chosen[:, j], weights=count, minlength=len(values) * size)
        uses = uses.reshape(len(values), size)
        total = uses.sum(axis=1, keepdims=True)
        share = np.divide(uses, total, out=np.zeros_like(uses), where=total > 0)
        for code in np.nonzero(total[:, 0])[0]:
            for choice in range(size):
                rows.append((by, values[code], name, choice, int(uses[code, choice]), float(share[code, choice])))
    return pd.DataFrame(rows, columns=["by", "value", "sub_action", "choice", "requests", "share"])
