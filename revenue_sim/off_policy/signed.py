"""An uplift that one can sign: what revenue itself says that other actions would have earned, and how sure that is.

Effects of actions are modelled, levels of requests are not. With directions x(s, a) less their mean under the logged mix
(``directions``):

    E[revenue | s, a] = R(s) · exp(β · x(s, a))

a multiplicative structural nested mean model (Robins 1994). β solves Σ ω(s)·x·(revenue·exp(−β·x) − R(s)) = 0. With the logged mix right,
β is right whatever is taken for R(s) (*g-estimation*). A policy is then worth the mean of revenue·exp(β·(x(s, π) − x(s, a))): every
row's own revenue, taken from its logged action to the policy's. All rows count, whatever they were given. That makes the interval of
a policy useful whose joint action is one of a thousand. The price is an assumption: three or more sub-actions together do nothing
that pairs of them, and the learner's departures, do not.

Effects of one *block* are draws of one variance, estimated by restricted maximum likelihood as in a mixed model. So a large log
tells pairs apart, and a small one says how unsure they are. Errors are those of rows, through β and through the mean, summed by
cluster, with the reach of ``intervals`` for skewed and unseen payments, beside them what the draws leave open, and ``LEFT_OUT``: what
the assumption leaves out, which no number of rows makes smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from marca_common.errors import UserError
from revenue_sim.off_policy.directions import FREE
from revenue_sim.off_policy.estimators import snips
from revenue_sim.off_policy.intervals import reach

UNTOLD = "no interval: the log never varies what the policies differ in"
SAME = "no interval: all requests say the same"
LEFT_OUT = 0.03  # of the logarithm of an uplift: error of development logs whose revenue had no luck (benchmarks.uplift_coverage)
POWER = 1.5  # ω(s) = R(s)^(1 − POWER): the variance of revenue grows with its mean to that power
_ROUNDS, _CLOSE, _MOST = 100, 1e-3, 30.0
_ROUNDING = 1e-5  # directions may be logarithms of single precision: smaller ones are none
_SINGULAR = 1e-12  # directions may say the same: the log tells their sum
_START, _LEAST = 1e-2, 1e-8  # variance of a block: the first, and the least


@dataclass(frozen=True)
class Valued:
    """Mean revenue per request, money, and the error of its logarithm."""

    value: float
    pulls: np.ndarray  # of each row of a log (M,), infinite where the log cannot tell
    unsure: np.ndarray  # what drawn effects leave open, in independent parts of variance 1 (K,)
    gradient: np.ndarray  # of the logarithm by the effects (K,)

    @classmethod
    def of_log(cls, reward: np.ndarray, effects: Effects) -> Valued:
        """The logged policy, valued by what it earned."""
        mean = float(reward.mean())
        none = np.zeros(len(effects.slope))
        return cls(mean, (reward / mean - 1) / len(reward), none, none)

    @classmethod
    def of_matches(cls, reward: np.ndarray, weight: np.ndarray, effects: Effects) -> Valued:
        """A policy valued by the rows that were given its action alone (self-normalised inverse propensities ``weight``)."""
        found = snips(reward, weight)
        none = np.zeros(len(effects.slope))
        return cls(found.value, found.influence / max(found.value, 1e-300) / len(reward), none, none)


@dataclass(frozen=True)
class Effects:
    """Slopes β of revenue, told by a log."""

    slope: np.ndarray  # (K,)
    pulls: np.ndarray  # of rows on them (M, K)
    unsure: np.ndarray  # of the slopes, what their being draws leaves open (K, K): a square root of its covariance
    known: np.ndarray  # does the direction vary in the log? (K,)
    sd: np.ndarray  # of each block's effects

    @classmethod
    def estimate(cls, controls: np.ndarray, x: np.ndarray, block: np.ndarray, reward: np.ndarray) -> Effects:
        """``controls`` (M, L): what log R(s) is linear in; ``x`` (M, K): centred directions; ``block`` (K,): 0, 1, … or FREE."""
        mean = float(reward.mean())
        if not mean > 0:
            raise UserError(f"reward: its mean is {mean:g}; expected more than 0")
        scale = np.sqrt((controls**2).mean(axis=0))
        paying, free = int((reward != 0).sum()), controls.shape[1] + int((block == FREE).sum())
        if paying < free:
            raise UserError(
                f"reward: {paying} rows paid; expected at least {free}, or effects of actions cannot be told"
            )
        known = np.sqrt((x**2).mean(axis=0)) > _ROUNDING
        z = np.hstack([controls[:, scale > _ROUNDING] / scale[scale > _ROUNDING], x[:, known]])
        first = z.shape[1] - int(known.sum())
        found, variance, matrix, precision, scores = _mixed(z, first, block[known], reward / mean)
        inverse = np.linalg.pinv(matrix, _SINGULAR)[first:]
        slope, pulls = np.zeros(len(known)), np.zeros(x.shape)
        slope[known], pulls[:, known] = found[first:], scores @ inverse.T
        unsure = np.zeros((len(known), len(known)))
        unsure[np.ix_(known, known)] = inverse[:, first:] * np.sqrt(precision[first:])
        return cls(slope, pulls, unsure, known, np.sqrt(variance))

    def value(self, each: np.ndarray, gradient: np.ndarray) -> Valued:
        """A policy by what every row would have earned under it (M,), money, and the gradient (K,) of the log of its mean."""
        value = float(each.mean())
        if np.abs(gradient[~self.known]).max(initial=0.0) > _ROUNDING:
            return Valued(value, np.full(len(each), np.inf), gradient, gradient)
        return Valued(value, self.pulls @ gradient + (each / value - 1) / len(each), gradient @ self.unsure, gradient)


@dataclass(frozen=True)
class Uplift:
    """Revenue of a policy over that of a rival, less 1, or the reason why there is no interval."""

    uplift: float
    low: float | None
    high: float | None
    se: float | None  # of log(1 + uplift)
    warning: str | None = None
    left_out: float = 0.0  # part of ``se`` that no number of rows makes smaller

    def rows_needed(self, rows: int, confidence: float = 0.95) -> float | None:
        """Rows of a log like this one, of ``rows`` rows, at which the interval would just exclude 0; None: unknown, or no number."""
        if self.se is None:
            return None
        room = (float(np.log1p(self.uplift)) / float(norm.ppf(0.5 + confidence / 2))) ** 2 - self.left_out**2
        return rows * (self.se**2 - self.left_out**2) / room if room > 0 else None


def signed_uplift(
    policy: Sequence[Valued],
    rival: Sequence[Valued],
    cluster: Sequence[np.ndarray] | None = None,
    confidence: float = 0.95,
    left_out: float = 0.0,
) -> Uplift:
    """Uplift over the parts of a log together: one ``Valued`` of either per part, and each row's cluster, (M,) whole numbers.

    Rows of one cluster may share luck; None: every row is its own. Parts count by their rows. ``left_out``: standard error of the
    logarithm, beyond what the log leaves to chance.
    """
    rows = np.array([len(one.pulls) for one in policy], np.float64)
    ours, theirs = (rows * np.array([one.value for one in side]) for side in (policy, rival))
    log_ratio = float(np.log(ours.sum() / theirs.sum()))
    mine, other = ours / ours.sum(), theirs / theirs.sum()
    uplift = float(np.expm1(log_ratio))
    if not all(np.isfinite(one.pulls).all() for one in (*policy, *rival)):
        return Uplift(uplift, None, None, None, UNTOLD)
    pulls = [a * one.pulls - b * two.pulls for a, one, b, two in zip(mine, policy, other, rival)]
    if cluster is not None:
        pulls = [np.bincount(np.unique(of, return_inverse=True)[1], one) for one, of in zip(pulls, cluster)]
    influence = np.concatenate(pulls) * sum(map(len, pulls))
    sides = reach(influence - influence.mean(), confidence, 1.0)
    if sides is None:
        return Uplift(uplift, None, None, None, SAME)
    parts = zip(mine, policy, other, rival)
    open_ = left_out**2 + sum(float(((a * one.unsure - b * two.unsure) ** 2).sum()) for a, one, b, two in parts)
    z = float(norm.ppf(0.5 + confidence / 2))
    below, above = (float(np.hypot(side, z * np.sqrt(open_))) for side in sides)
    se = float(np.sqrt(influence.var() / len(influence) + open_))
    return Uplift(uplift, float(np.expm1(log_ratio - below)), float(np.expm1(log_ratio + above)), se, left_out=left_out)


def _mixed(
    z: np.ndarray, first: int, block: np.ndarray, reward: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (L + K,), variance of each block, matrix of the penalised equations, the penalties, and rows' parts of the equations.

    One Newton step of the coefficients and one step of the variances a round (as in ``action_effects`` of the profile).
    """
    found, blocks = np.zeros(z.shape[1]), int(block.max(initial=-1)) + 1
    variance = np.full(blocks, _START)
    for _ in range(_ROUNDS):
        precision = np.r_[np.zeros(first), np.where(block == FREE, 0.0, 1 / np.r_[variance, 1.0][block])]
        scores, matrix = _equations(z, first, found, reward)
        matrix = matrix + np.diag(precision)
        step = np.linalg.lstsq(matrix, scores.sum(axis=0) - precision * found, rcond=_SINGULAR)[0]
        found = found + step * min(1.0, 1.0 / max(np.abs(step).max(), 1e-12))
        told = (
            1 - np.diag(np.linalg.pinv(matrix, _SINGULAR)) * precision
        )  # share of an effect's variance that the log tells
        before = variance.copy()
        for b in range(blocks):
            mine = np.r_[np.zeros(first, bool), block == b]
            square, known = float((found[mine] ** 2).sum()), max(float(told[mine].sum()), 1e-12)
            variance[b] = max(variance[b] * np.sqrt(square / variance[b] / known), _LEAST)
        if np.abs(step).max() < _CLOSE and np.abs(np.sqrt(variance) - np.sqrt(before)).max(initial=0.0) < _CLOSE:
            break
    return found, variance, matrix, precision, _equations(z, first, found, reward)[0]


def _equations(z: np.ndarray, first: int, found: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's part of the estimating equations (M, L + K), and minus their derivatives (L + K, L + K), over the dispersion."""
    log_level = np.clip(z[:, :first] @ found[:first], -_MOST, _MOST)
    blunt = reward * np.exp(np.clip(-z[:, first:] @ found[first:], -_MOST, _MOST))  # revenue less the action's effect
    weight, level = np.exp((1 - POWER) * log_level), np.exp(log_level)
    dispersion = max(float(((blunt - level) ** 2 * level**-POWER).mean()), 1e-12)
    by_level = weight * (level + (POWER - 1) * (blunt - level)) / dispersion
    by_effect = weight * blunt / dispersion
    slopes = np.hstack([z.T @ (by_level[:, None] * z[:, :first]), z.T @ (by_effect[:, None] * z[:, first:])])
    return z * (weight * (blunt - level) / dispersion)[:, None], slopes
