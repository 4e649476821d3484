"""A log beside the policy that is judged on it: checked once, before any number is taken from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from marca_common.errors import UserError

LEAST_PROPENSITY = 1e-12  # as in the schema of request logs; keeps squares of weights finite
LARGEST = 1e100  # of rewards and of the model's; keeps squares of weighted ones finite


@dataclass(frozen=True)
class Logged:
    """What an estimate is made of; per logged request (M,), per state and joint action (S, A)."""

    policy: np.ndarray  # (S, A) float64, probabilities
    state: np.ndarray  # (M,) int64
    joint: np.ndarray  # (M,) int64
    reward: np.ndarray  # (M,) float64, money
    weight: np.ndarray | None  # (M,) float64, π(a|s) over the propensity; None: no propensities
    direct: np.ndarray | None  # (S, A) float64, a model's reward; None: no model


def policy_probabilities(
    scores: np.ndarray,
    *,
    costs: np.ndarray | None = None,
    lambda_: float = 0.0,
    temperature: float = 0.0,
    mix: float = 0.0,
) -> np.ndarray:
    """π(a|s), float32 (S, A), of a policy given by scores.

    ``temperature`` 0 takes ``argmax Q − λ·C`` (Eq. 6); above, a softmax of it, in units of money. ``mix`` is the share of
    requests that get a uniformly random action. Raises UserError where a worth is not a number.
    """
    worth = np.asarray(scores, dtype=np.float64) - (lambda_ * costs if costs is not None else 0.0)
    if np.isnan(worth).any():
        row, action = np.argwhere(np.isnan(worth))[0]
        raise UserError(f"scores: state {row}, joint action {action}: got nan; expected a number")
    if temperature > 0:
        chosen = softmax(worth / temperature, axis=1)
    else:
        chosen = np.zeros_like(worth)
        chosen[np.arange(len(worth)), worth.argmax(axis=1)] = 1.0
    return np.asarray(((1.0 - mix) * chosen + mix / worth.shape[1]).astype(np.float32))


def checked(
    policy: ArrayLike,
    state: ArrayLike,
    joint: ArrayLike,
    reward: ArrayLike,
    propensity: ArrayLike | None,
    direct: ArrayLike | None,
) -> Logged:
    """The same as arrays that fit together. Raises UserError naming the array, the row and what was expected."""
    probabilities = _policy(policy)
    states, actions = probabilities.shape
    rewards = _bounded("reward", _numbers("reward", reward))
    rows = (len(rewards),) if rewards.ndim == 1 else ()
    if not rows:
        raise UserError(f"reward: got shape {rewards.shape}; expected one number per logged request")
    if len(rewards) < 2:
        raise UserError(f"log: got {len(rewards)} requests in the policy's states; expected at least 2")
    at, chosen = _ids("state", state, rows, states), _ids("joint", joint, rows, actions)
    weight = None
    if propensity is not None:
        weight = probabilities[at, chosen] / _propensities(propensity, rows)
    model = None
    if direct is not None:
        model = _bounded("direct", _shaped("direct", _numbers("direct", direct), probabilities.shape))
    return Logged(probabilities, at, chosen, rewards, weight, model)


def _policy(values: ArrayLike) -> np.ndarray:
    given = _numbers("policy", values)
    if given.ndim != 2 or given.size == 0 or not np.isfinite(given).all() or (given < 0).any():
        raise UserError("policy: expected probabilities (states, actions), rows that sum to 1")
    sums = given.sum(axis=1)
    if not np.allclose(sums, 1.0, atol=1e-4):
        row = int(np.argmax(np.abs(sums - 1.0)))
        raise UserError(
            f"policy: expected probabilities (states, actions), rows that sum to 1; row {row + 1} sums to {sums[row]:g}"
        )
    return given


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    try:
        given = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise UserError(f"{name}: got rows of different lengths; expected an array of numbers") from None
    if given.dtype.kind not in "biuf":
        raise UserError(f"{name}: got an array of type {given.dtype}; expected numbers")
    return given.astype(np.float64)


def _shaped(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape != shape:
        wanted = "one per logged request" if len(shape) == 1 else "that of the policy"
        raise UserError(f"{name}: got shape {values.shape}; expected {shape}, {wanted}")
    return values


def _refuse(name: str, values: np.ndarray, good: np.ndarray, expected: str) -> None:
    """UserError for the first entry that is not ``good``."""
    if not good.all():
        at = tuple(np.argwhere(~good)[0])
        place = f"row {at[0] + 1}" if len(at) == 1 else f"state {at[0]}, joint action {at[1]}"
        raise UserError(f"{name}: {place}: got {values[at]:g}; expected {expected}")


def _bounded(name: str, values: np.ndarray) -> np.ndarray:
    _refuse(name, values, np.abs(values) <= LARGEST, f"a finite number, at most {LARGEST:g} in size")
    return values


def _ids(name: str, values: ArrayLike, rows: tuple[int, ...], count: int) -> np.ndarray:
    given = _shaped(name, _numbers(name, values), rows)
    good = (given >= 0) & (given < count) & (given == np.floor(given))
    _refuse(name, given, good, f"a whole number from 0 to {count - 1}, a place in the policy")
    return given.astype(np.int64)


def _propensities(values: ArrayLike, rows: tuple[int, ...]) -> np.ndarray:
    given = _shaped("propensity", _numbers("propensity", values), rows)
    good = (given >= LEAST_PROPENSITY) & (given <= 1)
    _refuse("propensity", given, good, f"a number above 0 (at least {LEAST_PROPENSITY:g}), at most 1")
    return given
