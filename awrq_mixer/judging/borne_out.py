"""What a learner's decisions are worth, as far as held-out revenue bears it out: two measures with standard errors.

Held-out revenue is regressed on the global profile p, the learner's log level, its own mean profile p' and the departures of its
shape from the mean shape (Tweedie quasi-likelihood, as in ``evidence``):

    log E[revenue | s, a] = constant + log p(a) + b1 · level(s) + b2 · log p'(a)/p(a) + b3 · departure(s, a) − n(a)

n(a) holds the mean over states to the profile; the learner is right where all three are 1. b2 says whose mean revenue sides
with. A few thousand paid rows hardly know, and every learner would get a lucky or unlucky b2 of its own. So it is drawn to 1/2,
which calls both means equally wrong, with the weight of a prior of sd 0.15.

- ``departures_worth``: b3 · sd(departure). That is the relative gain of revenue if everybody is served a little more by the
  departures, per unit of that. It needs no costs, and does not depend on how large the learner thinks its departures are.
- ``borne_out_uplift``: the value of argmax Q − λc over the best mixture of fixed actions, at several budgets, when actions earn what
  the regression says. That is what *capture* measures, with the regression in place of the truth. The policy is the learner's
  own. So it pays for claims that revenue does not bear out: departures that are too large, a mean profile that is off.

A state's level is here the mean of its log values. The log of its mean value would grow with departures that are too large,
and take their place in the regression.

Inverse propensities say little of such a policy: its joint action is one of a thousand. Here every row counts, because the
regression has four coefficients. The price is an assumption: departures are borne out in proportion to their size. The errors
are those of the regression's rows (jackknife). They leave out the sampling of states and the profile's own error, which all
learners of a comparison share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.anchor import least_value
from awrq_mixer.anchoring.evidence import Values, tweedie_pulls
from awrq_mixer.judging.measured import Measured
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_measures.frontier import Climbs, Frontier

BUDGETS = (0.04, 0.08, 0.12, 0.2, 0.3)  # shares of the way from the cheapest action to the profile's best
_EVEN, _EVEN_SD = 0.5, 0.15  # prior of b2
_CHUNK, _ROUNDS = 512, 3


@dataclass(frozen=True)
class View:
    """A learner beside a profile, in held-out rows and in a sample of their states; logarithms but for ``values`` and ``reward``."""

    profile: np.ndarray  # (A,)
    own: np.ndarray  # log of the learner's mean profile over the profile (A,)
    row_level: np.ndarray  # (M,)
    row_departure: np.ndarray  # (M,)
    joint: np.ndarray  # (M,)
    reward: np.ndarray  # over its mean (M,)
    values: np.ndarray  # of the sampled states, money (S, A)
    level: np.ndarray  # (S,)
    departure: np.ndarray  # (S, A)
    weight: np.ndarray  # (S,) held-out rows of each state, as shares

    @classmethod
    def of(
        cls,
        values: Values,
        profile: np.ndarray | None,
        rows: pd.DataFrame,
        spec: RequestSpec,
        *,
        sample: int = 2000,
        seed: int = 0,
    ) -> View:
        """View ``values(states)`` (S, A) beside ``profile`` (A,) money, on rows that it was not trained on.

        ``profile`` None: the learner's own mean stands for it. ``sample``: states that decisions are worked out for.
        """
        states, ids, counts = spec.distinct_states(rows)
        generator = numpy_generator(seed, "borne_out")
        taken = np.sort(generator.choice(len(states), min(sample, len(states)), replace=False))
        weight = counts[taken] / counts[taken].sum()
        learned = values(states.iloc[taken].reset_index(drop=True))
        floor = least_value(learned)
        level, shape = _level_and_shape(learned, floor)
        mean_level, centre = weight @ level, weight @ shape
        joint, reward = spec.joint_index(rows), rows[spec.reward].to_numpy(np.float64)
        row_level, row_shape = np.empty(len(rows)), np.empty(len(rows))
        order = np.argsort(ids, kind="stable")
        for start in range(0, len(states), _CHUNK):
            mine = order[slice(*np.searchsorted(ids, [start, start + _CHUNK], sorter=order))]
            levels, shapes = _level_and_shape(values(states.iloc[start : start + _CHUNK].reset_index(drop=True)), floor)
            row_level[mine], row_shape[mine] = levels[ids[mine] - start], shapes[ids[mine] - start, joint[mine]]
        mean = weight @ np.exp(level[:, None] - mean_level + shape)
        profile = mean if profile is None else profile
        own = np.log(mean / profile)
        return cls(
            np.log(profile / profile.mean()), own - own.mean(), row_level - mean_level, row_shape - centre[joint], joint,
            reward / max(float(reward.mean()), 1e-300), learned, level - mean_level, shape - centre, weight,
        )  # fmt: skip

    @cached_property
    def regression(self) -> tuple[np.ndarray, np.ndarray]:
        """The constant, b1, b2, b3 (4,), and each row's pull on them (M, 4).

        The coefficient of what doesn't vary is 0, and known. All pulls are infinite where too few rows paid.
        """
        columns = [np.ones(len(self.joint)), self.row_level, self.own[self.joint], self.row_departure]
        design, found = np.column_stack(columns), np.ones(4)
        for _ in range(_ROUNDS):  # n(a) depends, a little, on the coefficients
            spread = np.log(self.weight @ self.personal(found))
            found, pulls = tweedie_pulls(design, (self.profile - spread)[self.joint], self.reward)
        if np.isinf(pulls).all():
            return found, pulls
        pulls = np.where(np.isinf(pulls), 0.0, pulls)
        trust = _EVEN_SD**2 / (_EVEN_SD**2 + float((pulls[:, 2] ** 2).sum()))
        found[2], pulls[:, 2] = _EVEN + trust * (found[2] - _EVEN), trust * pulls[:, 2]
        return found, pulls

    def personal(self, found: np.ndarray) -> np.ndarray:
        """What level and departure multiply a mean value by, (S, A)."""
        return np.asarray(np.exp(found[1] * self.level[:, None] + found[3] * self.departure))

    def combined(self, value: float, pulls: np.ndarray, gradient: np.ndarray) -> Measured:
        """A number that depends on the coefficients by ``gradient`` (4,)."""
        known = np.isfinite(pulls).all()
        return Measured(value, pulls @ gradient if known else np.full(len(pulls), np.inf))


def _level_and_shape(values: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean log value of each state (S,), and its log values around it (S, A)."""
    logs = np.log(np.maximum(values, np.float32(floor)))
    level = logs.mean(axis=1)
    return level, logs - level[:, None]


