"""Two steps of scoring, compiled: float32, CPU, no gradient. Torch's inner loops are too short here to be fast."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath=True)
def spread(known: np.ndarray, fixed: np.ndarray, terms: np.ndarray, factors: np.ndarray, out: np.ndarray) -> None:
    """``out[s, a] = fixed[a] + Σ_k factors[k] · known[s, terms[a, k]]``: (S, P, W), (A, W), (A, K), (K,) → (S, A, W)."""
    size, width = len(known), known.shape[2]
    for s in range(size):
        for a in range(len(fixed)):
            total = out[s, a]
            for w in range(width):
                total[w] = fixed[a, w]
            for k in range(len(factors)):
                one, factor = known[s, terms[a, k]], factors[k]
                for w in range(width):
                    total[w] += factor * one[w]


@njit(cache=True, nogil=True, fastmath=True)
def mix(experts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ_e weights_e · experts_e: ``experts`` (N, E, U) → (N, U); ``weights`` (M, E) repeat where M < N, a multiple of it."""
    size, many, width = experts.shape
    out = np.empty((size, width), np.float32)
    for i in range(size):
        total, share = out[i], weights[i % len(weights)]
        for u in range(width):
            total[u] = share[0] * experts[i, 0, u]
        for e in range(1, many):
            for u in range(width):
                total[u] += share[e] * experts[i, e, u]
    return out
