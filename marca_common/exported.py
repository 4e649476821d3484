"""A torch module as a file that needs torch alone, or an ONNX runtime alone: written, read back and compared."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.files import atomic_path
from marca_common.seeding import numpy_generator

TOLERANCE = 1e-5  # largest difference between a file and what it was made from, relative to the largest value


def write_exported(
    module: nn.Module, inputs: dict[str, Tensor], expected: np.ndarray, folder: Path, name: str, onnx: bool
) -> dict[str, float]:
    """Write ``<name>.pt2`` (torch.export) and, if wanted, ``<name>.onnx``; the difference of each to ``expected``.

    ``inputs`` by argument name, of two rows or more: the first axis of each stays free. A file that differs by more than
    TOLERANCE is not left behind: a UserError.
    """
    rows = torch.export.Dim("rows", min=1)
    shapes = {key: {0: rows} for key in inputs}
    with torch.enable_grad():  # with gradients on, networks take torch's own operations instead of compiled kernels
        program = torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes)
    found = {"pt2": _write_torch(program, inputs, expected, folder / f"{name}.pt2")}
    if onnx:
        found["onnx"] = _write_onnx(program, inputs, expected, folder / f"{name}.onnx")
    return found


def random_states(encoder: StateEncoder, count: int) -> tuple[Tensor, Tensor]:
    """Encoded states, among them categories that training never saw, and numbers around their means."""
    rng = numpy_generator(0, "export")
    codes = rng.integers(0, np.array(encoder.sizes, np.int64), (count, len(encoder.sizes)))
    numbers = rng.normal(0, 1, (count, len(encoder.means)))
    return torch.from_numpy(codes), torch.from_numpy(numbers.astype(np.float32))


def _write_torch(program: Any, inputs: dict[str, Tensor], expected: np.ndarray, path: Path) -> float:
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # of weights that are views; all are on the CPU
        torch.export.save(program, temporary)
        with torch.no_grad():
            output = torch.export.load(temporary).module()(**inputs).numpy()
        return _difference(output, expected, path)


def _write_onnx(program: Any, inputs: dict[str, Tensor], expected: np.ndarray, path: Path) -> float:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"onnx: {error.name} is not installed; expected: pip install '.[onnx]'") from None
    for name in ("onnxscript", "onnx_ir"):  # they tell every node that they fold
        logging.getLogger(name).setLevel(logging.WARNING)
    with atomic_path(path) as temporary:
        torch.onnx.export(program, f=temporary, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        output = session.run(None, {one.name: inputs[one.name].numpy() for one in session.get_inputs()})[0]
        return _difference(output, expected, path)


def _difference(output: np.ndarray, expected: np.ndarray, path: Path) -> float:
    found = float(np.abs(output - expected).max() / np.abs(expected).max())
    if not found <= TOLERANCE:
        raise UserError(f"{path}: differs by {found:.2g} of the largest value; expected at most {TOLERANCE:g}")
    return found
