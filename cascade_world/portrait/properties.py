"""Declared properties of a world: how much the choice of computation matters, and in which directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cascade_world.mechanism.assembled_world import World
from cascade_world.request_luck import hash_columns
from marca_common.errors import UserError
from marca_common.seeding import integer_seed
from marca_measures.clairvoyant import clairvoyant
from marca_measures.static_mixture import static_mixture


def sample_states(world: World, count: int, seed: int = 0, group: int | None = None) -> np.ndarray:
    """Codes (count, columns) of states as an ordinary week's requests bring them."""
    luck = hash_columns(integer_seed(seed, "sample_states"), np.arange(count))
    hours = (np.arange(count) % 168).astype(float)
    idc = None if group is None else np.full(count, group)
    return world.population.sample(luck, hours, idc=idc)


def variance_shares(log_q: np.ndarray, shape: tuple[int, ...], n_first: int) -> dict[str, float]:
    """Shares of the within-state variance of log Q (S, A): sub-actions' main effects, stages, states × actions.

    ``stage_interaction``: between the first agent's sub-actions (``n_first`` of them) taken together and the rest;
    ``state_action``: what remains when one profile over actions, common to all states, is taken off.
    """
    within = log_q - log_q.mean(axis=1, keepdims=True)
    total = float((within**2).mean())
    cube = within.reshape(-1, *shape)
    axes = range(1, cube.ndim)
    shares = {}
    for j in axes:
        main = cube.mean(axis=tuple(other for other in axes if other != j))
        shares[f"a{j}"] = float((main**2).mean()) / total
    blocks = within.reshape(len(within), int(np.prod(shape[:n_first])), -1)
    mixed = blocks - blocks.mean(axis=1, keepdims=True) - blocks.mean(axis=2, keepdims=True)
    shares["stage_interaction"] = float((mixed**2).mean()) / total
    profile = within.mean(axis=0)
    shares["state_action"] = float(((within - profile) ** 2).mean()) / total
    return shares


def noise_shares(world: World, states: np.ndarray, log_q: np.ndarray) -> dict[str, float]:
    """Shares of the within-state variance of log Q (S, A) that the two parts of ``states.action_noise`` hold."""
    within = log_q - log_q.mean(axis=1, keepdims=True)
    parts = world.population.action_noise(states, np.arange(log_q.shape[1]))
    each = [0.5 * world.config.states.action_noise**2 * float(part.var(axis=1).mean()) for part in parts]
    total = float((within**2).mean())
    return {"segment_noise": each[0] / total, "state_noise": each[1] / total}


def values_less_state_noise(world: World, states: np.ndarray) -> np.ndarray:
    """True values (S, A) of all that more than one state shares: without the state's own part of ``states.action_noise``."""
    sd, own = world.config.states.action_noise, world.population.action_noise(states, np.arange(world.space.n_joint))[1]
    return np.asarray(world.values(world.population.frame(states)) / np.exp(sd * np.sqrt(0.5) * own - 0.25 * sd * sd))


def uplift_by_budget(world: World, group: int, states: np.ndarray, factors: np.ndarray) -> pd.DataFrame:
    """Static mixture and clairvoyant at multiples of the shipped budget; infeasible budgets are left out.

    ``shared_uplift_pct`` is the uplift of a clairvoyant that does not know any state's own part of ``states.action_noise``.
    """
    frame = world.population.frame(states)
    values, costs = world.values(frame), world.expected_costs(frame)
    shared = values_less_state_noise(world, states) if world.config.states.action_noise > 0 else values
    mean_values, mean_costs = values.mean(axis=0, dtype=np.float64), costs.mean(axis=0, dtype=np.float64)
    shipped, rows = world.budgets()[world.groups[group]], []
    for factor in factors:
        try:
            fixed = static_mixture(mean_values, mean_costs, factor * shipped).value
            best = clairvoyant(values, costs, factor * shipped)
            most_shared = clairvoyant(shared, costs, factor * shipped) if shared is not values else best
        except UserError:
            continue
        rows.append(
            {
                "factor": float(factor),
                "budget_core_ms": float(factor * shipped.sum()),
                "static": fixed,
                "clairvoyant": best.value,
                "oracle_uplift_pct": 100 * (best.value / fixed - 1),
                "shared_uplift_pct": 100 * (most_shared.value / fixed - 1),
            }
            | {f"lambda_{name}": float(best.lambda_[j]) for j, name in enumerate(world.services)}
        )
    return pd.DataFrame(rows)


def queue_returns(world: World) -> dict[str, Any]:
    """Along every queue and truncation: mean relative gain of each step (should shrink), and steps that cost Q."""
    shape, spec = world.spec.shape, world.spec
    q = world.tables.q.reshape(-1, *shape).astype(np.float64)
    found: dict[str, Any] = {}
    for j, name in enumerate(spec.sub_actions):
        action = world.config.cascade.actions[name]
        if action.kind not in ("queue", "truncation"):
            continue
        curve = q.mean(axis=tuple(axis for axis in range(1, q.ndim) if axis != j + 1))  # (classes, levels)
        mean = curve.mean(axis=0)
        lengths = np.array(action.levels, dtype=float)
        found[name] = {
            "gain_per_item": (np.diff(mean) / np.diff(lengths) / mean[:-1]).tolist(),
            "last_step_lowers_q": float((curve[:, -1] < curve[:, -2]).mean()),
        }
    return found


