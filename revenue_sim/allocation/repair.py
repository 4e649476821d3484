"""From a choice that is almost within several budgets to one that is, and then as full as it gets."""

from __future__ import annotations

import numpy as np

from revenue_sim.allocation.priced_rows import PricedRows

MOVES = 200  # single-row moves of either kind
NEAR_ROWS = 1000  # rows looked at first, those with the closest runner-up
NEAR_ACTIONS = 12  # their best actions at the prices


def repair(rows: PricedRows, budgets: np.ndarray, prices: np.ndarray, choice: np.ndarray) -> np.ndarray | None:
    """Move single rows until no budget is exceeded, each time at the least loss per violation mended; then upgrade.

    Returns None where no single move helps any more.
    """
    _, cost = rows.totals(choice)
    near = np.argsort(rows.second, kind="stable")[:NEAR_ROWS]
    actions = _best_actions(rows, prices, near)
    for _ in range(MOVES):
        if (cost <= budgets).all():
            return _fill(rows, budgets, choice, near, actions)
        move = _best_mend(rows, budgets, prices, choice, cost, near, actions)
        for block in np.array_split(np.arange(len(choice)), len(choice) // 1024 + 1) if move is None else ():
            every = np.broadcast_to(np.arange(rows.values.shape[1]), (len(block), rows.values.shape[1]))
            move = move or _best_mend(rows, budgets, prices, choice, cost, block, every)
        if move is None:
            return None
        choice[move[0]] = move[1]
        _, cost = rows.totals(choice)
    return None


def _best_actions(rows: PricedRows, prices: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The best actions of some rows at the prices, (R, L)."""
    worth = rows.values[part] - rows.costs[part] @ prices
    keep = min(NEAR_ACTIONS, worth.shape[1])
    return np.argpartition(-worth, keep - 1, axis=1)[:, :keep]


def _deltas(
    rows: PricedRows, choice: np.ndarray, part: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Change of value (R, L) and of costs (R, L, D) when a row of ``part`` moves from its choice to one of ``actions``."""
    at, now, count = part[:, None], choice[part], rows.counts[part]
    gain = (rows.values[at, actions].astype(np.float64) - rows.values[part, now][:, None]) * count[:, None]
    extra = rows.costs[at, actions].astype(np.float64) - rows.costs[part, now][:, None]
    return gain, extra * count[:, None, None]


def _best_mend(
    rows: PricedRows, budgets: np.ndarray, prices: np.ndarray, choice: np.ndarray, cost: np.ndarray, part: np.ndarray,
    actions: np.ndarray,
) -> tuple[int, int] | None:  # fmt: skip
    """The move with the least loss (at the prices) per share of a budget by which total violation falls; None: none helps."""
    gain, extra = _deltas(rows, choice, part, actions)
    before = (np.maximum(cost - budgets, 0.0) / budgets).sum()
    mended = before - (np.maximum(cost + extra - budgets, 0.0) / budgets).sum(axis=2)
    loss = np.maximum(extra @ prices - gain, 0.0) + 1e-12 * np.abs(gain)
    rate = np.where(mended > 1e-15, loss / np.where(mended > 1e-15, mended, 1.0), np.inf)
    at = np.unravel_index(rate.argmin(), rate.shape)
    return (int(part[at[0]]), int(actions[at])) if np.isfinite(rate[at]) else None


def _fill(
    rows: PricedRows, budgets: np.ndarray, choice: np.ndarray, near: np.ndarray, actions: np.ndarray
) -> np.ndarray:
    """Take single upgrades that fit, the largest gain first, until none does."""
    _, cost = rows.totals(choice)
    gain, extra = _deltas(rows, choice, near, actions)
    for _ in range(MOVES):
        fits = (gain > 0) & (cost + extra <= budgets).all(axis=2)
        if not fits.any():
            break
        at = np.unravel_index(np.where(fits, gain, -np.inf).argmax(), gain.shape)
        row, previous = near[at[0]], choice[near[at[0]]]
        choice[row] = actions[at]
        _, exact = rows.totals(choice)
        if (exact > budgets).any():  # fits only up to rounding
            choice[row] = previous
            gain[at] = -np.inf
            continue
        cost = exact
        one = slice(at[0], at[0] + 1)
        gain[one], extra[one] = _deltas(rows, choice, near[one], actions[one])
    return choice
