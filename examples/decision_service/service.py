"""Decisions, prices and counts, without HTTP: what is answered, by which rule, and what is noted."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa

from examples.decision_service.config import DecisionServiceConfig
from examples.decision_service.decision_log import DecisionLog
from examples.decision_service.price_push import Refused, read_push
from examples.decision_service.served_policy import ServedPolicy
from marca_common.column_values import category

RULES = ("priced", "stale", "unknown")  # λ is fresh; fallback prices; fallback action
PRICED, STALE, UNKNOWN = range(3)


class DecisionService:
    """Answers by look-up. One thread may call it; ``clock`` and ``wall`` are seconds, the latter since 1970."""

    def __init__(
        self,
        config: DecisionServiceConfig,
        policy: ServedPolicy,
        log: DecisionLog,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.log, self.clock, self.wall = config, log, clock, wall
        self.fallback = np.array([config.fallback_prices[name] for name in config.prices])
        self.lambda_ = np.tile(self.fallback, (len(config.groups), 1))  # (G, L) in force
        self.until = np.full(len(config.groups), -np.inf)  # clock at which each λ grows stale
        self.due = np.inf  # the earliest of those to come
        self.newest = np.full(len(config.groups), -np.inf)  # when each λ was decided, seconds since 1970
        self.decided, self.explored = [0] * len(RULES), 0
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._random = random.Random(config.seed)
        self._generator = np.random.default_rng(config.seed)
        table = config.spec.joint_table()
        names = config.spec.sub_actions
        self._actions = [", ".join(f'"{name}": {one}' for name, one in zip(names, row)) for row in table.tolist()]
        self._sub_actions = [pa.array(column.astype(np.uint16)) for column in table.T]
        self.swap(policy)

    def swap(self, policy: ServedPolicy) -> None:
        """Decide by another policy from the next request on."""
        size = len(policy.states) + 1
        self.best = np.full(size, self.config.fallback_joint, np.int32)  # (S + 1,); the last row is the unknown state
        self.p_best, self.p_other = np.ones(size, np.float32), np.zeros(size, np.float32)
        self.explore = np.zeros(size)
        self.rule = np.full(size, UNKNOWN, np.int8)
        self.policy = policy
        self._price(range(len(self.config.groups)))

    def push(self, body: bytes) -> dict[str, Any]:
        """Take prices over; Refused, and counted, where they are not believed."""
        try:
            found = read_push(body, self.config, self.policy.policy.price_unit, self.wall(), self.newest)
        except Refused as error:
            self.refused[error.reason] += 1
            raise
        self.counts["pushes"] += 1
        for group, price in found.lambda_.items():
            self.lambda_[group], self.newest[group] = price, found.decided
            self.until[group] = self.clock() + self.config.stale_s - (self.wall() - found.decided)
        self._price(found.lambda_)
        return {"accepted": [self.config.groups[group] for group in found.lambda_]}

    def one(self, query: bytes) -> bytes:
        """Decision of the state in a query string, as JSON. A UserError where a state column is missing."""
        if self.clock() >= self.due:
            self._grow_stale()
        row, unknown = self.policy.by_query.get(query, -2), None
        if row == -2:
            state = {
                name: category(word)
                for name, word in parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True)
            }
            row = self.policy.row(state)
            unknown = json.dumps({name: state[name] for name in self.policy.columns}) if row < 0 else None
        joint, propensity, share = self.best.item(row), self.p_best.item(row), self.explore.item(row)
        if share:
            drawn = self._random.random()
            if drawn < share:
                joint, propensity = self._explored(row, drawn / share, joint)
        rule = self.rule.item(row)
        self.decided[rule] += 1
        request = self.log.one(row, joint, propensity, unknown)
        return (
            f'{{"request": {request}, "rule": "{RULES[rule]}", "propensity": {propensity:.9g},'
            f' "actions": {{{self._actions[joint]}}}}}'
        ).encode()

    def many(self, states: pa.Table) -> pa.Table:
        """Decisions of the states of a table: request, rule, propensity and sub-actions. A UserError as in ``one``."""
        if self.clock() >= self.due:
            self._grow_stale()
        rows = self.policy.rows_of(states)
        joint, propensity = self.best[rows], self.p_best[rows]
        if self.explore.any():
            drawn, share = self._generator.random(len(rows)), self.explore[rows]
            chosen = np.flatnonzero(drawn < share)
            joint[chosen], propensity[chosen] = self._explored_rows(rows[chosen], drawn[chosen] / share[chosen])
        rules = self.rule[rows]
        for rule, count in enumerate(np.bincount(rules, minlength=len(RULES)).tolist()):
            self.decided[rule] += count
        request = self.log.many(rows, joint, propensity, self._unknown(states, rows))
        index = pa.array(joint)
        columns = {name: one.take(index) for name, one in zip(self.config.spec.sub_actions, self._sub_actions)}
        said = pa.DictionaryArray.from_arrays(pa.array(rules), pa.array(RULES))
        return pa.table({"request": request, "rule": said, "propensity": propensity, **columns})

    def _explored(self, row: int, drawn: float, best: int) -> tuple[int, float]:
        """An action drawn evenly by ``drawn`` in [0, 1), and its propensity."""
        self.explored += 1
        policy = self.policy
        count = policy.counts.item(row)
        joint = policy.candidates.item(policy.first.item(row) + min(int(drawn * count), count - 1))
        return joint, (self.p_best if joint == best else self.p_other).item(row)

    def _explored_rows(self, rows: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.explored += len(rows)
        count = self.policy.counts[rows]
        place = self.policy.first[rows] + np.minimum((drawn * count).astype(np.int64), count - 1)
        joint = self.policy.candidates[place]
        return joint, np.where(joint == self.best[rows], self.p_best[rows], self.p_other[rows])

    def _unknown(self, states: pa.Table, rows: np.ndarray) -> pa.Array:
        """The state columns of unknown states as JSON, null for the others."""
        new = np.flatnonzero(rows < 0)
        if not len(new):
            return pa.nulls(len(rows), pa.string())
        texts = np.full(len(rows), None, object)
        found = states.select(self.policy.columns).take(pa.array(new)).to_pylist()
        texts[new] = [json.dumps({name: _word(one) for name, one in state.items()}) for state in found]
        return pa.array(texts, pa.string())

    def _grow_stale(self) -> None:
        now = self.clock()
        stale = [group for group, until in enumerate(self.until) if -np.inf < until <= now]
        self.until[stale] = -np.inf
        self.lambda_[stale] = self.fallback
        self.counts["grown_stale"] += len(stale)
        self._price(stale)

    def _price(self, groups: Any) -> None:
        """Decide every state of some data centres at their λ in force."""
        policy = self.policy
        for group in groups:
            rows, joint = policy.best(group, self.lambda_[group])
            fresh = self.until[group] > -np.inf
            share = self.config.explore_share if fresh else 0.0
            self.best[rows] = joint
            self.explore[rows] = share
            self.p_other[rows] = share / policy.counts[rows]
            self.p_best[rows] = 1 - share + share / policy.counts[rows]
            self.rule[rows] = PRICED if fresh else STALE
        waiting = self.until[self.until > -np.inf]
        self.due = float(waiting.min()) if len(waiting) else np.inf
        self.log.price(
            {
                "policy": policy.version,
                "shadow": self.config.shadow,
                "group_column": self.config.group_column,
                **self.prices(),
            }
        )

    def prices(self) -> dict[str, Any]:
        """λ and rule in force, by data centre."""
        names = self.config.groups
        return {
            "lambda": {name: dict(zip(self.config.prices, row.tolist())) for name, row in zip(names, self.lambda_)},
            "rule": {name: RULES[PRICED if until > -np.inf else STALE] for name, until in zip(names, self.until)},
        }


def _word(value: Any) -> str:
    return "" if value is None else category(value)
