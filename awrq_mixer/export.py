"""Q(s, a) without this package: ``python -m awrq_mixer.export --config configs/awrq_mixer/export.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from awrq_mixer.config import ExportConfig
from awrq_mixer.serving.hull_table import hull_table
from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.portable import portable, remembered
from awrq_mixer.serving.predictor import Predictor
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.exported import random_states, write_exported
from marca_common.files import atomic_path, write_json
from marca_common.run_folder import RunFolder


@dataclass
class Exported:
    """What was written, and how far it is from what it was made from."""

    summary: dict[str, Any]


def export(config: ExportConfig, out: str | Path) -> Exported:
    """Write a learner as ``q.pt2`` (torch.export), ``q.onnx`` if wanted, and ``encoder.json``, how states become its inputs.

    (codes int64 (S, columns), numbers float32 (S, columns)) → money float32 (S, A). The files are read back and must equal
    the learner up to 1e-5 on random states and on some that it remembers. With ``policy`` its cache is written as ``hulls.parquet``, a row per candidate.
    """
    set_threads(1)
    model = Predictor.load(config.checkpoint)
    with RunFolder(out, config) as run:
        module = portable(model)
        codes, numbers = random_states(model.encoder, config.check_states)
        known = remembered(module)
        if len(known):  # half of them, as random ones are hardly ever among these
            codes[::2] = known[torch.linspace(0, len(known) - 1, len(codes[::2])).long()]
        with torch.no_grad():
            values = model.scorer.values(codes, numbers).numpy()
        expected = values if model.anchor is None else model.anchor.apply(values)
        inputs = {"codes": codes, "numbers": numbers}
        differences = write_exported(module, inputs, expected, run.path, "q", config.onnx)
        spec = model.spec
        write_json(run.path / "encoder.json", model.encoder.to_dict() | {"sizes": spec.sizes, "agents": spec.agents})
        summary: dict[str, Any] = {
            "learner": model.config.learner,
            "joint_actions": spec.n_joint,
            "difference": differences,
        }
        if config.policy is not None:
            table = hull_table(HullPolicy.load(config.policy), spec)
            _write_parquet(table, run.path / "hulls.parquet")
            summary["candidates"] = len(table)
        run.write_summary(summary)
        return Exported(summary)


def _write_parquet(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


if __name__ == "__main__":
    run_cli(export, ExportConfig, default_config="configs/awrq_mixer/export.yaml", default_out="runs/awrq_export")