def departures_worth(view: View) -> Measured:
    """b3 · sd(departure) in the held-out rows: relative gain of revenue per unit of tilt towards the departures."""
    found, pulls = view.regression
    spread = float(view.row_departure.std())
    return view.combined(spread * float(found[3]), pulls, np.array([0.0, 0.0, 0.0, spread]))


def borne_out_uplift(view: View, cost: np.ndarray, budgets: tuple[float, ...] = BUDGETS) -> Measured:
    """Mean over ``budgets`` of the value of argmax Q − λc over that of the static mixture, less 1.

    ``cost`` (A,): mean cost of each joint action, any unit. Budgets are shares of the way from the cheapest to the cost of the
    profile's best action. The static mixture is the best one by the profile.
    """
    found, pulls = view.regression
    spends = cost.min() + np.array(budgets) * (cost[view.profile.argmax()] - cost.min())
    everywhere = np.tile(cost, (len(view.values), 1))
    mine = Climbs.of(view.values, everywhere, view.weight)
    static = Climbs.of(np.exp(view.profile)[None], cost[None], np.ones(1))

    def at(climbs: Climbs, costs: np.ndarray, per_pair: np.ndarray) -> np.ndarray:
        curve = Frontier(climbs.total(costs), climbs.total(per_pair))
        return np.array([curve.at(spend)[0] for spend in spends])

    earned, slopes = _earned(view, found)
    fixed = (view.weight @ earned)[None]
    ratio = at(mine, everywhere, earned) / at(static, cost[None], fixed)
    gradient = [0.0]  # the constant raises both alike
    for slope in slopes:  # d(v / w) = (dv − v/w · dw) / w
        change = at(mine, everywhere, earned * slope)
        moved = at(static, cost[None], (view.weight @ (earned * slope))[None])
        gradient.append(float(((change - ratio * moved) / at(static, cost[None], fixed)).mean()))
    return view.combined(float(ratio.mean()) - 1, pulls, np.array(gradient))


def _earned(view: View, found: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """What pairs earn by the regression (S, A), and the derivatives of its logarithm by b1, b2 and b3, (S, A) each."""
    personal = view.personal(found)
    mean = view.weight @ personal  # exp n(a)
    share = view.weight[:, None] * personal / mean
    earned = np.exp(view.profile + found[2] * view.own) * personal / mean
    level = np.broadcast_to(view.level[:, None], personal.shape)
    own = np.broadcast_to(view.own, personal.shape)
    return earned, [level - (share * level).sum(axis=0), own, view.departure - (share * view.departure).sum(axis=0)]
