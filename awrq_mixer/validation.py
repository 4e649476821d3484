"""Validation that sees the order of actions within a state.

The loss on held-out rows is mostly about which state is worth more, and nearly blind to what pays: the shape of
Q(s, ·) within a state. Both measures here take the state's level out first, with a baseline common to all learners:
each row's *shape* u = Q(s, a) / mean_a Q(s, a) (mean over the logged action mix) is judged against R / b(s).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from awrq_mixer.data import Log
from common.seeding import numpy_generator

SHAPE_RANGE = (0.02, 50.0)  # shapes outside are judged as if at the edge; a value ≤ 0 has no ratio


@dataclass
class ValidationSet:
    """A fixed sample of validation rows, with what the measures need; chosen once per run."""

    states: pd.DataFrame  # distinct states of the sample
    state_id: np.ndarray  # (V,) row of ``states``
    joint: np.ndarray  # (V,) logged joint action
    reward: np.ndarray  # (V,) money
    baseline: np.ndarray  # (V,) b(s), expected money by state, the same for every learner
    profile: np.ndarray  # (A,) logged action mix
    power: float = 1.5

    def measure(self, values: Callable[[pd.DataFrame], np.ndarray]) -> dict[str, float]:
        """``shape_gain``: share of the baseline's Tweedie deviance that the shapes explain (0 for a flat model, below 0
        for harm). ``shape_gini``: concentration of R / b(s) along the shapes, as a share of a perfect ordering's
        (0 for a random order). Both use no state value of the learner's own."""
        table = values(self.states)  # (S, A)
        shape = shapes(table, self.profile)[self.state_id, self.joint]
        return {
            "shape_gain": shape_gain(shape, self.reward, self.baseline, self.power),
            "shape_gini": shape_gini(shape, self.reward, self.baseline),
        }


def make_validation_set(log: Log, profile: np.ndarray, rows: int, seed: int) -> ValidationSet | None:
    """A seeded sample of the log's validation rows; None where there are none."""
    if log.validation.empty:
        return None
    frame = log.validation
    if len(frame) > rows:
        keep = np.sort(numpy_generator(seed, "validation").choice(len(frame), rows, replace=False))
        frame = frame.iloc[keep]
    states, state_id, _ = log.spec.distinct_states(frame.reset_index(drop=True))
    baseline = fit_baseline(log.train, frame, log.spec.state, log.spec.reward)
    reward = frame[log.spec.reward].to_numpy(np.float64)
    return ValidationSet(states, state_id, log.spec.joint_index(frame), reward, baseline, profile)


def shapes(values: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Q(s, a) over its mean under the logged action mix, (S, A) → (S, A), kept inside SHAPE_RANGE."""
    mean = values @ profile.astype(values.dtype)  # (S,)
    positive = np.where(mean > 0, mean, np.inf)[:, None]
    ratio = np.where(np.isfinite(positive), values / positive, 1.0)
    return np.clip(ratio, *SHAPE_RANGE)


def shape_gain(shape: np.ndarray, reward: np.ndarray, baseline: np.ndarray, power: float) -> float:
    """1 − D(R, c b u) / D(R, c' b): deviance explained by shapes (V,), each side with its own best overall scale."""
    if reward.sum() <= 0:
        return 0.0
    flat = _deviance(reward, baseline * _best_scale(reward, baseline, power), power)
    mean = baseline * shape
    return 1 - _deviance(reward, mean * _best_scale(reward, mean, power), power) / flat


def shape_gini(shape: np.ndarray, reward: np.ndarray, baseline: np.ndarray) -> float:
    """Gini of R / b(s) along increasing shape over the Gini along itself; ties share their mass."""
    normalised = reward / baseline
    best = _concentration(normalised, normalised)
    return _concentration(shape, normalised) / best if best > 0 else 0.0


def fit_baseline(
    train: pd.DataFrame, frame: pd.DataFrame, state: Mapping[str, str], reward: str, rounds: int = 4
) -> np.ndarray:
    """Expected money by state, (len(frame),): one shrunken factor per category and column, fitted in turns."""
    mean = float(train[reward].mean())
    fitted = np.full(len(train), mean if mean > 0 else 1.0)
    result = np.full(len(frame), mean if mean > 0 else 1.0)
    observed = train[reward].to_numpy(np.float64)
    prior = 200 * float(fitted[0])  # a factor moves half-way once 200 average rows speak for it
    columns = [(_levels(train, name), _levels(frame, name)) for name, kind in state.items() if kind == "category"]
    for _ in range(rounds):
        for (codes, words), (own, own_words) in columns:
            total = np.bincount(codes, observed, len(words)) + prior
            factor = total / (np.bincount(codes, fitted, len(words)) + prior)
            fitted *= factor[codes]
            known = pd.Series(factor, index=words).reindex(own_words).fillna(1.0).to_numpy()
            result *= known[own]
    return result


def _levels(frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    codes, words = pd.factorize(frame[name].astype(object))
    return codes, np.asarray(words, dtype=object)


def _deviance(reward: np.ndarray, mean: np.ndarray, power: float) -> float:
    pull = reward * mean ** (1 - power) / (1 - power)
    constant = reward ** (2 - power) / ((1 - power) * (2 - power))
    return float(np.mean(2 * (constant - pull + mean ** (2 - power) / (2 - power))))


def _best_scale(reward: np.ndarray, mean: np.ndarray, power: float) -> float:
    """The c that minimises D(R, c · mean)."""
    return float((reward * mean ** (1 - power)).sum() / (mean ** (2 - power)).sum())


def _concentration(order: np.ndarray, mass: np.ndarray) -> float:
    """Twice the area between the diagonal and the Lorenz curve of ``mass`` along increasing ``order``."""
    if mass.sum() <= 0:
        return 0.0
    _, group = np.unique(order, return_inverse=True)
    count = np.bincount(group).astype(np.float64)
    share = np.bincount(group, mass) / mass.sum()
    below = np.cumsum(share)
    return float(1 - np.sum((2 * below - share) * count) / count.sum())
