"""Who gets computation and why: pure functions of values Q, costs C and prices, over states and the requests they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from marca_common.arrays import require_shape
from marca_common.errors import UserError
from marca_common.requests import RequestSpec


@dataclass(frozen=True)
class Decided:
    """States, their share of the requests, and what each joint action is worth and costs in them."""

    states: pd.DataFrame  # (S, columns)
    weight: np.ndarray  # (S,), sums to 1
    q: np.ndarray  # (S, A) money per request
    c: np.ndarray  # (S, A, D) core-ms per request
    services: tuple[str, ...]
    spec: RequestSpec

    def __post_init__(self) -> None:
        require_shape("q", self.q, (len(self.states), self.spec.n_joint))
        require_shape("c", self.c, (*self.q.shape, len(self.services)))

    def best(self, price: np.ndarray) -> np.ndarray:
        """argmax Q − λC of every state under prices (D,), int64 (S,)."""
        return np.asarray((self.q - self.c @ price).argmax(1))

    def at(self, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value (S,) and costs (S, D) of one joint action per state."""
        rows = np.arange(len(joint))
        return self.q[rows, joint], self.c[rows, joint]


def by_column(decided: Decided, column: str, price: np.ndarray, factors: Sequence[float]) -> pd.DataFrame:
    """What the requests with each value of a state column get, a row per value and per multiple of ``price`` (D,).

    ``requests``: their share. ``value``, ``cost_<service>``: mean per request. ``gain`` and ``spend``: value and core-ms (all
    services) above those of the cheapest action. ``return``: gain over spend. ``marginal``: what the last step of the falling
    price added in value per core-ms of it, empty where it added none. Factors must fall.
    """
    groups = _groups(decided, column)
    cheapest = decided.at(decided.c.sum(2).argmin(1))
    rows: list[pd.DataFrame] = []
    for factor in factors:
        value, cost = decided.at(decided.best(factor * price))
        total = cost.sum(1)
        columns = {"value": value, "gain": value - cheapest[0], "spend": total - cheapest[1].sum(1)}
        columns |= {f"cost_{name}": cost[:, d] for d, name in enumerate(decided.services)}
        means = pd.DataFrame(columns).mul(decided.weight, axis=0).groupby(groups).sum()
        share = pd.Series(decided.weight).groupby(groups).sum()
        table = means.div(share, axis=0).assign(requests=share, factor=factor)
        step = table - rows[-1] if rows else table * np.nan
        table["marginal"] = _ratio(step["value"], step["spend"])
        table["return"] = _ratio(table["gain"], table["spend"])
        rows.append(table)
    return pd.concat(rows).rename_axis("of").reset_index().assign(column=column)


def action_mix(decided: Decided, column: str, price: np.ndarray, factors: Sequence[float]) -> pd.DataFrame:
    """Share of requests with each value of a column that get each choice of each sub-action, by multiple of ``price``."""
    groups, table, rows = _groups(decided, column), decided.spec.joint_table(), []
    share = pd.Series(decided.weight).groupby(groups).sum()
    for factor in factors:
        chosen = table[decided.best(factor * price)]
        for t, name in enumerate(decided.spec.sub_actions):
            mix = pd.Series(decided.weight).groupby([groups, chosen[:, t]]).sum()
            mix.index.names = ["of", "choice"]
            found = mix.div(share.rename_axis("of"), level="of").rename("share").reset_index()
            rows.append(found.assign(column=column, factor=factor, sub_action=name))
    return pd.concat(rows, ignore_index=True)


