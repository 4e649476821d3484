"""Compiled steps of the search for the best whole rows: one row is added to all partial choices that may still win.

A partial choice is a pair (cost, loss). Cost is counted against the relaxation's own choice, loss is what the actions taken
so far lose under its price; what is left of the budget in the end loses its price, too. The total loss is to be least.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def least_loss(cost: float, loss: float, room: float, price: float, up: float, down: float) -> float:
    """No completion of a partial choice loses less.

    ``up`` and ``down``: least loss per unit of cost that a row yet to come adds or saves (Dembo and Sinha's bounds).
    """
    if cost <= room:
        return loss + min(price, up) * (room - cost)
    return loss + down * (cost - room)


@njit(nogil=True, cache=True)
def extended(
    cost: np.ndarray, loss: np.ndarray, step_cost: np.ndarray, step_loss: np.ndarray, room: float, price: float, up: float,
    down: float, saving: float, best: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, int, int]:  # fmt: skip
    """All partial choices × the actions of one row that may still lose less than ``best``, by rising cost, none dominated.

    ``saving``: most that rows yet to come can save. Returns cost, loss, parent and action of each, the least total loss of
    a choice that fits as it is, and its parent and action (−1: none better than ``best``).
    """
    states, actions = len(cost), len(step_cost)
    size = 0
    found_parent, found_action = -1, -1
    new_cost, new_loss = np.empty(states * actions), np.empty(states * actions)
    parent, action = np.empty(states * actions, np.int32), np.empty(states * actions, np.int32)
    for i in range(states):
        for j in range(actions):
            c, l = cost[i] + step_cost[j], loss[i] + step_loss[j]
            if c - saving > room or least_loss(c, l, room, price, up, down) >= best:
                continue
            if c <= room and l + price * (room - c) < best:
                best, found_parent, found_action = l + price * (room - c), i, j
            new_cost[size], new_loss[size], parent[size], action[size] = c, l, i, j
            size += 1
    order = np.argsort(new_cost[:size])
    kept = 0
    chosen = np.empty(size, np.int64)
    last_cost, last_worth = -np.inf, -np.inf
    for k in order:
        worth = price * new_cost[k] - new_loss[k]
        if least_loss(new_cost[k], new_loss[k], room, price, up, down) >= best:
            continue
        if worth > last_worth:
            if kept and new_cost[k] == last_cost:
                kept -= 1  # as cheap and worth more
            chosen[kept] = k
            kept += 1
            last_cost, last_worth = new_cost[k], worth
    chosen = chosen[:kept]
    return new_cost[chosen], new_loss[chosen], parent[chosen], action[chosen], best, found_parent, found_action


@njit(nogil=True, cache=True)
def least_losses(cost: np.ndarray, loss: np.ndarray, room: float, price: float, up: float, down: float) -> np.ndarray:
    """``least_loss`` of each partial choice (n,)."""
    out = np.empty(len(cost))
    for i in range(len(cost)):
        out[i] = least_loss(cost[i], loss[i], room, price, up, down)
    return out
