"""What every allocation asks of its arrays; whatever does not fit is one line for the user."""

from __future__ import annotations

import numpy as np

from marca_common.errors import UserError


def check_budget(budget: float) -> float:
    """A budget as a float; anything but a positive number is a UserError."""
    number = float(budget) if isinstance(budget, (int, float, np.number)) and not isinstance(budget, bool) else np.nan
    if not (np.isfinite(number) and number > 0):
        raise UserError(f"budget: got {budget!r}; expected a positive number")
    return number


def check_counts(counts: np.ndarray | None, rows: int) -> np.ndarray:
    """Requests per row as float64 (S,); None means one each."""
    if counts is None:
        return np.ones(rows)
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != (rows,):
        raise UserError(f"counts: got shape {counts.shape}; expected ({rows},)")
    bad = ~(np.isfinite(counts) & (counts >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(f"counts: row {row + 1}: got {counts[row]}; expected a number of requests, 0 or more")
    return counts


def check_matrix(name: str, matrix: np.ndarray) -> np.ndarray:
    """``matrix`` as an array (S, A) with at least one state and action."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"{name}: got shape {matrix.shape}; expected (states, actions), at least one of each")
    return matrix


def check_finite(name: str, array: np.ndarray, first_row: int = 0) -> None:
    """A UserError that names row and action of the first number that is not finite; ``array`` (S, A, …)."""
    if np.isfinite(array.sum(dtype=np.float64)):
        return  # one quick pass where all is well
    for row, action, *_ in np.argwhere(~np.isfinite(array))[:1]:
        raise UserError(
            f"{name}: row {first_row + row + 1}, joint action {action}: got {array[row, action]}; expected a finite number"
        )
