"""The transport problem: best integral flow from states to actions, by network simplex on a compiled tree.

Nodes are states 0…S−1, actions S…S+A−1 and a root. The start is any feasible flow without cycles (the greedy one); each
of its components hangs on the root by an artificial arc that carries nothing, ever, since it points to the root. All its
other tree arcs carry flow, so the tree is strongly feasible; the leaving arc is chosen to keep it so, which rules out
cycling (Cunningham 1976). Pricing goes round the states: each offers its best action, whose reduced cost is tested.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from marca_common.arrays import require_range, require_shape, whole_numbers
from marca_common.errors import UserError

TOLERANCE = 1e-12  # reduced gains below this share of the scores' range do not enter


class Tree(NamedTuple):
    """Spanning tree of the nodes by arrays; the root is the last node. A node's arc is the one to its parent."""

    parent: np.ndarray  # int64 (nodes + 1,)
    flow: np.ndarray  # flow on a node's arc, int64
    depth: np.ndarray  # arcs to the root, int64
    first_child: np.ndarray  # −1: none
    following: np.ndarray  # next child of the same parent, −1: none
    previous: np.ndarray  # the child before
    potential: np.ndarray  # dual prices, float64
    stack: np.ndarray  # room for a walk, int64


def solve(
    scores: np.ndarray, supply: np.ndarray, demand: np.ndarray, state: np.ndarray, action: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Optimal flow as (state, action, count) with counts above zero, and the dual bound ``Σ n·u + Σ q·v``.

    ``scores`` (S, A) float32 or float64, C-ordered; the start flow must meet ``supply`` (S,) and ``demand`` (A,) exactly.
    """
    _require_start(scores.shape, supply, demand, state, action, count)
    tolerance = TOLERANCE * max(float(scores.max()) - float(scores.min()), float(np.abs(scores).max()), 1e-300)
    tree = _network_simplex(scores, state, action, count, tolerance)
    states = len(supply)
    node = np.nonzero((tree.flow > 0) & (tree.parent < len(tree.parent) - 1))[0]
    upper = tree.parent[node]
    flow_state = np.where(node < states, node, upper)
    flow_action = np.where(node < states, upper, node) - states
    order = np.lexsort((flow_action, flow_state))
    v = tree.potential[states:-1]
    u = _row_best(scores, v)
    bound = float(supply @ u + demand @ v)
    return flow_state[order], flow_action[order], tree.flow[node][order], bound


def _require_start(
    shape: tuple[int, ...], supply: np.ndarray, demand: np.ndarray, state: np.ndarray, action: np.ndarray, count: np.ndarray
) -> None:  # fmt: skip
    """UserError unless the start flow lies in the matrix and meets both sides: the compiled tree checks nothing."""
    require_shape("supply", supply, shape[:1])
    require_shape("demand", demand, shape[1:])
    for name, part, size in (("state", state, shape[0]), ("action", action, shape[1])):
        require_range(name, whole_numbers(name, part), size)
        require_shape(name, part, count.shape)
    met = [np.bincount(part, count, len(side)) for part, side in ((state, supply), (action, demand))]
    if (count < 0).any() or not all(np.array_equal(got, side) for got, side in zip(met, (supply, demand))):
        raise UserError("start flow: it does not meet supply and demand; expected their sums, exactly")


@njit(nogil=True, cache=True)
def _link(tree: Tree, node: int) -> None:
    """Make ``node`` the first child of its parent."""
    p = tree.parent[node]
    tree.following[node], tree.previous[node] = tree.first_child[p], -1
    if tree.first_child[p] >= 0:
        tree.previous[tree.first_child[p]] = node
    tree.first_child[p] = node


@njit(nogil=True, cache=True)
def _unlink(tree: Tree, node: int) -> None:
    if tree.previous[node] >= 0:
        tree.following[tree.previous[node]] = tree.following[node]
    else:
        tree.first_child[tree.parent[node]] = tree.following[node]
    if tree.following[node] >= 0:
        tree.previous[tree.following[node]] = tree.previous[node]


@njit(nogil=True, cache=True)
def _push_children(tree: Tree, node: int, size: int) -> int:
    """Put the children of ``node`` on the stack, which holds ``size`` nodes; returns its new size."""
    child = tree.first_child[node]
    while child >= 0:
        tree.stack[size] = child
        size += 1
        child = tree.following[child]
    return size


@njit(nogil=True, cache=True)
def _start_tree(
    tree: Tree, states: int, actions: int, state: np.ndarray, action: np.ndarray, count: np.ndarray
) -> None:
    """Hang the start's components on the root, each by one of its states (or a lone action), breadth first."""
    nodes, root = states + actions, states + actions
    begin = np.zeros(nodes + 1, np.int64)
    for e in range(len(state)):
        begin[state[e] + 1] += 1
        begin[states + action[e] + 1] += 1
    begin = np.cumsum(begin)
    fill, neighbours = begin[:-1].copy(), np.empty(2 * len(state), np.int64)
    for e in range(len(state)):
        neighbours[fill[state[e]]] = e
        neighbours[fill[states + action[e]]] = e
        fill[state[e]] += 1
        fill[states + action[e]] += 1
    queue = np.empty(nodes, np.int64)
    for seed in range(nodes):
        if tree.parent[seed] != -1:
            continue
        tree.parent[seed], tree.flow[seed], tree.depth[seed] = root, 0, 1
        _link(tree, seed)
        head, tail = 0, 1
        queue[0] = seed
        while head < tail:
            node = queue[head]
            head += 1
            for slot in range(begin[node], begin[node + 1]):
                e = neighbours[slot]
                other = states + action[e] if node < states else state[e]
                if tree.parent[other] != -1:
                    continue
                tree.parent[other], tree.flow[other], tree.depth[other] = node, count[e], tree.depth[node] + 1
                _link(tree, other)
                queue[tail] = other
                tail += 1


@njit(nogil=True, cache=True)
def _leaving(tree: Tree, first: int, second: int, states: int) -> tuple[int, int, int, int]:
    """Join of the cycle, flow that can go round it, and the node below the leaving arc with its side (1: first, 2: second).

    Flow runs first → second along the entering arc and back through the join. Of several blocking arcs the last one
    in that direction, seen from the join, leaves: the tree stays strongly feasible.
    """
    parent, flow, u, w = tree.parent, tree.flow, first, second
    while u != w:
        if tree.depth[u] >= tree.depth[w]:
            u = parent[u]
        else:
            w = parent[w]
    join = u
    delta, out, side = 2**62, -1, 0
    node = first
    while node != join:  # flow comes down to first: arcs that point up lose
        if node < states and flow[node] < delta:
            delta, out, side = flow[node], node, 1
        node = parent[node]
    node = second
    while node != join:  # flow goes up from second: arcs that point down lose
        if node >= states and flow[node] <= delta:
            delta, out, side = flow[node], node, 2
        node = parent[node]
    return join, delta, out, side


@njit(nogil=True, cache=True)
def _push(tree: Tree, first: int, second: int, join: int, delta: int, states: int) -> None:
    """Send ``delta`` round the cycle."""
    if delta == 0:
        return
    node = first
    while node != join:
        tree.flow[node] += -delta if node < states else delta
        node = tree.parent[node]
    node = second
    while node != join:
        tree.flow[node] += delta if node < states else -delta
        node = tree.parent[node]


@njit(nogil=True, cache=True)
def _rehang(tree: Tree, inside: int, outside: int, out: int, delta: int) -> None:
    """Reverse the path from ``inside`` up to ``out`` and hang it under ``outside``."""
    node, above, flow = inside, outside, delta
    while True:
        old_parent, old_flow = tree.parent[node], tree.flow[node]
        _unlink(tree, node)
        tree.parent[node], tree.flow[node] = above, flow
        _link(tree, node)
        if node == out:
            return
        node, above, flow = old_parent, node, old_flow


@njit(nogil=True, cache=True)
def _shift(tree: Tree, top: int, change: float, states: int) -> None:
    """Add to the potentials of the subtree of ``top`` (states +, actions −) and set its depths."""
    tree.stack[0], size = top, 1
    while size > 0:
        node = tree.stack[size - 1]
        tree.potential[node] += change if node < states else -change
        tree.depth[node] = tree.depth[tree.parent[node]] + 1
        size = _push_children(tree, node, size - 1)


@njit(nogil=True, cache=True)
def _set_potentials(tree: Tree, scores: np.ndarray, states: int) -> None:
    """Potentials with u + v = score on every tree arc and u = v = 0 below the root."""
    root = len(tree.parent) - 1
    tree.stack[0], size = root, 1
    while size > 0:
        node = tree.stack[size - 1]
        if node != root:
            above = tree.parent[node]
            if above == root:
                tree.potential[node] = 0.0
            elif node < states:
                tree.potential[node] = np.float64(scores[node, above - states]) - tree.potential[above]
            else:
                tree.potential[node] = np.float64(scores[above, node - states]) - tree.potential[above]
        size = _push_children(tree, node, size - 1)


@njit(nogil=True, cache=True)
def _best_entry(scores: np.ndarray, s: int, v: np.ndarray) -> tuple[int, float]:
    """The action of state s with the largest score − v."""
    chosen, best = 0, -np.inf
    for a in range(scores.shape[1]):
        gain = scores[s, a] - v[a]
        if gain > best:
            best, chosen = gain, a
    return chosen, best


@njit(nogil=True, cache=True)
def _row_best(scores: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Largest score − v of every state (S,)."""
    best = np.empty(scores.shape[0])
    for s in range(scores.shape[0]):
        best[s] = _best_entry(scores, s, v)[1]
    return best


@njit(nogil=True, cache=True)
def _network_simplex(
    scores: np.ndarray, state: np.ndarray, action: np.ndarray, count: np.ndarray, tolerance: float
) -> Tree:
    states, actions = scores.shape
    nodes = states + actions
    none, zeros = np.full(nodes + 1, -1, np.int64), np.zeros(nodes + 1, np.int64)
    tree = Tree(none, zeros, zeros.copy(), none.copy(), none.copy(), none.copy(), np.zeros(nodes + 1), zeros.copy())
    _start_tree(tree, states, actions, state, action, count)
    _set_potentials(tree, scores, states)
    pivots, s, without = 0, 0, 0
    while without < states:
        a, best = _best_entry(scores, s, tree.potential[states:nodes])
        gain = best - tree.potential[s]
        if gain <= tolerance:
            without += 1
            s = s + 1 if s + 1 < states else 0
            if without == states and pivots > 0:  # drift-free potentials before the verdict
                _set_potentials(tree, scores, states)
                pivots, without = 0, 0
            continue
        without = 0
        second = states + a
        join, delta, out, side = _leaving(tree, s, second, states)
        _push(tree, s, second, join, delta, states)
        inside, outside = (s, second) if side == 1 else (second, s)
        _rehang(tree, inside, outside, out, delta)
        _shift(tree, inside, gain if inside < states else -gain, states)
        pivots += 1
        s = s + 1 if s + 1 < states else 0
    return tree
