"""A policy cache as one table that any tool reads: a row per candidate, in the order in which a rising λ leaves them behind."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from awrq_mixer.serving.policy import HullPolicy
from marca_common.errors import UserError
from marca_common.requests import RequestSpec


def hull_table(policy: HullPolicy, spec: RequestSpec) -> pa.Table:
    """Columns: ``state`` (row of the cache), the state columns, ``joint``, the sub-actions, ``q`` (money), ``c_0`` … (core-ms).

    With one service also ``lambda_high`` and ``lambda_low``, the prices between which the row is best: a decision is the row
    of its state with lambda_low ≤ λ < lambda_high. The schema's metadata say units. A UserError where ``spec`` does not fit.
    """
    if policy.joint.max() >= spec.n_joint:
        raise UserError(f"policy: joint action {policy.joint.max()}; the learner's has {spec.n_joint} joint actions")
    state = np.repeat(np.arange(len(policy.states)), np.diff(policy.first))
    columns = {"state": state.astype(np.int32)}
    columns |= {name: policy.states[name].to_numpy(object)[state] for name in policy.states}
    columns |= {"joint": policy.joint.astype(np.int32)}
    actions = np.stack(np.unravel_index(policy.joint, spec.shape), 1)
    columns |= {name: actions[:, t].astype(np.int16) for t, name in enumerate(spec.sub_actions)}
    columns |= {"q": policy.q} | {f"c_{d}": policy.c[:, d] for d in range(policy.c.shape[1])}
    if policy.c.shape[1] == 1:
        columns |= dict(zip(("lambda_low", "lambda_high"), _breakpoints(policy)))
    table = pa.table(columns)
    units = {"q": "money per request", "c_*": "core-ms per request", "lambda": policy.price_unit}
    paid = ",".join(map(str, policy.price_of.tolist()))
    return table.replace_schema_metadata(units | {"price_of_service": paid})


def _breakpoints(policy: HullPolicy) -> tuple[np.ndarray, np.ndarray]:
    """Prices (V,) at which a candidate begins and ceases to be best: slopes to its dearer and to its cheaper neighbour."""
    last = np.zeros(len(policy.joint), bool)
    last[policy.first[1:] - 1] = True
    slope = np.zeros(len(policy.joint))
    inside = np.flatnonzero(~last)
    slope[inside] = (policy.q[inside + 1] - policy.q[inside]) / (policy.c[inside + 1, 0] - policy.c[inside, 0])
    high = np.empty_like(slope)
    high[1:] = slope[:-1]
    high[policy.first[:-1]] = np.inf
    return slope, high
