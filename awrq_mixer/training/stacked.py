"""awrq_plus: members of different kinds, each trained on its own, weighed by held-out revenue and anchored to a global profile.

Members never see each other. A side column is worth what its members' departures from the profile prove to be worth for
revenue in the validation rows; one that misleads gets no weight, and the summary says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.evidence import Slopes, fit_anchor
from awrq_mixer.anchoring.global_profile import LoggedEffects
from awrq_mixer.anchoring.profile_figure import write_slopes
from awrq_mixer.config import TrainConfig
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.serving.stack_scorer import Member, StackScorer, weighed
from awrq_mixer.training.stack_weights import HeldOut, best_profile, held_out, judged, weigh, weigh_levels
from awrq_mixer.training.training_log import Log
from awrq_mixer.training.validation import ValidationSet
from marca_common.errors import UserError
from marca_common.ranks import Ranks
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

TrainMember = Callable[[TrainConfig, Path], Predictor]
ON_REVENUE = "revenue"


def fit(
    config: TrainConfig,
    log: Log,
    validation: ValidationSet | None,
    run: RunFolder,
    train_member: TrainMember,
    ranks: Ranks,
) -> tuple[Predictor, dict[str, Any]]:
    """Train the members in ``members/``, weigh and anchor them, write the checkpoint, members.csv, slopes.csv and a figure.

    Ranks train each member together and share the rows that it is judged on; the rest all of them do alike, and rank 0 writes.
    """
    started, stack, spec = time.perf_counter(), config.stack, log.spec
    confidence = stack.shrink.confidence
    ranks.each(lambda: _require_evidence(log.validation, config))
    reference = _sample(log.train, stack.shrink.reference_rows, config.seed)
    main = _main_side(config, log, run, train_member, reference, ranks)
    configs = {name: one.config for name, one in main.models.items()}
    sides = [main, *_halves(config, configs, log, run, train_member)]
    members = [side.members(reference) for side in sides]
    parts = [side.seen(one, spec, ranks) for side, one in zip(sides, members)]
    seen = HeldOut.joined(parts)
    candidates = [side.profiles for side in sides]
    profile = best_profile(candidates, parts, confidence)
    weights = weigh(seen, main.profiles[profile], confidence)
    if weights.any():
        kept = {name: weight for name, weight in zip(configs, weights) if weight > 0}
        candidates = [
            {profile: side.profiles[profile], "members": side.corrected(profile, one, kept, reference)}
            for side, one in zip(sides, members)
        ]
        profile = best_profile(candidates, parts, confidence)
    profiles = candidates[0]
    levels = weigh_levels(seen, profiles[profile], weights, confidence)
    table = judged(seen, profiles[profile], weights, levels, list(configs), confidence)
    table.insert(1, "column", [one.plus.surrogate or ON_REVENUE for one in configs.values()])
    stacks = [side.stack(weighed(one, weights, levels), profiles[profile], config) for side, one in zip(sides, members)]
    evidence = [(one.values, side.rows) for one, side in zip(stacks, sides)]
    anchor, slopes = fit_anchor(
        stacks[0].values, profiles[profile], reference, evidence, spec, stack.shrink.directions, confidence, ranks.map
    )
    predictor = Predictor(stacks[0].scorer, config, stacks[0].encoder, stacks[0].device, anchor)
    ranks.lead(lambda: _write(predictor, slopes, table, run))
    return predictor, {
        "learner": config.learner,
        "members_kept": table.loc[table["weight"] > 0, "member"].tolist(),
        "profile_from": profile,
        "dropped_columns": _dropped(table, config, run),
        "directions_kept": int((anchor.shares > 0).sum()),
        "validation_shape_gain": validation.shape_gain(predictor.at) if validation else None,
        "train_s": round(time.perf_counter() - started, 3),
    }


@dataclass
class _Side:
    """Members and profiles as learned on some rows, and rows that these were not."""

    models: dict[str, Predictor]
    rows: pd.DataFrame
    effects: dict[str, LoggedEffects]  # by the column that gives them

    @classmethod
    def of(cls, learned: pd.DataFrame, rows: pd.DataFrame, config: TrainConfig) -> _Side:
        """Without members yet."""
        columns = [*config.stack.side_columns, None]
        return cls({}, rows, {one or ON_REVENUE: LoggedEffects.of(learned, config.spec, one) for one in columns})

    @cached_property
    def profiles(self) -> dict[str, np.ndarray]:
        """Global profile (A,) by each column."""
        return {name: one.profile() for name, one in self.effects.items()}

    def corrected(
        self, by: str, members: dict[str, Member], weights: dict[str, float], reference: pd.DataFrame
    ) -> np.ndarray:
        """The mean over ``reference`` rows of weighed members in place of fitted effects, corrected by revenue, (A,)."""
        own = [
            np.log(np.maximum(self.models[one].values(reference).mean(axis=0), members[one].floor)) for one in weights
        ]
        return self.effects[by].profile(np.exp(np.average(own, axis=0, weights=list(weights.values()))))

    def borne_out(self, reference: pd.DataFrame, config: TrainConfig, ranks: Ranks) -> bool:
        """Is any member worth a weight, by the rows?"""
        seen, confidence = self.seen(self.members(reference), config.spec, ranks), config.stack.shrink.confidence

        def any_weight() -> bool:
            return bool(weigh(seen, self.profiles[best_profile([self.profiles], [seen], confidence)], confidence).any())

        return ranks.lead(any_weight)

    def members(self, reference: pd.DataFrame) -> dict[str, Member]:
        """With the mean shape over ``reference`` rows."""
        return {name: Member.of(model.scorer, model.values(reference)) for name, model in self.models.items()}

    def seen(self, members: dict[str, Member], spec: RequestSpec, ranks: Ranks) -> HeldOut:
        """What the members say of the rows."""
        values = {name: model.values for name, model in self.models.items()}
        return held_out(members, values, self.rows, spec, ranks.map)

    def stack(self, members: dict[str, Member], profile: np.ndarray, config: TrainConfig) -> Predictor:
        """The members as one predictor."""
        first = next(iter(self.models.values()))
        return Predictor(StackScorer(members, profile), config, first.encoder, first.device)


def _main_side(
    config: TrainConfig,
    log: Log,
    run: RunFolder,
    train_member: TrainMember,
    reference: pd.DataFrame,
    ranks: Ranks,
) -> _Side:
    """Members trained on all training rows, with the validation rows; fallbacks among them where none is borne out."""
    configs, spare = config.member_configs(), config.fallbacks()
    side = _Side.of(log.train, log.validation.reset_index(drop=True), config)
    for names in (set(configs) - spare, spare):
        if names and not (side.models and side.borne_out(reference, config, ranks)):
            side.models |= {
                name: train_member(configs[name], run.path / "members" / name) for name in configs if name in names
            }
    return side


def _halves(
    config: TrainConfig, configs: dict[str, TrainConfig], log: Log, run: RunFolder, train_member: TrainMember
) -> list[_Side]:
    """Members and profiles learned on either half of the training rows, each with the other half (cross-fitting).

    Validation rows alone are too few to tell what members are worth; these are never served.
    """
    if not config.stack.cross_fit:
        return []
    sides = []
    first, second = slice(0, log.earlier), slice(log.earlier, None)  # by time: neighbours may share their luck
    for number, (half, mine, theirs) in enumerate((("first", first, second), ("second", second, first))):
        split, folder = config.split.model_copy(update={"half": half}), run.path / "members" / f"half_{number}"
        others = log.train[theirs].iloc[-config.stack.shrink.evidence_rows :].reset_index(drop=True)
        side = _Side.of(log.train[mine].reset_index(drop=True), others, config)
        side.models |= {
            name: train_member(one.model_copy(update={"split": split}), folder / name) for name, one in configs.items()
        }
        sides.append(side)
    return sides


def _require_evidence(rows: pd.DataFrame, config: TrainConfig) -> None:
    earned = rows[config.spec.reward].sum()
    if len(rows) < 20 or not earned > 0:
        raise UserError(
            f"{config.requests}: {len(rows)} validation rows with {earned:g} of revenue; a stack is "
            "weighed on them: expected at least 20 and more than 0 (see split.validation)"
        )


def _sample(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    chosen = numpy_generator(seed, "anchor").choice(len(rows), min(count, len(rows)), replace=False)
    return rows.iloc[np.sort(chosen)].reset_index(drop=True)


def _write(predictor: Predictor, slopes: Slopes, table: pd.DataFrame, run: RunFolder) -> None:
    """Checkpoint, slopes with their figure, and members."""
    assert predictor.anchor is not None
    predictor.save(run.path / "best.pt")
    confidence = predictor.config.stack.shrink.confidence
    write_slopes(slopes, predictor.anchor, confidence, predictor.config.learner, run.path)
    write_table(table, run.path / "members.csv")


def _dropped(table: pd.DataFrame, config: TrainConfig, run: RunFolder) -> list[str]:
    """Side columns that no kept member uses; each gets a warning."""
    kept = set(table.loc[table["weight"] > 0, "column"])
    dropped = [column for column in config.stack.side_columns if column not in kept]
    for column in dropped:
        best = table[table["column"] == column].sort_values("slope").iloc[-1]
        run.warn(
            f"side column {column!r}: dropped, {best['verdict']} (slope {best['slope']:.2f} ± {best['slope_se']:.2f}; "
            "1 is as much as it claims)"
        )
    return dropped
