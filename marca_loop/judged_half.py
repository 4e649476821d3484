"""Half of a log judges what was learned on the other half: a policy and its rivals at the same predicted spend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.contexts import fine_codes
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_measures.frontier import Climbs
from marca_measures.static_mixture import static_mixture
from revenue_sim.off_policy.directions import CONTROLS, FREE, ActionEffects, Departures
from revenue_sim.off_policy.fitted_propensities import FittedPropensities
from revenue_sim.off_policy.signed import Effects, Valued

POLICY, LOGGED, STATIC, BLIND = "personalised", "logged", "static_mixture", "priced_blind"
RIVALS = (LOGGED, STATIC, BLIND)
_CHUNK = 1024
_MARGIN = 1e-6  # of a price: on either side of it those decide otherwise who are in two minds
PerState = Callable[[pd.DataFrame], np.ndarray]
Key = tuple[float, str]  # spend over today's, and policy


@dataclass(frozen=True)
class Rule:
    """How a policy decides in any state: argmax of values − price × cost at one of several prices, or fixed actions; drawn by weights."""

    weights: np.ndarray  # shares of requests, sum 1 (W,)
    prices: np.ndarray | None = None  # money per core-ms (W,)
    profile: np.ndarray | None = None  # (A,) in place of the learner's values; None: those
    fixed: np.ndarray | None = None  # joint actions (W,) in place of prices

    @classmethod
    def priced(cls, values: np.ndarray, cost: np.ndarray, budget: float, profile: np.ndarray | None = None) -> Rule:
        """At the price that spends ``budget`` on requests with ``values`` and ``cost`` (N, A), randomised at the margin."""
        price, place = price_at(values, cost, budget), np.arange(len(cost))
        prices = price * np.array([1 + _MARGIN, 1 - _MARGIN])
        dear, cheap = (float(cost[place, np.argmax(values - one * cost, axis=1)].mean()) for one in prices)
        share = np.clip((budget - dear) / (cheap - dear), 0.0, 1.0) if cheap > dear else 0.0
        return cls(np.array([1 - share, share]), prices, profile)

    def decide(self, values: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """Joint actions (W, S) in states with ``values`` and ``cost`` (S, A)."""
        if self.fixed is not None:
            return np.repeat(self.fixed[:, None], len(cost), axis=1)
        assert self.prices is not None
        worth = values if self.profile is None else self.profile[None]
        return np.stack([np.argmax(worth - price * cost, axis=1) for price in self.prices])


@dataclass(frozen=True)
class Decided:
    """What a rule does in a half's distinct states."""

    weights: np.ndarray  # (W,)
    actions: np.ndarray  # (W, S)
    along: np.ndarray  # departures of those actions, centred, float32 (W, S, directions)
    spend: float  # predicted, core-ms per request


@dataclass(frozen=True)
class Design:
    """What effects are told from, but for revenue."""

    actions: ActionEffects
    controls: np.ndarray  # (M, CONTROLS)
    x: np.ndarray  # directions of each row's logged action, centred: of ``actions``, then departures (M, K)

    @property
    def along(self) -> np.ndarray:
        """Departures alone (M, directions)."""
        return self.x[:, self.actions.columns.shape[1] :]

    def effects(self, reward: np.ndarray) -> Effects:
        """As ``reward`` (M,) tells them."""
        block = np.r_[self.actions.block, np.full(self.along.shape[1], FREE)]
        return Effects.estimate(self.controls, self.x, block, reward)


@dataclass(frozen=True)
class JudgedHalf:
    """A half's requests, what was decided for them, and what the half's own revenue says that it earns."""

    states: pd.DataFrame  # distinct ones
    ids: np.ndarray  # state of each row (M,)
    joint: np.ndarray  # (M,)
    sub_actions: np.ndarray  # (M, sub-actions)
    reward: np.ndarray  # money (M,)
    propensity: np.ndarray  # of the logged joint action, as logged or else as fitted (M,)
    today: float  # predicted spend of the logged policy, core-ms per request
    propensities: FittedPropensities
    design: Design
    effects: Effects
    decided: dict[Key, Decided]
    valued: dict[Key, Valued]

    def revalued(self, reward: np.ndarray) -> JudgedHalf:
        """The same decisions, judged by another ``reward`` (M,)."""
        effects, valued = _valued(self.design, self.decided, self.ids, self.joint, reward)
        return replace(self, reward=reward, effects=effects, valued=valued)


