"""The global profile: what each joint action is worth on average over all requests, whoever asks, by the means of a log.

A log can't be averaged action by action: who got which was not drawn by lot, and revenue is rare. So what requests earned
is modelled as level × effect (see ``log_linear``), and the effects are averaged over all logged requests, each in its own
group of states, weighted with its level (*g-computation*). Where the log holds a *surrogate*, a column less noisy than
revenue, it gives the fine structure, and revenue only a correction per sub-action and, held to zero, per pair.
No learner of Q(s, a) has a part in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.contexts import Contexts, contexts
from awrq_mixer.anchoring.log_linear import Shape, combinations, log_linear
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.tables import Column, read_table, write_table

SURROGATE = Shape(ridge=(1e-6, 1e-6, 1e-5), interactions=True, power=1.9)
CORRECTION = Shape(ridge=(1e-5, 3e-2), interactions=False, power=1.5)  # of the surrogate's effects, by revenue
REVENUE = Shape(ridge=(1e-5, 1e-2), interactions=True, power=1.5)  # without a surrogate


def estimate_profile(log: pd.DataFrame, spec: RequestSpec, surrogate: str | None) -> np.ndarray:
    """Mean revenue per request of every joint action over the log's requests, money, float64 (A,)."""
    reward, joint = log[spec.reward].to_numpy(np.float64), spec.joint_index(log)
    if surrogate is None:
        groups = contexts(log, spec, reward)
        return _mean(groups, *log_linear(reward, joint, groups, spec, REVENUE))
    signal = log[surrogate].to_numpy(np.float64)
    groups = contexts(log, spec, signal)
    _, effects = log_linear(signal, joint, groups, spec, SURROGATE)
    return _mean(groups, *log_linear(reward, joint, groups, spec, CORRECTION, effects))


def _mean(groups: Contexts, level: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Mean over rows of level × effect, (A,)."""
    weight = np.bincount(combinations(groups)[0], level, minlength=len(effects)) / len(level)
    return np.asarray(weight @ np.exp(effects))


def write_profile(values: np.ndarray, spec: RequestSpec, path: Path) -> None:
    """Write the profile, one row per joint action: its sub-actions and ``value``, money per request."""
    table = pd.DataFrame(spec.joint_table(), columns=list(spec.sub_actions))
    write_table(table.assign(value=values), path)


def read_profile(path: str | Path, spec: RequestSpec) -> np.ndarray:
    """The values of a profile, money per request (A,); a UserError where a joint action is missing or worth nothing."""
    columns = [Column(name, "int", 0, spec.sizes[name] - 1) for name in spec.sub_actions]
    table = read_table(path, [*columns, Column("value", "float", 0)])
    joint = spec.joint_index(table)
    if len(np.unique(joint)) != len(joint) or len(joint) != spec.n_joint:
        raise UserError(f"{path}: {len(joint)} rows; expected each of {spec.n_joint} joint actions once")
    values = np.empty(spec.n_joint)
    values[joint] = table["value"].to_numpy(np.float64)
    if not (values > 0).all():
        raise UserError(f"{path}: column 'value': got {values.min():g}; expected more than 0")
    return values
