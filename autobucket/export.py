"""C(s, a) without this package: ``python -m autobucket.export --config configs/autobucket/export.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autobucket.config import ExportConfig
from autobucket.costs.cost_model import CostModel
from autobucket.costs.portable import PortableCosts
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.exported import random_states, write_exported
from marca_common.files import write_json
from marca_common.run_folder import RunFolder


@dataclass
class Exported:
    """What was written, and how far it is from what it was made from."""

    summary: dict[str, Any]


def export(config: ExportConfig, out: str | Path) -> Exported:
    """Write the cost model as ``c.pt2`` (torch.export), ``c.onnx`` if wanted, and ``encoder.json``, how states become its inputs.

    (codes int64 (S, columns), numbers float32 (S, columns), idc int64 (S,)) → core-ms float32 (S, A, services). The files are
    read back and must equal the cost model up to 1e-5 on random states.
    """
    set_threads(1)
    model = CostModel.load(config.estimator, config.cost_maps)
    with RunFolder(out, config) as run:
        codes, numbers = random_states(model.estimator.encoder, config.check_states)
        idc = np.arange(config.check_states) % len(model.maps.idcs)
        expected = model.from_results(model.estimator.encoded_results(codes, numbers, model.tasks), idc)
        inputs = {"codes": codes, "numbers": numbers, "idc": torch.from_numpy(idc)}
        module = PortableCosts(model).eval().requires_grad_(False)
        differences = write_exported(module, inputs, expected, run.path, "c", config.onnx)
        spec = model.estimator.spec
        sizes = {"sizes": spec.sizes, "agents": spec.agents, "services": model.services, "idcs": model.maps.idcs}
        write_json(run.path / "encoder.json", model.estimator.encoder.to_dict() | sizes)
        summary = {"services": list(model.services), "joint_actions": spec.n_joint, "difference": differences}
        run.write_summary(summary)
        return Exported(summary)


if __name__ == "__main__":
    run_cli(export, ExportConfig, default_config="configs/autobucket/export.yaml", default_out="runs/costs_export")