def judge_half(
    values: PerState,
    costs: PerState,
    profile: np.ndarray | None,
    rows: pd.DataFrame,
    spec: RequestSpec,
    shares: Sequence[float],
    sample: int,
    seed: int,
) -> JudgedHalf:
    """Judge ``values(states)`` (S, A), learned on other rows, by ``rows``.

    ``costs(states)`` (S, A) core-ms; ``profile`` (A,) of mean values learned on the other rows, None: the learner's own mean.
    ``shares``: spends over the logged policy's. ``sample``: requests that prices are found on.
    """
    states, ids, _ = spec.distinct_states(rows)
    joint, reward = spec.joint_index(rows), rows[spec.reward].to_numpy(np.float64)
    taken = np.sort(numpy_generator(seed, "signed_uplift").choice(len(rows), min(sample, len(rows)), replace=False))
    requests = states.iloc[ids[taken]].reset_index(drop=True)
    learned, cost = values(requests), costs(requests)
    profile = learned.mean(axis=0, dtype=np.float64) if profile is None else profile
    departures = Departures.of(learned, spec.shape)
    propensities = fitted_propensities(rows, spec)
    today = float(cost[np.arange(len(taken)), joint[taken]].mean())
    if not today > 0:
        raise UserError(f"costs: the log's actions cost {today:g} core-ms on average; expected more than 0")
    least = float(cost.mean(axis=0, dtype=np.float64).min()) / today
    if min(shares) <= least:
        raise UserError(
            f"spend_shares: got {min(shares):g}; the cheapest joint action alone costs {least:.3g} of today's spend"
        )
    rules = {
        (share, name): rule for share in shares for name, rule in _rules(learned, cost, profile, share * today).items()
    }
    controls, along, decided = _along(values, costs, departures, propensities, rules, states, ids, joint)
    actions = ActionEffects.of(spec.shape)
    x = np.hstack([actions.columns[joint] - actions.foreseen(propensities.of_rows(np.arange(len(rows)))), along])
    design = Design(actions, controls, x)
    effects, valued = _valued(design, decided, ids, joint, reward)
    told = spec.propensity in rows
    propensity = rows[spec.propensity].to_numpy(np.float64) if told else propensities.logged
    sub_actions = spec.joint_table()[joint]
    return JudgedHalf(
        states, ids, joint, sub_actions, reward, propensity, today, propensities, design, effects, decided, valued
    )


def fitted_propensities(rows: pd.DataFrame, spec: RequestSpec) -> FittedPropensities:
    """What the logging policy was expected to do, by state columns; a numeric one is cut into tenths."""
    groupings = {name: codes for name, (codes, _) in zip(spec.state, fine_codes(rows, spec))}
    return FittedPropensities.fit(groupings, spec.joint_table()[spec.joint_index(rows)], spec.shape)


def price_at(values: np.ndarray, cost: np.ndarray, budget: float) -> float:
    """The lowest λ at which argmax Q − λC spends at most ``budget`` on average, money per core-ms: ``values``, ``cost`` (N, A)."""
    climbs = Climbs.of(values, cost, np.ones(len(cost)))
    fit = int(np.searchsorted(climbs.total(cost), budget * (1 + 1e-9), side="right")) - 1
    if fit >= len(climbs.order):
        return 0.0
    place = climbs.order[max(fit, 0)]  # the first climb that does not fit
    state, last, new = climbs.state[place], climbs.joint[place - 1], climbs.joint[place]
    gain = float(values[state, new]) - float(values[state, last])
    return gain / (float(cost[state, new]) - float(cost[state, last]))


