"""Estimate the global profile of a log: ``python -m awrq_mixer.profile --config configs/awrq_mixer/profile.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from awrq_mixer.anchoring.global_profile import estimate_profile, result_columns, write_profile
from awrq_mixer.anchoring.profile_figure import draw_profile
from awrq_mixer.config import ProfileConfig
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.run_folder import RunFolder
from marca_common.spread import require_earned
from marca_common.tables import Column


@dataclass
class ProfileResult:
    """Mean revenue per request of every joint action, money (A,)."""

    values: np.ndarray
    summary: dict[str, Any]


def profile(config: ProfileConfig, out: str | Path) -> ProfileResult:
    """Estimate what each joint action is worth on average; write profile.csv, profile.png and summary.json to ``out``.

    The log's last share, ``test``, is not read. Raises UserError for a bad file and for revenue that is 0 throughout.
    """
    set_threads(config.threads)
    with RunFolder(out, config) as run:
        spec, surrogate = config.spec, config.surrogate
        extra = [Column(surrogate, "float", 0)] if surrogate else []
        log = spec.read(config.requests, extra=[*extra, *result_columns(spec)])
        log = log.iloc[: round(len(log) * (1 - config.test))]
        for column in (spec.reward, *([surrogate] if surrogate else [])):
            require_earned(log[column].to_numpy(), f"{config.requests}: column {column!r}")
        values = estimate_profile(log, spec, surrogate)
        write_profile(values, spec, run.path / "profile.csv")
        draw_profile(values, spec, run.path / "profile.png")
        best = spec.joint_table()[int(values.argmax())]
        summary = {
            "rows": len(log),
            "mean_value": float(values.mean()),
            "logged_mean": float(log[spec.reward].mean()),
            "best_value": float(values.max()),
            "best_action": "_".join(map(str, best)),
        }
        run.write_summary(summary)
    return ProfileResult(values, summary)


if __name__ == "__main__":
    run_cli(profile, ProfileConfig, default_config="configs/awrq_mixer/profile.yaml", default_out="runs/profile")
