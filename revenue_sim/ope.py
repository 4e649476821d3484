"""Off-policy estimates: what a policy would have earned, from logs of another one whose propensities are known.

With weights ``w = π(a|s) / p`` of the logged actions: IPS averages ``w·r``; self-normalised IPS divides by Σw; the direct method
averages a model's ``Σ_a π(a|s)·q̂(s, a)``; doubly robust adds to it the weighted residuals ``w·(r − q̂)``. Where the log does
not support the policy, its weights show it (too few effective rows, or a mean weight below 1), and there is a warning in
place of a number.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field, field_validator
from scipy.special import softmax
from scipy.stats import norm

from marca_common.cli import run_cli
from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table
from revenue_sim.config import ScoreSource, as_source, path_not_columns
from revenue_sim.judging.score_files import load_costs, load_scores, mean_scores, state_rows, total

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """Mean revenue per request of a policy, or the reason why the log cannot tell."""

    method: str
    value: float | None
    low: float | None
    high: float | None
    effective_rows: float  # (Σw)² / Σw²; the direct method: rows
    warning: str | None


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
    requests that get a uniformly random action.
    """
    worth = np.asarray(scores, dtype=np.float64) - (lambda_ * costs if costs is not None else 0.0)
    if temperature > 0:
        chosen = softmax(worth / temperature, axis=1)
    else:
        chosen = np.zeros_like(worth)
        chosen[np.arange(len(worth)), worth.argmax(axis=1)] = 1.0
    return np.asarray(((1.0 - mix) * chosen + mix / worth.shape[1]).astype(np.float32))


def estimate(
    policy: np.ndarray,
    state: np.ndarray,
    joint: np.ndarray,
    reward: np.ndarray,
    propensity: np.ndarray | None,
    direct: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    least_rows: float = 100.0,
) -> dict[str, Estimate]:
    """Estimates ``ips``, ``snips`` and, with a model ``direct`` (S, A), ``direct`` and ``doubly_robust``.

    ``policy`` (S, A) probabilities; per logged request: ``state`` row (M,), ``joint`` action (M,), ``reward`` (M,) and ``propensity``
    (M,) of the logged action. ``least_rows``: effective rows below which no number is given.
    """
    _check(policy, state, joint, reward, propensity)
    z = float(norm.ppf(0.5 + confidence / 2))
    known = propensity is not None
    weight = policy[state, joint].astype(np.float64) / propensity if known else np.zeros(len(reward))
    effective, total = float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300)), max(float(weight.sum()), 1e-300)
    reason = _missing_support(weight, effective, least_rows) if known else "the log has no propensities"
    ratio = float(weight @ reward) / total
    ratio_error = float(np.sqrt((weight**2 * (reward - ratio) ** 2).sum())) / total  # by the delta method
    found = {
        "ips": _interval("ips", *_mean(weight * reward), z, effective, reason),
        "snips": _interval("snips", ratio, ratio_error, z, effective, reason),
    }
    if direct is not None:
        expected = (policy.astype(np.float64) * direct).sum(axis=1)[state]
        residual = reward - direct[state, joint].astype(np.float64)
        corrected = _mean(expected + weight * residual)
        found["direct"] = _interval("direct", *_mean(expected), z, float(len(reward)), reason)
        found["doubly_robust"] = _interval("doubly_robust", *corrected, z, effective, reason)
    for one in found.values():
        if one.warning:
            log.warning("%s: no estimate: %s", one.method, one.warning)
    return found


def _missing_support(weight: np.ndarray, effective: float, least_rows: float) -> str | None:
    """Why these weights cannot carry an estimate; None if they can. Under full support their mean is 1."""
    if effective < least_rows:
        return f"the weights amount to {effective:.1f} rows; at least {least_rows:g} are needed"
    mean, error = weight.mean(), weight.std() / np.sqrt(len(weight))
    if mean + 4.0 * error < 1.0:
        return f"the log never takes actions that hold about {100 * (1 - mean):.0f} % of the policy's probability"
    return None


def _mean(terms: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms)))


def _interval(method: str, value: float, error: float, z: float, effective: float, reason: str | None) -> Estimate:
    if reason is not None:
        return Estimate(method, None, None, None, effective, reason)
    return Estimate(method, value, value - z * error, value + z * error, effective, None)