def _rules(values: np.ndarray, cost: np.ndarray, profile: np.ndarray, budget: float) -> dict[str, Rule]:
    """Policy and rivals at the same mean predicted cost: ``values`` and ``cost`` (N, A), ``profile`` (A,)."""
    mixture = static_mixture(profile, cost.mean(axis=0, dtype=np.float64), budget)
    return {
        POLICY: Rule.priced(values, cost, budget),
        STATIC: Rule(mixture.weights, fixed=mixture.actions),
        BLIND: Rule.priced(np.broadcast_to(profile, cost.shape), cost, budget, profile),
    }


def _along(
    values: PerState,
    costs: PerState,
    departures: Departures,
    propensities: FittedPropensities,
    rules: dict[Key, Rule],
    states: pd.DataFrame,
    ids: np.ndarray,
    joint: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, dict[Key, Decided]]:
    """Controls (M, CONTROLS) and departures (M, directions) of each row's logged action, and what the rules decide.

    Each distinct state is scored once.
    """
    counts, order, directions = np.bincount(ids), np.argsort(ids, kind="stable"), len(departures.sizes) + 1
    controls, along = np.empty((len(ids), CONTROLS)), np.empty((len(ids), directions))
    actions = {key: np.empty((len(rule.weights), len(states)), np.int64) for key, rule in rules.items()}
    moved = {key: np.empty((*one.shape, directions), np.float32) for key, one in actions.items()}
    spend = dict.fromkeys(rules, 0.0)
    for start in range(0, len(states), _CHUNK):
        block = slice(start, min(start + _CHUNK, len(states)))
        q, c, place = values(states.iloc[block]), costs(states.iloc[block]), np.arange(block.stop - start)
        mine = order[slice(*np.searchsorted(ids, [start, block.stop], sorter=order))]
        first = mine[np.searchsorted(ids[mine], place + start)]
        here = departures.at(q, propensities.of_rows(first))
        at = ids[mine] - start
        controls[mine], along[mine] = here.controls[at], here.along(joint[mine], at)
        for key, rule in rules.items():
            actions[key][:, block] = rule.decide(q, c)
            for w, chosen in enumerate(actions[key][:, block]):
                moved[key][w, block] = here.along(chosen, place)
                spend[key] += float(rule.weights[w] * (counts[block] @ c[place, chosen])) / len(ids)
    decided = {key: Decided(rule.weights, actions[key], moved[key], spend[key]) for key, rule in rules.items()}
    return controls, along, decided


def _valued(
    design: Design, decided: dict[Key, Decided], ids: np.ndarray, joint: np.ndarray, reward: np.ndarray
) -> tuple[Effects, dict[Key, Valued]]:
    """Effects by ``reward`` (M,), and what all that was decided is worth by them, beside the log."""
    effects = design.effects(reward)
    valued = {
        key: worth_of(effects, design.actions, one, ids, joint, design.along, reward) for key, one in decided.items()
    }
    return effects, valued | {(share, LOGGED): Valued.of_log(reward, effects) for share, _ in decided}


def worth_of(
    effects: Effects,
    actions: ActionEffects,
    decided: Decided,
    ids: np.ndarray,
    joint: np.ndarray,
    along: np.ndarray,
    reward: np.ndarray,
) -> Valued:
    """What rows with ``along`` (M, directions) of their logged ``joint`` actions (M,) would have earned as decided."""
    split = actions.columns.shape[1]
    worth = actions.columns @ effects.slope[:split]  # log effect of every joint action (A,)
    each, gradient = np.zeros(len(ids)), np.zeros(len(effects.slope))
    for weight, by_state, by_direction in zip(decided.weights, decided.actions, decided.along):
        chosen, moved = by_state[ids], by_direction[ids] - along
        earned = (
            weight * reward * np.exp(np.clip(worth[chosen] - worth[joint] + moved @ effects.slope[split:], -30, 30))
        )
        shift = np.bincount(chosen, earned, len(worth)) - np.bincount(joint, earned, len(worth))
        each += earned
        gradient += np.r_[shift @ actions.columns, earned @ moved]
    return effects.value(each, gradient / each.sum())
