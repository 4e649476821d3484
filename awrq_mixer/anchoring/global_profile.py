"""The global profile: what each joint action is worth on average over all requests, whoever asks, by the means of a log.

A log can't be averaged action by action: who got which was not drawn by lot, and revenue is rare. So what requests earned
is modelled as level × effect (see ``log_linear``), and the effects are averaged over all logged requests, each in its own
group of states, weighted with its level (*g-computation*). Where the log holds a *surrogate*, a column less noisy than
revenue, it gives the fine structure. Revenue then corrects it by sub-action, by pair, and along what was done for a
request (``spec.results``): a ranker's estimate of its best items errs with how many it chose from. How much, the log tells
(see ``action_effects``). No learner of Q(s, a) has a part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.action_effects import action_mean, corrections, main_and_pair_tables, parts_of
from awrq_mixer.anchoring.contexts import contexts
from awrq_mixer.anchoring.log_linear import Shape, combinations, log_linear
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.tables import Column, read_table, write_table

SURROGATE = Shape(order=3, interactions=True, power=1.9)  # above 0 throughout
LEVELS = Shape(order=1, interactions=False, power=1.5)  # of revenue, beside a surrogate's effects
REVENUE = Shape(order=2, interactions=True, power=1.5)  # without a surrogate, and of one that is often 0


def result_columns(spec: RequestSpec) -> list[Column]:
    """Columns of what was done for a request, where a log has them: they tell how a surrogate errs."""
    return [Column(name, "float", 0, required=False) for name in spec.results]


def estimate_profile(log: pd.DataFrame, spec: RequestSpec, surrogate: str | None) -> np.ndarray:
    """Mean revenue per request of every joint action over the log's requests, money, float64 (A,)."""
    return LoggedEffects.of(log, spec, surrogate).profile()


@dataclass(frozen=True)
class LoggedEffects:
    """What a log says of levels of requests and effects of joint actions, and what it takes to correct the latter by revenue."""

    spec: RequestSpec
    reward: np.ndarray  # (M,)
    joint: np.ndarray  # (M,)
    level: np.ndarray  # money (M,)
    effects: np.ndarray  # log, by combination of coarse groups (C, A)
    row: np.ndarray  # combination of each row (M,)
    results: list[np.ndarray]  # mean log of what was done for requests of each joint action, (A,) each
    own: bool  # do the effects come from revenue itself?

    @classmethod
    def of(cls, log: pd.DataFrame, spec: RequestSpec, surrogate: str | None) -> LoggedEffects:
        """Fit levels and effects to a log; ``surrogate`` names the column that gives the effects, None: revenue does."""
        reward, joint = log[spec.reward].to_numpy(np.float64), spec.joint_index(log)
        signal = reward if surrogate is None else log[surrogate].to_numpy(np.float64)
        groups = contexts(log, spec, signal)
        if surrogate is None:
            level, effects = log_linear(reward, joint, groups, spec, REVENUE)
        else:
            _, effects = log_linear(signal, joint, groups, spec, SURROGATE if signal.min() > 0 else REVENUE)
            level, _ = log_linear(reward, joint, groups, spec, LEVELS, effects)
        tables = main_and_pair_tables(spec)
        seen = [np.log1p(log[name].to_numpy(np.float64)) for name in spec.results if name in log]
        results = [action_mean(one, joint, tables) for one in seen]
        return cls(spec, reward, joint, level, effects, combinations(groups)[0], results, surrogate is None)

    def fitted(self) -> np.ndarray:
        """The profile by the fitted effects as they are, money (A,)."""
        return self._mean(self.effects)

    def profile(self, start: np.ndarray | None = None) -> np.ndarray:
        """The profile corrected by revenue, money (A,).

        ``start`` (A,) is corrected, any unit; None: the fitted one, and none at all where that is revenue's own.
        """
        fitted = self.fitted()
        if start is None:
            start = np.ones_like(fitted) if self.own else fitted
        log_start = np.log(start)
        effects = self.effects + (log_start - np.log(fitted))
        expected = self.level * np.exp(effects[self.row, self.joint])
        blocks = (
            main_and_pair_tables(self.spec) + [one[:, None] for one in self.results] + parts_of(log_start, self.spec)
        )
        return self._mean(effects + corrections(self.reward, expected, self.joint, blocks))

    def _mean(self, effects: np.ndarray) -> np.ndarray:
        """Mean over rows of level × effect, (A,)."""
        weight = np.bincount(self.row, self.level, minlength=len(effects)) / len(self.level)
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
