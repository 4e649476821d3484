"""Checks of indices and shapes at public doors: behind them compiled loops read memory without looking."""

from __future__ import annotations

from typing import Any

import numpy as np

from marca_common.errors import UserError

_INT64 = np.dtype(np.int64)


def whole_numbers(name: str, values: Any) -> np.ndarray:
    """``values`` as int64 (M,); a UserError for other shapes, text, booleans, fractions, NaN and what int64 can't hold.

    Floats that are whole numbers are taken. The range is the caller's to check.
    """
    if type(values) is np.ndarray and values.dtype == _INT64 and values.ndim == 1:  # serving comes here each request
        return values
    array = _array(name, values)
    if array.ndim != 1:
        raise UserError(f"{name}: got shape {array.shape}; expected one dimension")
    if not array.size:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name}: got {str(array.ravel()[0])[:40]!r} of type {array.dtype}; expected whole numbers")
    with np.errstate(all="ignore"):
        bad = ~((array >= -(2.0**63)) & (array < 2.0**63) & (array == np.floor(array)))
    if bad.any():
        raise UserError(f"{name}: got {array[bad][0]} at position {int(np.argmax(bad))}; expected whole numbers")
    return array.astype(np.int64, copy=False)


def require_range(name: str, values: np.ndarray, size: int) -> None:
    """UserError that names the first of ``values`` (int64) outside 0 … size − 1."""
    if values.size and int(np.ascontiguousarray(values).view(np.uint64).max()) >= size:
        position = int(np.argmax((values < 0) | (values >= size)))
        raise UserError(f"{name}: got {values.ravel()[position]} at position {position}; expected 0 to {size - 1}")


def require_shape(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    """UserError where an array has another shape; None stands for any length."""
    if array.ndim != len(shape) or any(want is not None and got != want for got, want in zip(array.shape, shape)):
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise UserError(f"{name}: got shape {array.shape}; expected ({expected})")


def _array(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype == object and array.size and all(_whole(one) for one in array.flat):
            array = array.astype(np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name}: {error}; expected whole numbers in one dimension") from None
    return array


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
