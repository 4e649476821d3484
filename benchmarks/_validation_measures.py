"""Candidate measures of a learner on held-out rows, each a number with every row's pull on it; judged by `benchmarks.validation_power`.

Doubly robust values are those of argmax Q − λc less the static mixture's, relative to the latter, as in ``borne_out_uplift``. Its
regression is their direct model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.evidence import Values, tweedie_losses, tweedie_pulls
from awrq_mixer.judging.borne_out import BUDGETS, View, borne_out_uplift, departures_worth
from awrq_mixer.judging.measured import Measured
from awrq_mixer.training.validation import comparison_groups, measured_shape_gain
from marca_common.requests import RequestSpec
from marca_common.scores import state_index
from marca_measures.frontier import Climbs

CLIP = 20.0  # largest weight of the clipped estimate


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows of a world, and what is known beside them."""

    rows: pd.DataFrame
    spec: RequestSpec
    profile: np.ndarray  # (A,) money
    cost: np.ndarray  # (A,) core-ms, mean over states
    sub_propensity: np.ndarray  # (M, sub-actions) of the logged sub-actions
    side: list[str]  # side columns

    @cached_property
    def of_states(self) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """Distinct states, their number in each row, and their rows."""
        return self.spec.distinct_states(self.rows)

    @cached_property
    def joint(self) -> np.ndarray:
        return self.spec.joint_index(self.rows)

    @cached_property
    def groups(self) -> np.ndarray:
        return comparison_groups(self.rows, self.spec)


@dataclass(frozen=True)
class Seen:
    """One learner on the held-out rows."""

    held: HeldOut
    q: np.ndarray  # (S, A) of the distinct states
    view: View

    @classmethod
    def of(cls, held: HeldOut, values: Values) -> Seen:
        """Score every state once."""
        states = held.of_states[0]
        q, known = values(states), state_index(states)

        def again(frame: pd.DataFrame) -> np.ndarray:
            return np.asarray(q[known.get_indexer(state_index(frame))])

        return cls(held, q, View.of(again, held.profile, held.rows, held.spec))

    def shape_gain(self) -> Measured:
        """What selects checkpoints."""
        reward = self.held.rows[self.held.spec.reward].to_numpy(np.float64)
        return measured_shape_gain(self.q[self.held.of_states[1], self.held.joint], reward, self.held.groups)

    def likelihood(self) -> Measured:
        """Quasi-likelihood per row gained by the learner's own shape over the profile's; constant and level fitted to both."""
        own = self.view.profile + self.view.own - np.log(self.view.weight @ self.view.personal(np.ones(4)))
        return self._gained(own[self.held.joint] + self.view.row_departure, [])

    def fitted_likelihood(self) -> Measured:
        """The same, gained by mean profile and departures, each with a slope of its own."""
        return self._gained(
            self.view.profile[self.held.joint], [self.view.own[self.held.joint], self.view.row_departure]
        )

    def _gained(self, offset: np.ndarray, columns: list[np.ndarray]) -> Measured:
        least, reward = [np.ones(len(offset)), self.view.row_level], self.view.reward
        losses = []
        for base, design in (
            (self.view.profile[self.held.joint], np.column_stack(least)),
            (offset, np.column_stack([*least, *columns])),
        ):
            found, _ = tweedie_pulls(design, base, reward)
            losses.append(tweedie_losses(base + design @ found, reward))
        return _mean(losses[0] - losses[1])

    def slope(self) -> Measured:
        """b3: how large departures are for each that the learner claims."""
        found, pulls = self.view.regression
        return self.view.combined(float(found[3]), pulls, np.array([0.0, 0.0, 0.0, 1.0]))

    def worth(self) -> Measured:
        return departures_worth(self.view)

    def worth_alone(self) -> Measured:
        """Departures' worth beside the learner's own mean profile: nothing but the learner and the rows is needed."""
        log = self.view.profile + self.view.own
        return departures_worth(replace(self.view, profile=log, own=np.zeros(len(log))))

    def worth_of_side_column(self) -> Measured:
        """Departures' worth for the first side column in revenue's place: far less noise, and another question."""
        return departures_worth(self._instead(self.held.side[0]))

    def uplift(self) -> Measured:
        return self._uplift

    @cached_property
    def _uplift(self) -> Measured:
        return borne_out_uplift(self.view, self.held.cost)

    def uplift_of_side_column(self) -> Measured:
        return borne_out_uplift(self._instead(self.held.side[0]), self.held.cost)

    def _instead(self, column: str) -> View:
        values = self.held.rows[column].to_numpy(np.float64)
        return replace(self.view, reward=values / values.mean())

    def dr_joint(self) -> Measured:
        return self._robust(self.weights[0], [])

    def dr_joint_clipped(self) -> Measured:
        return self._robust(np.clip(self.weights[0], -CLIP, CLIP), [])

    def dr_sub_actions(self) -> Measured:
        """Weights add up over the sub-actions that differ (Swaminathan et al. 2017): right where effects are additive."""
        return self._robust(self.weights[1], [])

    def dr_sub_actions_side(self) -> Measured:
        """The same with the side columns' residuals as control variates."""
        return self._robust(self.weights[1], self.held.side)

    @cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Policy less static mixture over propensities, mean over budgets: of joint actions, and summed over sub-actions, (M,)."""
        held = self.held
        _, ids, counts = held.of_states
        table, logged = held.spec.joint_table(), held.spec.joint_table()[held.joint]
        propensity = held.rows[held.spec.propensity or ""].to_numpy(np.float64)
        whole, parts = np.zeros(len(ids)), np.zeros(len(ids))
        costs, fixed = np.tile(held.cost, (len(self.q), 1)), held.profile[None]
        mine, static = Climbs.of(self.q, costs, counts), Climbs.of(fixed, held.cost[None], np.ones(1))
        for share in BUDGETS:
            spend = held.cost.min() + share * (held.cost[held.profile.argmax()] - held.cost.min())
            for sign, mix in ((1, _chosen(mine, costs, spend)), (-1, _chosen(static, held.cost[None], spend))):
                for action, chance in mix:
                    action = action[ids] if len(action) > 1 else np.full(len(ids), action[0])
                    whole += sign * chance * (action == held.joint) / propensity / len(BUDGETS)
                    parts += sign * chance * ((table[action] == logged) / held.sub_propensity).sum(1) / len(BUDGETS)
        return whole, parts

    def _robust(self, weight: np.ndarray, controls: list[str]) -> Measured:
        """The uplift by the regression, and what weighted residuals add; their part for ``controls`` is taken off."""
        view = self.view
        extra = weight * _residual(view)
        others = [weight * _residual(self._instead(name)) for name in controls]
        if others:
            z = np.column_stack(others)
            extra = extra - z @ np.linalg.lstsq(z - z.mean(axis=0), extra - extra.mean(), rcond=None)[0]
        base = np.exp(view.profile).mean() / np.exp(_static_log(view, self.held))
        added = _mean(extra * base)
        return Measured(self.uplift().value + added.value, added.pulls)


def _residual(view: View) -> np.ndarray:
    """Reward less the regression's, (M,)."""
    found, _ = view.regression
    spread = np.log(view.weight @ view.personal(found))
    log = found[0] + view.profile[view.joint] + found[1] * view.row_level + found[2] * view.own[view.joint]
    return np.asarray(view.reward - np.exp(log + found[3] * view.row_departure - spread[view.joint]))


