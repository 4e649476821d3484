"""How much of a learner's personalisation revenue bears out: slopes of held-out revenue on its departures.

Held-out revenue is regressed on the learner's log level and on its departures along principal directions, beside the
global profile (Tweedie quasi-likelihood, jackknife errors). A slope of 1 says that a departure is as large as it claims to
be, 0 that it is noise. Only the part of a departure counts that the logging policy did not foresee (``logged_mix``).
Slopes of single directions are noisy, so each is drawn to the mean of all as far as they agree (random effects,
DerSimonian and Laird 1986). A share is kept no larger than the result's lower confidence bound: argmax picks out what is
overrated, so an estimate that is right on average still harms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.anchor import Anchor, least_value, log_shapes
from awrq_mixer.anchoring.logged_mix import LoggedMix
from marca_common.requests import RequestSpec

Values = Callable[[pd.DataFrame], np.ndarray]
Seen = Sequence[tuple[Values, pd.DataFrame]]  # a learner's values of states, and rows that it was not trained on
POWER = 1.5
_STEPS, _CHUNK = 50, 1024
_ROUNDING = 1e-5  # departures are logarithms of single precision: smaller ones are none
_PAID = 2  # rows with revenue per column: with fewer, a fit runs through each of them and its errors mean nothing


T = TypeVar("T")


class Work(Protocol):
    """How chunks are worked through, such as ``Ranks.map``."""

    def __call__(self, function: Callable[[int], T], shards: Sequence[int], /) -> list[T]: ...


def in_turn(function: Callable[[int], T], shards: Sequence[int], /) -> list[T]:
    """One after the other, here."""
    return [function(one) for one in shards]


@dataclass(frozen=True)
class Slopes:
    """Estimates with their standard errors."""

    level: float
    level_se: float
    slope: np.ndarray  # (K + 1,): along each direction, and along the rest
    se: np.ndarray  # (K + 1,)


def fit_anchor(
    values: Values,
    profile: np.ndarray,
    reference: pd.DataFrame,
    held_out: Seen,
    spec: RequestSpec,
    directions: int,
    confidence: float,
    work: Work = in_turn,
) -> tuple[Anchor, Slopes]:
    """Anchor ``values(states)`` (S, A) to ``profile`` (A,) money.

    ``reference``: logged rows whose states the means are taken over. ``held_out``: rows with what says their values, the
    learner or copies of it that were not trained on them. ``confidence``: standard errors taken off each slope. ``work``
    goes through the chunks of held-out states.
    """
    learned = values(reference)
    start = _unshrunk(learned, directions)
    anchor = _put_on(start, learned, profile)
    parts = [_features(one, start, rows, spec, work) for one, rows in held_out]
    level, features, foreseen, joint, reward = (np.concatenate(part) for part in zip(*parts))
    slopes = _slopes(level, features, foreseen, anchor.shift[joint], reward)
    for _ in range(2):  # the shift depends on the shares, and the slopes, a little, on the shift
        kept = replace(start, shares=pooled_shares(slopes, confidence), slope=float(np.clip(slopes.level, 0.0, 1.5)))
        anchor = _put_on(kept, learned, profile)
        slopes = _slopes(level, features, foreseen, anchor.shift[joint], reward)
    return anchor, slopes


def pooled_shares(slopes: Slopes, confidence: float) -> np.ndarray:
    """Shares (K + 1,) from 0 to 1: slopes drawn to their mean, less ``confidence`` standard errors.

    With τ² the variance of true slopes between directions (method of moments), a slope b ± s becomes the posterior mean
    B·mean + (1 − B)·b, B = s²/(s² + τ²), with the variance (1 − B)·s² + B²·se(mean)². Directions without evidence keep 0.
    """
    told = np.isfinite(slopes.se)
    shares = np.zeros(len(slopes.slope))
    if not told.any():
        return shares
    b, variance = slopes.slope[told], slopes.se[told] ** 2
    weight = 1 / variance
    mean = (weight * b).sum() / weight.sum()
    spread = (weight * (b - mean) ** 2).sum() - (len(b) - 1)
    between = max(0.0, spread / max(weight.sum() - (weight**2).sum() / weight.sum(), 1e-300)) if len(b) > 1 else 0.0
    weight = 1 / (variance + between)
    mean = (weight * b).sum() / weight.sum()
    drawn = variance / (variance + between)
    posterior = drawn * mean + (1 - drawn) * b
    error = np.sqrt((1 - drawn) * variance + drawn**2 / weight.sum())
    shares[told] = np.clip(posterior - confidence * error, 0.0, 1.0)
    return shares


def _unshrunk(learned: np.ndarray, directions: int) -> Anchor:
    """Centre and principal directions of learned values (S, A); every share is 1."""
    floor = least_value(learned)
    level, shape = log_shapes(learned, floor)
    centre = shape.mean(axis=0)
    most = min(directions, learned.shape[1] - 1, len(learned) - 1)
    departure = (shape - centre).astype(np.float64)
    found = np.linalg.eigh(departure.T @ departure)[1][:, ::-1][:, :most].T  # (K, A), largest first
    signs = np.sign(found[np.arange(most), np.abs(found).argmax(axis=1)])  # an eigenvector's sign is arbitrary
    basis = (found * signs[:, None]).astype(np.float32)
    return Anchor(floor, centre, basis, np.ones(most + 1, np.float32), 1.0, float(level.mean()), np.zeros_like(centre))


def _put_on(anchor: Anchor, learned: np.ndarray, profile: np.ndarray) -> Anchor:
    """The anchor with the shift that makes the mean of its values over ``learned`` states the profile."""
    mean = np.exp(anchor.unshifted(learned).astype(np.float64)).mean(axis=0)
    shares = anchor.shares.astype(np.float32)
    return replace(anchor, shift=(np.log(profile) - np.log(mean)).astype(np.float32), shares=shares)


def _features(
    values: Values, anchor: Anchor, rows: pd.DataFrame, spec: RequestSpec, work: Work
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each row: log level less its mean (M,), departures by direction and rest that its group's mix does not foresee
    (M, K + 1), the departure that it foresees (M,), joint action (M,), revenue (M,)."""
    states, ids, _ = spec.distinct_states(rows)
    joint, order = spec.joint_index(rows), np.argsort(ids, kind="stable")
    mix = LoggedMix.of(rows, spec, anchor.centre)

    def of_chunk(start: int) -> tuple[np.ndarray, ...]:
        mine = order[slice(*np.searchsorted(ids, [start, start + _CHUNK], sorter=order))]
        at, action, (expected, group) = ids[mine] - start, joint[mine], mix.among(mine)
        levels, departure = anchor.shapes(values(states.iloc[start : start + _CHUNK]))
        components = anchor.components(departure)[at]
        along = components * anchor.directions[:, action].T
        foreseen_along = components * (expected @ anchor.directions.T)[group]
        foreseen = (departure @ expected.T)[at, group]
        rest = departure[at, action] - along.sum(axis=1) - (foreseen - foreseen_along.sum(axis=1))
        return mine, levels[at] - anchor.level, np.column_stack([along - foreseen_along, rest]), foreseen

    level, features, foreseen = np.empty(len(rows)), np.empty((len(rows), len(anchor.shares))), np.empty(len(rows))
    for mine, *found in work(of_chunk, range(0, len(states), _CHUNK)):
        level[mine], features[mine], foreseen[mine] = found
    return level, features, foreseen, joint, rows[spec.reward].to_numpy(np.float64)


