"""g without this package: ``python -m mpc_balancer.export --config configs/mpc_balancer/export.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.exported import write_exported
from marca_common.files import write_json
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from mpc_balancer.config import ExportConfig
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.system_network import SystemNetwork


@dataclass
class Exported:
    """What was written, and how far it is from what it was made from."""

    summary: dict[str, Any]


def export(config: ExportConfig, out: str | Path) -> Exported:
    """Write the system model as ``g.pt2`` (torch.export), ``g.onnx`` if wanted, and ``inputs.json``, how its inputs are made.

    One minute: (cpu percent (n, D), unit, prices on the scale of ``prices`` (n, L), exogenous (n, F), traffic over its mean
    (n,)), float32 → CPU of the next minute, percent (n, D). The files are read back and must equal the model up to 1e-5.
    """
    set_threads(1)
    model = SystemModel.load(config.model)
    with RunFolder(out, config) as run:
        rows = random_minutes(model, config.check_rows)
        inputs = {name: torch.from_numpy(one.astype(np.float32)) for name, one in rows.items()}
        expected = model.step_rows(*(one.numpy() for one in inputs.values()))
        network = SystemNetwork.from_parts(
            model.head, model.weights, model.biases, model.carry, model.idle, model.level
        )
        differences = write_exported(network.eval().requires_grad_(False), inputs, expected, run.path, "g", config.onnx)
        meaning = {"services": model.services, "features": model.features.to_dict(), "prices": model.prices.to_dict()}
        write_json(run.path / "inputs.json", meaning | {"step_seconds": model.step_seconds})
        summary = {"services": list(model.services), "head": model.head, "difference": differences}
        run.write_summary(summary)
        return Exported(summary)


def random_minutes(model: SystemModel, count: int) -> dict[str, np.ndarray]:
    """Inputs within the ranges that training knew, by the names of g's arguments."""
    rng = numpy_generator(0, "export")
    low, high = (np.nan_to_num(one, posinf=1.0, neginf=-1.0) for one in (model.features.low, model.features.high))
    return {
        "cpu": rng.uniform(0, 100, (count, len(model.services))),
        "unit": rng.uniform(-1, 1, (count, model.prices.size)),
        "exogenous": rng.uniform(low, high, (count, model.features.size)),
        "traffic": rng.uniform(0.2, 2.0, count),
    }


if __name__ == "__main__":
    run_cli(
        export, ExportConfig, default_config="configs/mpc_balancer/export.yaml", default_out="runs/system_model_export"
    )
