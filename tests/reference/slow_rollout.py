"""The system model's rollout and Eq. 17, written as plainly as possible, one plan and one number at a time."""

import math
from typing import Any

import numpy as np


def slow_rollout(model: Any, cpu: Any, plan: Any, exogenous: Any, traffic: Any, gain: Any) -> Any:
    """CPU (N, S) of one plan (N, L); gain (S,)."""
    size = len(model.services)
    c = [cpu[s] / gain[s] for s in range(size)]
    rows = []
    for i in range(len(plan)):
        h = [(c[s] - 50.0) / 25.0 for s in range(size)] + list(plan[i]) + list(exogenous[i])
        for weight, bias in zip(model.weights[:-1], model.biases[:-1]):
            h = [
                math.tanh(sum(h[a] * float(weight[a, b]) for a in range(len(h))) + float(bias[b]))
                for b in range(weight.shape[1])
            ]
        weight, bias = model.weights[-1], model.biases[-1]
        out = [sum(h[a] * float(weight[a, s]) for a in range(len(h))) + float(bias[s]) for s in range(size)]
        for s in range(size):
            if model.head == "plain":
                c[s] = float(model.level[s]) + 25.0 * out[s]
            else:
                load = math.exp(min(out[s] + float(model.level[s]), 8.0)) * float(traffic[i])
                c[s] = float(model.carry[s]) * c[s] + (1 - float(model.carry[s])) * (float(model.idle[s]) + load)
        rows.append([c[s] * gain[s] for s in range(size)])
    return np.array(rows)


def slow_eq17(alpha: Any, beta: Any, reading: Any, target: Any, now: Any, before: Any, path: Any) -> Any:
    """Eq. 17 with i from 0 to N, summed over services."""
    total = 0.0
    for s in range(len(target)):
        course = [now[s], *path[:, s]]
        changes = [now[s] - before[s], *np.diff(course)]
        total += sum(alpha**i * (c - target[s]) ** 2 for i, c in enumerate(course))
        if reading == "whole_horizon":
            if max(course) >= target[s]:
                total += beta * sum(alpha**i * d**2 for i, d in enumerate(changes))
        else:
            total += beta * sum(alpha**i * d**2 for i, (c, d) in enumerate(zip(course, changes)) if c >= target[s])
    return total
