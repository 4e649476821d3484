"""The transport problem: best integral flow from states to actions, by network simplex on a compiled tree.

Nodes are states 0…S−1, actions S…S+A−1 and a root. The start is any feasible flow without cycles (the greedy one); each
of its components hangs on the root by an artificial arc that carries nothing, ever, since it points to the root. All its
other tree arcs carry flow, so the tree is strongly feasible; the leaving arc is chosen to keep it so, which rules out
cycling (Cunningham 1976). Pricing goes round the states: each offers its best action, whose reduced cost is tested.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TOLERANCE = 1e-12  # reduced gains below this share of the scores' range do not enter


def solve(scores, supply, demand, state, action, count):
    """Optimal flow as (state, action, count) with counts above zero, and the dual bound ``Σ n·u + Σ q·v``.

    ``scores`` (S, A) float32 or float64, C-ordered; the start flow must meet ``supply`` (S,) and ``demand`` (A,) exactly.
    """
    tolerance = TOLERANCE * max(float(scores.max()) - float(scores.min()), float(np.abs(scores).max()), 1e-300)
    parent, pred_flow, potential = _network_simplex(
        scores, supply.astype(np.int64), demand.astype(np.int64), state, action, count, tolerance
    )
    states = len(supply)
    node = np.nonzero((pred_flow > 0) & (parent < len(parent) - 1))[0]
    upper = parent[node]
    flow_state = np.where(node < states, node, upper)
    flow_action = np.where(node < states, upper, node) - states
    order = np.lexsort((flow_action, flow_state))
    v = potential[states:-1]
    u = (scores.astype(np.float64) - v).max(axis=1) if scores.size < 5e6 else _row_best(scores, v)
    bound = float(supply @ u + demand @ v)
    return flow_state[order], flow_action[order], pred_flow[node][order], bound


@njit(nogil=True, cache=True)
def _row_best(scores, v):
    best = np.full(scores.shape[0], -np.inf)
    for s in range(scores.shape[0]):
        for a in range(scores.shape[1]):
            best[s] = max(best[s], scores[s, a] - v[a])
    return best


@njit(nogil=True, cache=True)
def _link(node, parent, first_child, following, previous):
    """Make ``node`` the first child of its parent."""
    p = parent[node]
    following[node], previous[node] = first_child[p], -1
    if first_child[p] >= 0:
        previous[first_child[p]] = node
    first_child[p] = node


@njit(nogil=True, cache=True)
def _unlink(node, parent, first_child, following, previous):
    if previous[node] >= 0:
        following[previous[node]] = following[node]
    else:
        first_child[parent[node]] = following[node]
    if following[node] >= 0:
        previous[following[node]] = previous[node]


@njit(nogil=True, cache=True)
def _start_tree(states, actions, state, action, count, parent, pred_flow, depth, first_child, following, previous):
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
        if parent[seed] != -1:
            continue
        parent[seed], pred_flow[seed], depth[seed] = root, 0, 1
        _link(seed, parent, first_child, following, previous)
        head, tail = 0, 1
        queue[0] = seed
        while head < tail:
            node = queue[head]
            head += 1
            for slot in range(begin[node], begin[node + 1]):
                e = neighbours[slot]
                other = states + action[e] if node < states else state[e]
                if parent[other] != -1:
                    continue
                parent[other], pred_flow[other], depth[other] = node, count[e], depth[node] + 1
                _link(other, parent, first_child, following, previous)
                queue[tail] = other
                tail += 1


@njit(nogil=True, cache=True)
def _leaving(first, second, states, parent, pred_flow, depth):
    """Join of the cycle, flow that can go round it, and the node below the leaving arc with its side (1: first, 2: second).

    Flow runs first → second along the entering arc and back through the join. Of several blocking arcs the last one
    in that direction, seen from the join, leaves: the tree stays strongly feasible.
    """
    u, w = first, second
    while u != w:
        if depth[u] >= depth[w]:
            u = parent[u]
        else:
            w = parent[w]
    join = u
    delta, out, side = np.int64(2**62), -1, 0
    node = first
    while node != join:  # flow comes down to first: arcs that point up lose
        if node < states and pred_flow[node] < delta:
            delta, out, side = pred_flow[node], node, 1
        node = parent[node]
    node = second
    while node != join:  # flow goes up from second: arcs that point down lose
        if node >= states and pred_flow[node] <= delta:
            delta, out, side = pred_flow[node], node, 2
        node = parent[node]
    return join, delta, out, side


@njit(nogil=True, cache=True)
def _push(first, second, join, delta, states, parent, pred_flow):
    if delta == 0:
        return
    node = first
    while node != join:
        pred_flow[node] += -delta if node < states else delta
        node = parent[node]
    node = second
    while node != join:
        pred_flow[node] += delta if node < states else -delta
        node = parent[node]


@njit(nogil=True, cache=True)
def _rehang(inside, outside, out, delta, parent, pred_flow, first_child, following, previous):
    """Reverse the path from ``inside`` up to ``out`` and hang it under ``outside``."""
    node, above, flow = inside, outside, delta
    while True:
        old_parent, old_flow = parent[node], pred_flow[node]
        _unlink(node, parent, first_child, following, previous)
        parent[node], pred_flow[node] = above, flow
        _link(node, parent, first_child, following, previous)
        if node == out:
            return
        node, above, flow = old_parent, node, old_flow


@njit(nogil=True, cache=True)
def _shift(top, change, states, parent, depth, potential, first_child, following, stack):
    """Add to the potentials of the subtree of ``top`` (states +, actions −) and set its depths."""
    stack[0], size = top, 1
    while size > 0:
        size -= 1
        node = stack[size]
        potential[node] += change if node < states else -change
        depth[node] = depth[parent[node]] + 1
        child = first_child[node]
        while child >= 0:
            stack[size] = child
            size += 1
            child = following[child]


@njit(nogil=True, cache=True)
def _tree_potentials(scores, states, parent, potential, first_child, following, stack):
    """Potentials with u + v = score on every tree arc and u = v = 0 below the root."""
    root = len(parent) - 1
    stack[0], size = root, 1
    while size > 0:
        size -= 1
        node = stack[size]
        if node != root:
            above = parent[node]
            if above == root:
                potential[node] = 0.0
            elif node < states:
                potential[node] = np.float64(scores[node, above - states]) - potential[above]
            else:
                potential[node] = np.float64(scores[above, node - states]) - potential[above]
        child = first_child[node]
        while child >= 0:
            stack[size] = child
            size += 1
            child = following[child]


@njit(nogil=True, cache=True)
def _best_entry(scores, s, v):
    """The action of state s with the largest score − v."""
    chosen, best = 0, -np.inf
    for a in range(scores.shape[1]):
        gain = scores[s, a] - v[a]
        if gain > best:
            best, chosen = gain, a
    return chosen, best


@njit(nogil=True, cache=True)
def _network_simplex(scores, supply, demand, state, action, count, tolerance):
    states, actions = scores.shape
    nodes = states + actions
    parent = np.full(nodes + 1, -1, np.int64)
    pred_flow, depth = np.zeros(nodes + 1, np.int64), np.zeros(nodes + 1, np.int64)
    first_child = np.full(nodes + 1, -1, np.int64)
    following, previous = np.full(nodes + 1, -1, np.int64), np.full(nodes + 1, -1, np.int64)
    potential, stack = np.zeros(nodes + 1), np.empty(nodes + 1, np.int64)
    _start_tree(states, actions, state, action, count, parent, pred_flow, depth, first_child, following, previous)
    _tree_potentials(scores, states, parent, potential, first_child, following, stack)
    pivots, s, without = 0, 0, 0
    while without < states:
        a, best = _best_entry(scores, s, potential[states:nodes])
        gain = best - potential[s]
        if gain <= tolerance:
            without += 1
            s = s + 1 if s + 1 < states else 0
            if without == states and pivots > 0:  # drift-free potentials before the verdict
                _tree_potentials(scores, states, parent, potential, first_child, following, stack)
                pivots, without = 0, 0
            continue
        without = 0
        second = states + a
        join, delta, out, side = _leaving(s, second, states, parent, pred_flow, depth)
        _push(s, second, join, delta, states, parent, pred_flow)
        inside, outside = (s, second) if side == 1 else (second, s)
        _rehang(inside, outside, out, delta, parent, pred_flow, first_child, following, previous)
        change = gain if inside < states else -gain
        _shift(inside, change, states, parent, depth, potential, first_child, following, stack)
        pivots += 1
        s = s + 1 if s + 1 < states else 0
    return parent, pred_flow, potential
