"""awrq_plus: members of different kinds, each trained on its own, weighed by held-out revenue and anchored to a global profile.

Members never see each other. A side column is worth what its members' departures from the profile prove to be worth for
revenue in the validation rows; one that misleads gets no weight, and the summary says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.evidence import fit_anchor
from awrq_mixer.anchoring.global_profile import estimate_profile
from awrq_mixer.anchoring.profile_figure import draw_slopes
from awrq_mixer.anchoring.stacking import best_profile, held_out, judged, weigh
from awrq_mixer.config import TrainConfig
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.serving.stack_scorer import Member, StackScorer
from awrq_mixer.training.training_log import Log
from awrq_mixer.training.validation import ValidationSet
from marca_common.errors import UserError
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

TrainMember = Callable[[TrainConfig, Path], Predictor]
ON_REVENUE = "revenue"


def fit(
    config: TrainConfig, log: Log, validation: ValidationSet | None, run: RunFolder, train_member: TrainMember
) -> tuple[Predictor, dict[str, Any]]:
    """Train the members in ``members/``, weigh and anchor them, write the checkpoint, members.csv and slopes.png."""
    started, configs, stack = time.perf_counter(), config.member_configs(), config.stack
    rows = log.validation.iloc[-stack.shrink.evidence_rows :].reset_index(drop=True)
    if len(rows) < 20 or not rows[log.spec.reward].sum() > 0:
        raise UserError(
            f"{config.requests}: {len(rows)} validation rows with {rows[log.spec.reward].sum():g} of revenue; a stack is "
            "weighed on them: expected at least 20 and more than 0 (see split.validation)"
        )
    models = {name: train_member(one, run.path / "members" / name) for name, one in configs.items()}
    generator = numpy_generator(config.seed, "anchor")
    chosen = generator.choice(len(log.train), min(stack.shrink.reference_rows, len(log.train)), replace=False)
    reference = log.train.iloc[np.sort(chosen)].reset_index(drop=True)
    members = {name: Member.of(model.scorer, model.values(reference)) for name, model in models.items()}
    seen = held_out(members, {name: model.values for name, model in models.items()}, rows, log.spec)
    profiles = {one or ON_REVENUE: estimate_profile(log.train, log.spec, one) for one in [*stack.side_columns, None]}
    profile = best_profile(profiles, seen, stack.shrink.confidence)
    weights = weigh(seen, profiles[profile], stack.shrink.confidence)
    table = judged(seen, profiles[profile], weights, list(members), stack.shrink.confidence)
    table.insert(1, "column", [one.plus.surrogate or ON_REVENUE for one in configs.values()])
    weighed = {name: replace(one, weight=float(w)) for (name, one), w in zip(members.items(), weights)}
    predictor, directions = _anchored(
        Predictor(StackScorer(weighed, profiles[profile]), config, log.encoder), profiles[profile], reference, rows, run
    )
    write_table(table, run.path / "members.csv")
    kept_columns = set(table.loc[table["weight"] > 0, "column"])
    dropped = [column for column in stack.side_columns if column not in kept_columns]
    for column in dropped:
        best = table[table["column"] == column].sort_values("slope").iloc[-1]
        run.warn(
            f"side column {column!r}: dropped, {best['verdict']} (slope {best['slope']:.2f} ± {best['slope_se']:.2f}; "
            "1 is as much as it claims)"
        )
    return predictor, {
        "learner": config.learner,
        "members_kept": table.loc[table["weight"] > 0, "member"].tolist(),
        "profile_from": profile,
        "dropped_columns": dropped,
        "directions_kept": directions,
        "validation_shape_gain": validation.shape_gain(predictor.at) if validation else None,
        "train_s": round(time.perf_counter() - started, 3),
    }


def _anchored(
    stack: Predictor, profile: np.ndarray, reference: pd.DataFrame, rows: pd.DataFrame, run: RunFolder
) -> tuple[Predictor, int]:
    """The anchored stack, saved, and the number of directions that keep a share."""
    shrink = stack.config.stack.shrink
    anchor, slopes = fit_anchor(
        stack.values, profile, reference, rows, stack.spec, shrink.directions, shrink.confidence
    )
    found = Predictor(stack.scorer, stack.config, stack.encoder, stack.device, anchor)
    found.save(run.path / "best.pt")
    draw_slopes(slopes, anchor, shrink.confidence, stack.config.learner, run.path / "slopes.png")
    return found, int((anchor.shares > 0).sum())