def _static_log(view: View, held: HeldOut) -> float:
    """Log of what the static mixture earns on average over the budgets, on the profile's scale."""
    spends = held.cost.min() + np.array(BUDGETS) * (held.cost[held.profile.argmax()] - held.cost.min())
    static = Climbs.of(held.profile[None], held.cost[None], np.ones(1))
    value, cost = static.total(np.exp(view.profile)[None]), static.total(held.cost[None])
    return float(np.log(np.interp(spends, cost, value).mean()))


def _chosen(climbs: Climbs, cost: np.ndarray, spend: float) -> list[tuple[np.ndarray, float]]:
    """Joint actions (S,) at a budget with their chances: the climbs that it pays for, and the one that it pays in part."""
    first = np.flatnonzero(np.r_[True, climbs.state[1:] != climbs.state[:-1]])
    spent = climbs.total(cost)
    paid = max(int(np.searchsorted(spent, spend, side="right")) - 1, 0)
    at = first.copy()
    np.maximum.at(at, climbs.state[climbs.order[:paid]], climbs.order[:paid])
    if paid == len(climbs.order):
        return [(climbs.joint[at], 1.0)]
    chance = float(np.clip((spend - spent[paid]) / (spent[paid + 1] - spent[paid]), 0.0, 1.0))
    more = at.copy()
    more[climbs.state[climbs.order[paid]]] = climbs.order[paid]
    return [(climbs.joint[at], 1 - chance), (climbs.joint[more], chance)]


def _mean(terms: np.ndarray) -> Measured:
    return Measured(float(terms.mean()), (terms - terms.mean()) / len(terms))


MEASURES: dict[str, Callable[[Seen], Measured]] = {
    "shape_gain": Seen.shape_gain,
    "likelihood": Seen.likelihood,
    "fitted_likelihood": Seen.fitted_likelihood,
    "slope": Seen.slope,
    "departures_worth": Seen.worth,
    "worth_alone": Seen.worth_alone,
    "worth_of_side_column": Seen.worth_of_side_column,
    "borne_out_uplift": Seen.uplift,
    "uplift_of_side_column": Seen.uplift_of_side_column,
    "dr_joint": Seen.dr_joint,
    "dr_joint_clipped": Seen.dr_joint_clipped,
    "dr_sub_actions": Seen.dr_sub_actions,
    "dr_sub_actions_side": Seen.dr_sub_actions_side,
}
