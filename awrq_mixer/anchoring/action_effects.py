"""What revenue says of joint actions beyond what was expected of them: random effects whose variances the log tells.

log E[y | row] = log expected(row) + constant + Σ_t table_t[a] + Σ_k slope_k · x_k(a)

There is a table for every sub-action and for every pair, and a slope for every covariate of joint actions, the parts of what
was expected among them: a part that is too large by a tenth has the slope −.1. Coefficients of one block are draws of one
variance. All variances are estimated together (empirical Bayes by MacKay's rule, 1992). So a table that revenue knows nothing
about stays at zero, and a large one is hardly shrunk. No penalty has to be chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from marca_common.requests import RequestSpec

_POWER = 1.5  # Tweedie variance power of revenue
_START, _FREE = 1e-3, 100.0  # variance that effects begin with; that of the constant
_PRIOR, _DRAWN = 1e-4, 0.1  # variance that a block's is drawn to, as if by that part of one more coefficient
_PAIRS = 1000  # most entries of all tables of pairs
_LEAST = 1e-6  # dispersion where there is hardly any noise
_ROUNDS, _CLOSE = 200, 1e-4  # most rounds; change of a standard deviation that ends them
_STEP = 1.0  # most that an effect changes in a round


def main_and_pair_tables(spec: RequestSpec) -> list[np.ndarray]:
    """A column per entry of each table of one sub-action, then of two, 1 where a joint action has it: (A, entries) each.

    Tables of pairs have 1,000 entries together at most, the smallest tables first: the rounds of ``corrections`` invert a matrix of
    that size, and of larger tables revenue knows next to nothing.
    """
    joint, pairs = spec.joint_table(), itertools.combinations(range(len(spec.shape)), 2)
    found, left = [np.eye(n)[joint[:, j]] for j, n in enumerate(spec.shape)], _PAIRS
    for i, j in sorted(pairs, key=lambda one: spec.shape[one[0]] * spec.shape[one[1]]):
        entries = spec.shape[i] * spec.shape[j]
        if entries <= left:
            found.append(np.eye(entries)[joint[:, i] * spec.shape[j] + joint[:, j]])
            left -= entries
    return found


def parts_of(log_profile: np.ndarray, spec: RequestSpec) -> list[np.ndarray]:
    """A log profile (A,) taken apart: main effects of sub-actions, effects of pairs, and the rest: (A, parts) each.

    They add up to the profile around its mean, and every part is 0 on average over any of its sub-actions.
    """
    table, axes = log_profile.reshape(spec.shape) - log_profile.mean(), range(len(spec.shape))
    effects: dict[tuple[int, ...], np.ndarray] = {}
    for order in (1, 2):
        for chosen in itertools.combinations(axes, order):
            mean = table.mean(axis=tuple(t for t in axes if t not in chosen), keepdims=True)
            effects[chosen] = mean - sum(effects[t,] for t in chosen if order == 2)
    full = {chosen: np.broadcast_to(one, spec.shape).ravel() for chosen, one in effects.items()}
    rest = table.ravel() - np.sum(list(full.values()), axis=0)
    singles, pairs = ([one for chosen, one in full.items() if len(chosen) == order] for order in (1, 2))
    return [np.stack(part, axis=1) for part in (singles, pairs, [rest]) if part]


def action_mean(values: np.ndarray, joint: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of ``values`` (M,) of each joint action as a sum of ``tables``, around 0 (A,): said of actions never logged, too."""
    design = np.hstack([np.ones((len(tables[0]), 1)), *tables])
    count = np.bincount(joint, minlength=len(design))
    total = np.bincount(joint, values - values.mean(), minlength=len(design))
    ridge = 1e-3 * max(count.mean(), 1.0) * np.eye(design.shape[1])
    found = design @ np.linalg.solve(design.T @ (count[:, None] * design) + ridge, design.T @ total)
    return np.asarray(found - found.mean())


def corrections(
    reward: np.ndarray, expected: np.ndarray, joint: np.ndarray, blocks: Sequence[np.ndarray]
) -> np.ndarray:
    """Log of what rows of each joint action earn over what is ``expected`` (M,) of them, the constant in it, (A,).

    ``blocks``: columns (A, n) whose coefficients share a variance. Tweedie quasi-likelihood, one Newton step and one
    step of the variances a round.
    """
    size = len(blocks[0])
    scale = float(reward.sum() / expected.sum())
    expected = expected * scale
    parts = (reward**2 * expected**-_POWER, reward * expected ** (1 - _POWER), expected ** (2 - _POWER))
    squares, earned, foreseen = (np.bincount(joint, one, minlength=size) for one in parts)
    design = np.hstack([np.ones((size, 1)), *blocks])
    edges = np.cumsum([1, *(one.shape[1] for one in blocks)])
    variance, effect = np.full(len(blocks), _START), np.zeros(size)
    for _ in range(_ROUNDS):
        weight = foreseen * np.exp((2 - _POWER) * effect)
        paid = earned * np.exp((1 - _POWER) * effect)
        dispersion = max((squares * np.exp(-_POWER * effect) - 2 * paid + weight).sum() / len(reward), _LEAST)
        weight, paid = weight / dispersion, paid / dispersion
        target = weight * effect + paid - weight
        scaled = design * np.sqrt(np.r_[_FREE, np.repeat(variance, np.diff(edges))])
        covariance = np.linalg.inv(np.eye(design.shape[1]) + scaled.T @ (weight[:, None] * scaled))
        found = covariance @ (scaled.T @ target)
        effect = effect + np.clip(scaled @ found - effect, -_STEP, _STEP)
        square, known = (np.add.reduceat(one[1:], edges[:-1] - 1) for one in (found**2, 1 - np.diag(covariance)))
        before, variance = variance, (variance * square + _DRAWN * _PRIOR) / (known + _DRAWN)
        if np.abs(np.sqrt(variance) - np.sqrt(before)).max() < _CLOSE:
            break
    return np.asarray(effect + np.log(scale))
