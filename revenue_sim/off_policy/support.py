"""What a log cannot tell: actions it never tries, weights too uneven, payments too few or too heavy-tailed."""

from __future__ import annotations

import numpy as np

from revenue_sim.off_policy.intervals import effective_rows

LEAST_ROWS = 80.0  # effective rows; like those below chosen by coverage on development worlds
LEAST_TAIL_INDEX = 4 / 3
LEAST_PAYING = 10  # requests that paid, with an action of the policy
LEAST_HEAVY = 20  # effective rows among those that paid, where their tail has no variance (index up to 2)


def missing_support(weight: np.ndarray, effective: float, least_rows: float) -> str | None:
    """Why these weights cannot carry an estimate; None if they can. With support and right propensities their mean is 1."""
    if effective < least_rows:
        return f"the weights amount to {effective:.1f} rows; at least {least_rows:g} are needed"
    mean, error = weight.mean(), weight.std() / np.sqrt(len(weight))
    if mean + 4.0 * error < 1.0 - 1e-4:
        return f"the log never takes actions that hold about {100 * (1 - mean):.0f} % of the policy's probability"
    if mean - 4.0 * error > 1.0 + 1e-4:
        return f"the weights' mean is {mean:.2f} where it should be 1: the propensities are not those of the logged actions"
    return None


def no_interval(reward: np.ndarray, weight: np.ndarray, tail: float | None) -> str | None:
    """Why these payments cannot carry an interval; None if they can.

    The tail is that of all the log's rewards. The weighted ones of the policy are fewer, and look lightest just where the
    large payments were missed.
    """
    paying = int(((reward != 0) & (weight > 0)).sum())
    if paying < LEAST_PAYING:
        return f"{paying} requests with actions of the policy paid; at least {LEAST_PAYING} are needed"
    if tail is not None and tail < LEAST_TAIL_INDEX:
        return f"the rewards' tail index is {tail:.2f}; below {LEAST_TAIL_INDEX:.2f} means are ruled by payments not yet seen"
    heavy = effective_rows(weight[reward != 0])
    if tail is not None and tail <= 2 and heavy < LEAST_HEAVY:
        return (
            f"the rewards' tail index is {tail:.2f}, and those that paid amount to {heavy:.1f} rows; "
            f"at least {LEAST_HEAVY} are needed up to an index of 2"
        )
    return None