def _slopes(
    level: np.ndarray, features: np.ndarray, foreseen: np.ndarray, offset: np.ndarray, reward: np.ndarray
) -> Slopes:
    design = np.column_stack([np.ones(len(level)), level, foreseen, features])
    mean = reward.mean()  # taken off both sides, so that the unit of money is of no account
    found, se = tweedie_regression(design, offset - np.log(mean), reward / mean)
    return Slopes(float(found[1]), float(se[1]), found[3:], se[3:])


def tweedie_regression(
    design: np.ndarray, offset: np.ndarray, target: np.ndarray, power: float = POWER
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (K,) of log E[target] = offset + design · β, and standard errors; ``design`` (M, K).

    A column of zeros gets the coefficient 0 and an infinite error; so do all, where fewer than two rows a column are above 0.
    """
    found, pulls = tweedie_pulls(design, offset, target, power)
    return found, np.sqrt((pulls**2).sum(axis=0))


def tweedie_pulls(
    design: np.ndarray, offset: np.ndarray, target: np.ndarray, power: float = POWER
) -> tuple[np.ndarray, np.ndarray]:
    """As ``tweedie_regression``: coefficients (K,), and how far each row pulled them, (M, K).

    A pull is the coefficient less that of a fit without the row (jackknife, to first order). Their squares sum to the
    squared standard error (a sandwich); so do those of differences between fits on the same rows. Newton steps, halved
    where they overshoot.
    """
    scale = np.sqrt((design**2).mean(axis=0))
    used = scale > _ROUNDING
    found, pulls = np.zeros(len(scale)), np.full(design.shape, np.inf)
    if (target > 0).sum() < _PAID * used.sum():
        return found, pulls
    x = design[:, used] / scale[used]
    beta = _newton(x, offset, target, power)
    scores, curvature, weight = _scores(x, offset + x @ beta, target, power)
    inverse = np.linalg.pinv(curvature, hermitian=True)
    leverage = weight * np.einsum("mk,mk->m", x @ inverse, x)  # how far a row draws the fit to itself
    found[used] = beta / scale[used]
    pulls[:, used] = scores / np.maximum(1 - leverage, 1e-9)[:, None] @ inverse / scale[used]
    return found, pulls


def _newton(x: np.ndarray, offset: np.ndarray, target: np.ndarray, power: float) -> np.ndarray:
    """The coefficients of least loss, (K,)."""
    beta = np.zeros(x.shape[1])

    def loss(beta: np.ndarray) -> float:
        return float(tweedie_losses(offset + x @ beta, target, power).sum())

    now = loss(beta)
    for _ in range(_STEPS):
        scores, curvature, _ = _scores(x, offset + x @ beta, target, power)
        step = np.linalg.solve(curvature + 1e-9 * len(x) * np.eye(len(beta)), scores.sum(axis=0))
        size = 1.0
        while size > 1e-4 and not loss(beta + size * step) < now:
            size /= 2
        trial = loss(beta + size * step)
        if not trial < now:
            break
        beta, gain, now = beta + size * step, now - trial, trial
        if gain <= 1e-10 * abs(now):
            break
    return beta


def tweedie_losses(eta: np.ndarray, target: np.ndarray, power: float = POWER) -> np.ndarray:
    """Negative quasi-likelihood of each ``target`` (M,) with the log mean ``eta`` (M,)."""
    eta = np.clip(eta, -30, 30)
    return np.asarray(np.exp((2 - power) * eta) / (2 - power) - target * np.exp((1 - power) * eta) / (1 - power))


def _scores(
    x: np.ndarray, eta: np.ndarray, target: np.ndarray, power: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row's part of the quasi-likelihood's gradient (M, K); its curvature (K, K) and each row's weight in it (M,)."""
    eta = np.clip(eta, -30, 30)
    pull, push = target * np.exp((1 - power) * eta), np.exp((2 - power) * eta)
    weight = (2 - power) * push - (1 - power) * pull
    return x * (pull - push)[:, None], (x * weight[:, None]).T @ x, weight
