"""Decentralised decisions: each stage chooses when its turn comes, from the state and what was chosen before it."""

from __future__ import annotations

import numpy as np

from marca_common.arrays import require_shape
from marca_common.requests import RequestSpec


def decide_by_stage(
    q: np.ndarray, c: np.ndarray, lambda_: np.ndarray, spec: RequestSpec, profile: np.ndarray
) -> np.ndarray:
    """Joint actions chosen stage by stage, int64 (S,), from values ``q`` (S, A) and costs ``c`` (S, A, services).

    A stage takes the choice whose Q − λ·C is best on average over the later stages' choices, weighted by the logged
    mix ``profile`` (A,); the last stage's choice is exact given the earlier ones. The joint choice is never worse. A
    UserError for shapes that don't fit each other or the spec.
    """
    score = _scores(q, c, lambda_)  # (S, A)
    stages = [int(np.prod([spec.sizes[name] for name in columns])) for columns in spec.agents.values()]
    require_shape("profile", profile, (int(np.prod(stages)),))
    require_shape("q", score, (None, *profile.shape))
    weight = np.broadcast_to(profile, score.shape)
    chosen = np.zeros(len(score), dtype=np.int64)
    rows = np.arange(len(score))
    for size in stages:
        score, weight = (x.reshape(len(score), size, -1) for x in (score, weight))
        share = weight / np.maximum(weight.sum(2, keepdims=True), 1e-300)
        mine = (score * share).sum(2).argmax(1)  # (S,)
        chosen = chosen * size + mine
        score, weight = score[rows, mine], weight[rows, mine]
    return chosen


def stagewise_lost(
    q: np.ndarray, c: np.ndarray, lambda_: np.ndarray, spec: RequestSpec, profile: np.ndarray, weight: np.ndarray
) -> float:
    """Share of the mean objective Q − λ·C that deciding by stage loses against the joint choice; ``weight`` (S,) of states.

    0 where the joint choice is worth nothing (up to rounding).
    """
    score = _scores(q, c, lambda_)
    joint = np.average(score.max(1), weights=weight)
    chosen = decide_by_stage(q, c, lambda_, spec, profile)
    by_stage = np.average(score[np.arange(len(score)), chosen], weights=weight)
    return float((joint - by_stage) / abs(joint)) if abs(joint) > 1e-9 * np.abs(score).max() else 0.0


def _scores(q: np.ndarray, c: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
    """Q − λ·C (S, A); a UserError where values, costs and prices don't fit."""
    q, c, price = np.asarray(q, np.float64), np.asarray(c, np.float64), np.atleast_1d(lambda_)
    require_shape("costs", c, (*q.shape, len(price)))
    return np.asarray(q - c @ price)
