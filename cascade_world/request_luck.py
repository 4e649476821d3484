"""Luck as a pure function of counters: the same seed and counter give the same number, whatever else was drawn.

This is what makes results independent of the number of workers, and lets one request meet the same luck under every
strategy. Normals come from a table of 65,536 quantiles, 16 bits each: exact mean and variance, tails cut at 4.2 sd.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.special import ndtri

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_S16, _MASK = np.uint64(16), np.uint64(0xFFFF)

_quantiles = ndtri((np.arange(65536) + 0.5) / 65536)
NORMALS = (_quantiles / _quantiles.std()).astype(np.float32)  # (65536,)


@njit(cache=True, inline="always")
def mix64(x: np.uint64) -> np.uint64:
    """SplitMix64's finaliser: a well-stirred 64-bit function of a 64-bit counter."""
    z = x + GOLDEN
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


@njit(cache=True, inline="always")
def uniform(bits: np.uint64) -> float:
    """Uniform number in [0, 1) from 64 bits."""
    return float(bits >> _S11) * (1.0 / 9007199254740992.0)


@njit(cache=True, inline="always")
def normal(bits: np.uint64, lane: int, table: np.ndarray) -> float:
    """Standard normal from the 16-bit ``lane`` (0–3) of 64 bits."""
    return float(table[(bits >> (_S16 * np.uint64(lane))) & _MASK])


def hash_columns(seed: int, *columns: np.ndarray) -> np.ndarray:
    """64 well-stirred bits per row of integer columns, uint64 (M,)."""
    state = np.full(len(columns[0]), np.uint64(seed), dtype=np.uint64)
    for column in columns:
        state = _mix_array(state ^ _mix_array(np.asarray(column).astype(np.uint64)))
    return state


def uniforms(bits: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) from 64-bit words, float64."""
    return (bits >> _S11).astype(np.float64) / 9007199254740992.0


def normals(bits: np.ndarray) -> np.ndarray:
    """Standard normals from 64-bit words, float32 (the same table as the kernels')."""
    return np.asarray(NORMALS[(bits & _MASK).astype(np.int64)])


def _mix_array(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = x + GOLDEN
        z = (z ^ (z >> _S30)) * _M1
        z = (z ^ (z >> _S27)) * _M2
        return z ^ (z >> _S31)