def cost_is_monotone(world: World, slack: float = 1e-6) -> bool:
    """Whether no expected cost falls when a queue, truncation or channel set grows."""
    shape, spec = world.spec.shape, world.spec
    cost = world.tables.cost.reshape(*world.tables.cost.shape[:2], *shape, -1)
    for j, name in enumerate(spec.sub_actions):
        action = world.config.cascade.actions[name]
        for low in range(shape[j]):
            for high in range(shape[j]):
                if _grows(action.kind, action.levels[low], action.levels[high]):
                    rise = np.take(cost, high, axis=2 + j) - np.take(cost, low, axis=2 + j)
                    if rise.min() < -slack:
                        return False
    return True


def _grows(kind: str, low: Any, high: Any) -> bool:
    if kind == "channels":
        return set(low) < set(high)
    return kind in ("queue", "truncation") and low < high


def monotone_mixing_violations(world: World, margin: float = 0.01) -> float:
    """Share of classes in which two choices of the last agent swap order, by over ``margin`` of Q, with upstream choices.

    No mixer that is monotone in the last agent's value can hold such a class.
    """
    agents = list(world.spec.agents.values())
    last = int(np.prod([world.spec.sizes[name] for name in agents[-1]]))
    found = 0
    for table in world.tables.q:
        q = table.reshape(-1, last)
        ratio = q[:, :, None] / q[:, None, :]  # (upstream, choice, other choice)
        found += bool(((ratio > 1 + margin).any(axis=0) & (ratio < 1 - margin).any(axis=0)).any())
    return found / len(world.tables.q)


def additivity_residual(world: World) -> dict[str, float]:
    """Root mean square of cost minus its best additive fit over agents, relative to the mean cost, per service."""
    agents = list(world.spec.agents.values())
    sizes = [int(np.prod([world.spec.sizes[name] for name in columns])) for columns in agents]
    found = {}
    for j, service in enumerate(world.services):
        cube = world.tables.cost[0, :, :, j].reshape(-1, *sizes).astype(np.float64)
        axes = range(1, cube.ndim)
        mean = cube.mean(axis=tuple(axes), keepdims=True)
        fit = mean + sum(cube.mean(axis=tuple(a for a in axes if a != axis), keepdims=True) - mean for axis in axes)
        found[service] = float(np.sqrt(((cube - fit) ** 2).mean()) / cube.mean())
    return found


def spectrum(log_q: np.ndarray, keep: int = 20) -> np.ndarray:
    """Share of the variance of log Q, centred over states and actions, that each singular direction holds."""
    centred = log_q - log_q.mean(axis=0) - log_q.mean(axis=1, keepdims=True) + log_q.mean()
    power = np.linalg.svd(centred, compute_uv=False) ** 2
    return np.asarray(power[:keep] / power.sum())


def label_statistics(log: pd.DataFrame) -> dict[str, float]:
    """How sparse and heavy-tailed one request's labels are."""
    revenue, predicted = log["revenue"].to_numpy(), log["predicted_value"].to_numpy()
    return {
        "rewarded_share": float((revenue > 0).mean()),
        "clicks_per_request": float(log["clicks"].mean()),
        "revenue_mean": float(revenue.mean()),
        "revenue_cv": float(revenue.std() / revenue.mean()),
        "predicted_value_cv": float(predicted.std() / predicted.mean()),
        "predicted_value_ratio": float(predicted.mean() / revenue.mean()),
    }


def signal_to_noise(world: World, log: pd.DataFrame) -> float:
    """Variance of the true expected revenue of logged requests over the variance of revenue around it."""
    codes = world.population.codes(log[list(world.spec.state)])
    truth = world.expected_values(codes, world.spec.joint_index(log))
    return float(truth.var() / np.mean((log["revenue"].to_numpy() - truth) ** 2))


def degradation_price(world: World, states: np.ndarray) -> pd.DataFrame:
    """Whole levels of degradation when all requests get the static mixture's actions: f(D) and the loss of revenue."""
    frame = world.population.frame(states)
    values = world.values(frame).mean(axis=0, dtype=np.float64)
    costs = world.expected_costs(frame).mean(axis=0, dtype=np.float64)
    shares = np.array(list(world.config.states.idcs.values()))
    budget = np.average(list(world.budgets().values()), axis=0, weights=shares)
    mixture = static_mixture(values, costs, budget)
    rows = []
    for level, served in enumerate(world.space.degraded):
        change = mixture.mean(costs[served]) - mixture.cost
        loss = 100 * (mixture.mean(values[served]) / mixture.value - 1)
        rows.append({"level": level, "revenue_pct": loss} | {f"f_{n}": change[j] for j, n in enumerate(world.services)})
    return pd.DataFrame(rows)
