"""Anchor a trained learner to the global profile: ``python -m awrq_mixer.anchor --config configs/awrq_mixer/anchor.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.evidence import fit_anchor
from awrq_mixer.anchoring.global_profile import read_profile
from awrq_mixer.anchoring.profile_figure import write_slopes
from awrq_mixer.config import AnchorConfig
from awrq_mixer.learners import STACK
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.training.training_log import read_by_time
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator


@dataclass
class AnchorResult:
    """The anchored learner, and the slopes it was held to."""

    model: Predictor
    slopes: pd.DataFrame
    summary: dict[str, Any]


def anchor(config: AnchorConfig, out: str | Path) -> AnchorResult:
    """Anchor a checkpoint to a profile on the validation rows of its log; write anchored.pt, slopes.csv and slopes.png.

    A stack comes anchored and is passed on. Test rows are not read. Raises UserError for a bad file, a checkpoint that is anchored already, and validation rows
    that earned nothing.
    """
    set_threads(config.threads)
    model = Predictor.load(config.checkpoint)
    if model.anchor is not None and model.config.learner == STACK:
        return _passed_on(model, config, out)
    if model.anchor is not None:
        raise UserError(f"{config.checkpoint}: anchored already; expected a checkpoint of awrq_mixer.train")
    profile = read_profile(config.profile, model.spec)
    with RunFolder(out, config) as run:
        train, held_out, _ = read_by_time(config.requests, model.config)
        if len(held_out) < 20 or not held_out[model.spec.reward].sum() > 0:
            raise UserError(
                f"{config.requests}: {len(held_out)} validation rows with {held_out[model.spec.reward].sum():g} of "
                "revenue; expected at least 20 and more than 0 (see split.validation)"
            )
        generator = numpy_generator(config.seed, "anchor")
        rows = generator.choice(len(train), min(config.reference_rows, len(train)), replace=False)
        reference = train.iloc[np.sort(rows)].reset_index(drop=True)
        held_out = held_out.iloc[-config.evidence_rows :].reset_index(drop=True)
        found, slopes = fit_anchor(
            model.values,
            profile,
            reference,
            [(model.values, held_out)],
            model.spec,
            config.directions,
            config.confidence,
        )
        anchored = Predictor(model.scorer, model.config, model.encoder, model.device, found)
        anchored.save(run.path / "anchored.pt")
        table = write_slopes(slopes, found, config.confidence, model.config.learner, run.path)
        summary = {
            "learner": model.config.learner,
            "held_out_rows": len(held_out),
            "level_slope": slopes.level,
            "level_slope_se": slopes.level_se,
            "directions_kept": int((found.shares > 0).sum()),
        }
        run.write_summary(summary)
    return AnchorResult(anchored, table, summary)


def _passed_on(model: Predictor, config: AnchorConfig, out: str | Path) -> AnchorResult:
    """A stack was anchored when it was trained, with more rows than there are here: it stays as it is."""
    anchor = model.anchor
    assert anchor is not None
    with RunFolder(out, config) as run:
        model.save(run.path / "anchored.pt")
        summary = {"learner": model.config.learner, "directions_kept": int((anchor.shares > 0).sum())}
        run.write_summary(summary)
    return AnchorResult(model, pd.DataFrame({"share": anchor.shares}), summary)


if __name__ == "__main__":
    run_cli(anchor, AnchorConfig, default_config="configs/awrq_mixer/anchor.yaml", default_out="runs/anchored")