def _check(
    policy: np.ndarray, state: np.ndarray, joint: np.ndarray, reward: np.ndarray, propensity: np.ndarray | None
) -> None:
    if policy.ndim != 2 or not np.allclose(policy.sum(axis=1, dtype=np.float64), 1.0, atol=1e-4) or (policy < 0).any():
        raise UserError("policy: expected probabilities (states, actions), rows that sum to 1")
    for name, array in (("state", state), ("joint", joint), ("reward", reward), ("propensity", propensity)):
        if array is not None and np.shape(array) != np.shape(reward):
            raise UserError(f"{name}: got shape {np.shape(array)}; expected {np.shape(reward)}, one per logged request")
    if len(reward) < 2:
        raise UserError(f"log: got {len(reward)} requests in the policy's states; expected at least 2")
    if propensity is not None and not ((propensity > 0) & (propensity <= 1)).all():
        row = int(np.argmin((propensity > 0) & (propensity <= 1)))
        raise UserError(f"propensity: row {row + 1}: got {propensity[row]}; expected a number above 0, at most 1")


class OpeConfig(Config):
    """What ``python -m revenue_sim.ope`` needs."""

    RENAMED: ClassVar[dict[str, str]] = {"log": "requests"}

    spec: RequestSpec = Field(default=RequestSpec(), description="columns of the request log")
    requests: str = Field(description="request log of the logging policy")
    scores: ScoreSource = Field(description="scores that define the policy (mean over files)")
    costs: str | None = Field(default=None, description="score file of costs, a column per service; null: none")
    lambda_: float = Field(default=0.0, ge=0, description="price, money per core-ms (all services)")
    temperature: float = Field(default=0.0, ge=0, description="softmax temperature, money; 0: argmax")
    mix: float = Field(default=0.1, ge=0, le=1, description="share of uniformly random actions")
    direct: ScoreSource | None = Field(default=None, description="model of the direct and doubly robust estimates")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="coverage of the intervals")
    least_rows: float = Field(default=100.0, gt=1, description="effective rows below which there is no number")

    _source = field_validator("scores", "direct", mode="before")(as_source)
    _path = field_validator("requests", mode="before")(path_not_columns)


@dataclass
class OpeResult:
    """Estimates by method; ``summary`` is also in summary.json."""

    out: Path
    estimates: dict[str, Estimate]
    summary: dict[str, Any]


def evaluate_policy(config: OpeConfig, out: str | Path) -> OpeResult:
    """Estimate from logs with propensities what the policy of some scores would earn per request.

    Only requests in states that the scores cover count. Writes ope.csv and summary.json; where the log does not support
    the policy they hold a warning instead of a number.
    """
    with RunFolder(out, config) as folder:
        spec = config.spec
        states, _ = load_scores(config.scores.files[0], spec, config.scores.column)
        scores = mean_scores(config.scores, spec, states)
        costs = total(load_costs(config.costs, spec, states)) if config.costs else None
        frame = spec.read(config.requests)
        row = state_rows(frame, spec, states)
        inside = row >= 0
        if not inside.any():
            raise UserError(f"{config.requests}: none of its requests is in a state of the scores")
        policy = policy_probabilities(
            scores, costs=costs, lambda_=config.lambda_, temperature=config.temperature, mix=config.mix
        )
        logged = frame[inside]
        reward = logged[spec.reward].to_numpy(np.float64)
        propensity = logged[spec.propensity].to_numpy(np.float64) if spec.propensity in frame else None
        direct = mean_scores(config.direct, spec, states) if config.direct else None
        limits = {"confidence": config.confidence, "least_rows": config.least_rows}
        estimates = estimate(policy, row[inside], spec.joint_index(logged), reward, propensity, direct, **limits)
        write_table(pd.DataFrame([asdict(one) for one in estimates.values()]), folder.path / "ope.csv")
        summary: dict[str, Any] = {name: asdict(one) for name, one in estimates.items()}
        summary |= {"requests": int(inside.sum()), "logged_mean": float(logged[spec.reward].mean())}
        folder.write_summary(summary)
        return OpeResult(folder.out, estimates, summary)


if __name__ == "__main__":
    run_cli(evaluate_policy, OpeConfig, default_config="configs/revenue_sim/ope.yaml", default_out="runs/ope")
