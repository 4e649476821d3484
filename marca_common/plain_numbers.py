"""Numbers out of whatever was handed in: what is no real number becomes NaN, and nothing raises.

For run time only, where a controller must answer whatever it is told. Files and configs are refused at load time instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np


def plain_number(value: Any) -> float:
    """``value`` as a float; NaN for text, bool, complex, None, missing values, arrays and other objects."""
    try:
        known = isinstance(value, (int, float, np.integer, np.floating, Decimal)) and not isinstance(value, bool)
        return float(value) if known else float("nan")
    except Exception:  # an integer too large, a signalling NaN, an object of somebody's that raises
        return float("nan")


def plain_numbers(value: Any, count: int | None = None) -> np.ndarray | None:
    """``value`` as a fresh float64 array (n,), NaN where an entry is no number; None where it is no row of numbers.

    A row is a one-dimensional sequence or array of ``count`` entries (None: of one or more), or a single number where one
    is enough. Text, mappings, sets and arrays of more dimensions are none.
    """
    try:
        row = _row(value)
        if row is None or row.ndim != 1 or len(row) != (count or len(row) or -1):
            return None
        if row.dtype.kind in "fiu":
            with np.errstate(all="ignore"):
                return row.astype(np.float64)
        return np.array([plain_number(one) for one in row])
    except Exception:  # somebody's object whose conversion raises
        return None


def plain_mapping(value: Any) -> dict[Any, Any] | None:
    """A mapping as a dict; None for anything else."""
    try:
        return dict(value) if isinstance(value, Mapping) else None
    except Exception:
        return None


def plain_text(value: Any) -> str | None:
    """A text; None for anything else."""
    try:
        return value if isinstance(value, str) else None
    except Exception:
        return None


def attribute(thing: Any, name: str) -> Any:
    """An attribute, or None where there is none or reading it raises."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def _row(value: Any) -> np.ndarray | None:
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(np.float64), np.nan)
    if hasattr(value, "__array__") and not np.isscalar(value):
        found = np.asarray(value)
        return found[None] if found.ndim == 0 else found
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        row = np.empty(len(value), object)
        row[:] = list(value)
        return row
    return np.array([plain_number(value)]) if np.isfinite(plain_number(value)) else None
