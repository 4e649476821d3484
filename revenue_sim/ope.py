"""What a policy would have earned, from logs of another one whose propensities are known: ``python -m revenue_sim.ope``.

The estimators and their intervals stand in ``off_policy``. Where the log cannot tell, there is a warning in place of an interval or a number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from marca_common.cli import run_cli
from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table
from revenue_sim.config import ScoreSource, as_source, path_not_columns
from revenue_sim.judging.score_files import load_costs, load_scores, mean_scores, state_rows, total
from revenue_sim.off_policy.estimate import Estimate, estimate
from revenue_sim.off_policy.logged import policy_probabilities
from revenue_sim.off_policy.support import LEAST_ROWS

__all__ = ["Estimate", "OpeConfig", "OpeResult", "estimate", "evaluate_policy", "policy_probabilities"]


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
    least_rows: float = Field(default=LEAST_ROWS, gt=1, description="effective rows below which there is no number")

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
    the policy they hold a warning instead of an interval or a number.
    """
    with RunFolder(out, config) as folder:
        spec = config.spec
        states, _ = load_scores(config.scores.files[0], spec, config.scores)
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
        for text, methods in _by_warning(estimates).items():
            folder.warn(f"{', '.join(methods)}: {text}")
        write_table(pd.DataFrame([asdict(one) for one in estimates.values()]), folder.path / "ope.csv")
        summary: dict[str, Any] = {name: asdict(one) for name, one in estimates.items()}
        summary |= {"requests": int(inside.sum()), "logged_mean": float(logged[spec.reward].mean())}
        folder.write_summary(summary)
        return OpeResult(folder.out, estimates, summary)


def _by_warning(estimates: dict[str, Estimate]) -> dict[str, list[str]]:
    """Each warning once, with the methods that carry it."""
    found: dict[str, list[str]] = {}
    for name, one in estimates.items():
        if one.warning is not None:
            found.setdefault(one.warning, []).append(name)
    return found


if __name__ == "__main__":
    run_cli(evaluate_policy, OpeConfig, default_config="configs/revenue_sim/ope.yaml", default_out="runs/ope")
