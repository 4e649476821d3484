"""A GRU cell along logged sub-actions as one compiled pass each way: training on the CPU, where torch takes a dozen passes.

Matrix products stay torch's. Weights end as with torch's own operations up to rounding: tanh is ``fast_tanh``, and sums
over the batch run in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from awrq_mixer.networks.cell_kernels import step_back, step_on

_step_on, _step_back = cast(Any, step_on), cast(Any, step_back)  # numba's types know no unpacked arguments


class TrainingCell(torch.autograd.Function):
    """h' = GRU(x + table[action], g, h); all float32 and on the CPU.

    ``x`` (B, 3H) input product, ``table`` (n, 3H) what each choice adds to it, ``action`` (B,) int64. ``g`` (B, 3H) is the
    recurrent product of ``h`` (B, H); a single row of zeros in both stands for h = 0. ``bias`` (H,) is the candidate's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, action: Tensor, g: Tensor, h: Tensor, bias: Tensor) -> Tensor:
        """Hidden states (B, H)."""
        inputs = [one.detach().contiguous() for one in (x, table, action, g, h, bias)]
        gates = torch.empty_like(inputs[0]) if any(ctx.needs_input_grad) else x.new_empty(0, x.shape[1])
        out = x.new_empty(len(x), h.shape[1])
        arrays = [one.numpy() for one in (*inputs, gates, out)]

        def work(start: int, stop: int) -> None:
            _step_on(start, stop, *arrays)

        _by_rows(work, len(x))
        ctx.save_for_backward(*inputs[1:], gates)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the six inputs; none of ``action``, and none of a single row's ``g`` and ``h``."""
        table, action, g, h, bias, gates = ctx.saved_tensors
        dx, dg, dh = torch.empty_like(gates), torch.empty_like(g), torch.empty_like(h)
        arrays = [one.numpy() for one in (gradients[0].contiguous(), action, g, h, bias, gates, dx, dg, dh)]

        def work(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            dtable, dbias = np.zeros(table.shape, np.float32), np.zeros(bias.shape, np.float32)
            _step_back(start, stop, *arrays, dtable, dbias)
            return dtable, dbias

        parts = _by_rows(work, len(gates))
        dtable, dbias = (torch.from_numpy(np.sum(part, axis=0)) for part in zip(*parts))
        first = len(h) != len(gates)
        return dx, dtable, None, None if first else dg, None if first else dh, dbias


training_cell = cast(Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor], TrainingCell.apply)


def _by_rows(work: Callable[[int, int], Any], rows: int) -> list[Any]:
    """``work(start, stop)`` over all rows, on as many threads as torch has."""
    threads = torch.get_num_threads()
    if threads == 1 or rows < threads:
        return [work(0, rows)]
    edges = [rows * i // threads for i in range(threads + 1)]
    return list(_pool(threads).map(work, edges[:-1], edges[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="training_cell")