def ledger(q: np.ndarray, c: np.ndarray, price: np.ndarray, spec: RequestSpec, services: Sequence[str]) -> pd.DataFrame:
    """One request's account: its joint actions that some multiple of ``price`` (D,) makes best, and the runner-up.

    ``q`` (A,), ``c`` (A, D). Rows in order of Q − λC. ``behind``: how far behind the best, which is also how much more Q it
    would need. ``factor_low`` … ``factor_high``: multiples of λ at which it would win, empty for none. ``price_<service>``:
    that service's price, the others as they are, at which it overtakes the best one; empty where none does.
    """
    score = q - c @ price
    order = np.argsort(-score, kind="stable")
    low, high = _factor_ranges(q, c @ price)
    wins = np.flatnonzero(low < high)
    wanted = {*wins.tolist(), *order[:2].tolist()}
    kept = [a for a in order if a in wanted]
    best = order[0]
    frame = pd.DataFrame(spec.joint_table()[kept], columns=list(spec.sub_actions))
    frame.insert(0, "joint", kept)
    frame["q"] = q[kept]
    for d, name in enumerate(services):
        frame[f"c_{name}"] = c[kept, d]
    frame["priced_cost"], frame["score"] = (c @ price)[kept], score[kept]
    frame["behind"] = score[best] - score[kept]
    frame["factor_low"] = np.where(low[kept] < high[kept], low[kept], np.nan)
    frame["factor_high"] = np.where(low[kept] < high[kept], high[kept], np.nan)
    for d, name in enumerate(services):
        cheaper = c[best, d] - c[kept, d]  # raising the price by x moves the gap by −x · cheaper
        with np.errstate(divide="ignore", invalid="ignore"):
            overtakes = price[d] + frame["behind"].to_numpy() / cheaper
        frame[f"price_{name}"] = np.where(
            (cheaper != 0) & (overtakes >= 0) & (np.array(kept) != best), overtakes, np.nan
        )
    return frame


def agent_contributions(decided: Decided, price: np.ndarray) -> pd.DataFrame:
    """What each agent's looking at the state adds to the mean of Q − λC, money per request.

    ``alone``: only this agent looks, all others do the same for everybody. ``without``: what is lost where this agent alone
    does the same for everybody. The row ``all`` is the whole of it: every agent looks, against none does.
    """
    score = decided.q - decided.c @ price
    sizes = [int(np.prod([decided.spec.sizes[name] for name in own])) for own in decided.spec.agents.values()]
    cube = score.reshape(len(score), *sizes)  # (S, N_1, …, N_G)
    everybody, nobody = decided.weight @ score.max(1), (decided.weight @ score).max()
    rows = [{"agent": "all", "alone": everybody - nobody, "without": everybody - nobody}]
    for g, name in enumerate(decided.spec.agents):
        others = tuple(axis for axis in range(1, len(sizes) + 1) if axis != g + 1)
        alone = np.tensordot(decided.weight, cube.max(g + 1), 1).max()
        blind = np.tensordot(decided.weight, cube.max(others), 1).max()
        rows.append({"agent": name, "alone": alone - nobody, "without": everybody - blind})
    return pd.DataFrame(rows)


def _factor_ranges(q: np.ndarray, priced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multiples of the price between which each action is best, (A,) each; low ≥ high where there are none."""
    low, high = np.zeros(len(q)), np.full(len(q), np.inf)
    for a in range(len(q)):
        dq, dc = q[a] - q, priced[a] - priced  # best at f where dq ≥ f · dc for all others
        dearer, cheaper, equal = dc > 0, dc < 0, dc == 0
        high[a] = min(high[a], float((dq[dearer] / dc[dearer]).min(initial=np.inf)))
        low[a] = max(low[a], float((dq[cheaper] / dc[cheaper]).max(initial=0.0)))
        if (dq[equal] < 0).any():
            high[a] = low[a]
    return low, high


def _groups(decided: Decided, column: str) -> np.ndarray:
    if column not in decided.states:
        raise UserError(f"columns: got {column!r}; expected state columns, of {', '.join(decided.states)}")
    return np.asarray(decided.states[column].astype(str), dtype=object)


def _ratio(top: pd.Series, bottom: pd.Series) -> pd.Series:
    found: pd.Series = top.div(bottom.where(bottom > 1e-12))
    return found
