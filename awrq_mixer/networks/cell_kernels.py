"""The GRU cell over a tree of sub-actions in one compiled pass: serving on the CPU only, float32, no gradient."""

from __future__ import annotations

import numba
import numpy as np

from marca_common.fast_tanh import fast_tanh

_HALF = np.float32(0.5)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def grow(
    x: np.ndarray, table: np.ndarray, gates: np.ndarray, parents: np.ndarray, bias: np.ndarray, out: np.ndarray
) -> None:
    """Hidden states after each choice: fills ``out`` (S, M, n, H).

    ``x`` (S, 3H) is the input product of the prefix, ``table`` (n, 3H) what each choice adds to it. ``gates`` (S, M, 3H)
    is the recurrent product of the ``parents`` (S, M, H), ``bias`` (H,) the candidate's. Gates in the order r, z, n.
    """
    size, many, width = parents.shape
    choices = len(table)
    inputs = np.empty((choices, 3 * width), np.float32)
    for s in range(size):
        for c in range(choices):
            for j in range(3 * width):
                inputs[c, j] = x[s, j] + table[c, j]
        for m in range(many):
            g, h = gates[s, m], parents[s, m]
            for c in range(choices):
                i, o = inputs[c], out[s, m, c]
                for j in range(width):
                    r = _HALF + _HALF * fast_tanh(_HALF * (i[j] + g[j]))
                    z = _HALF + _HALF * fast_tanh(_HALF * (i[width + j] + g[width + j]))
                    n = fast_tanh(i[2 * width + j] + r * (g[2 * width + j] + bias[j]))
                    o[j] = n + z * (h[j] - n)
