"""Boosted trees of revenue on (state, action), and their scores over whole action spaces.

LightGBM with Tweedie loss. State columns enter as smoothed target means, alone and in pairs, sub-actions as whole numbers.
Every leaf is then a box in the space of sub-actions once the state is known, so a state's A scores are sums of boxes:
about a thousand times faster than predicting S·A rows, and equal to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numba import njit
from pydantic import Field

from marca_common.checkpoint import require_keys
from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.seeding import integer_seed, numpy_generator


class TreesConfig(Config):
    """Boosted-tree member of the ensemble."""

    RENAMED: ClassVar[dict[str, str]] = {"learning_rate": "lr"}

    trees: int = Field(default=80, ge=1, description="number of trees")
    leaves: int = Field(default=31, ge=2, description="leaves of a tree")
    lr: float = Field(default=0.1, gt=0, description="shrinkage of each tree")
    min_rows: int = Field(default=100, ge=1, description="least rows in a leaf")
    tweedie_power: float = Field(default=1.5, gt=1, lt=2, description="variance power of the Tweedie loss")
    smoothing: float = Field(default=200.0, gt=0, description="rows of prior behind each category's target mean")
    mean_folds: int = Field(default=4, ge=2, description="parts whose target means come from the other parts")
    pairs: bool = Field(default=True, description="also encode pairs of state columns")


@dataclass
class StateMeans:
    """Smoothed mean reward per category, and per pair of categories, of the training rows."""

    columns: list[tuple[str, ...]]
    tables: list[dict[str, float]]  # joined category values → mean
    numeric: list[str]
    prior: float

    @classmethod
    def fit(cls, frame: pd.DataFrame, spec: RequestSpec, smoothing: float, pairs: bool) -> StateMeans:
        """Means shrunk towards the overall one by ``smoothing`` rows."""
        names = [name for name, kind in spec.state.items() if kind == "category"]
        columns: list[tuple[str, ...]] = [(name,) for name in names]
        columns += list(combinations(names, 2)) if pairs else []
        reward = frame[spec.reward].to_numpy(np.float64)
        prior, tables = float(reward.mean()), []
        for group in columns:
            codes, values = _codes(frame, group)
            total, count = np.bincount(codes, weights=reward), np.bincount(codes)
            means = (total + smoothing * prior) / (count + smoothing)
            tables.append(dict(zip(values, means.tolist())))
        return cls(columns, tables, [name for name, kind in spec.state.items() if kind == "numeric"], prior)

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Features float64 (M, F); a category not seen in training has the overall mean."""
        features = []
        for group, table in zip(self.columns, self.tables):
            codes, values = _codes(frame, group)
            features.append(np.array([table.get(value, self.prior) for value in values])[codes])
        features += [frame[name].to_numpy(np.float64) for name in self.numeric]
        return np.stack(features, axis=1) if features else np.zeros((len(frame), 0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"columns": self.columns, "tables": self.tables, "numeric": self.numeric, "prior": self.prior}

    @classmethod
    def from_dict(cls, values: dict[str, Any], spec: RequestSpec) -> StateMeans:
        """What ``to_dict`` described; columns that the spec does not declare are a UserError."""
        require_keys(values, {"columns", "tables", "numeric", "prior"}, what="means")
        columns, tables = [tuple(group) for group in values["columns"]], values["tables"]
        categories = {name for name, kind in spec.state.items() if kind == "category"}
        known = all(group and set(group) <= categories for group in columns)
        numbers = all(isinstance(mean, float) for table in tables for mean in table.values())
        if not known or not numbers or len(tables) != len(columns) or not isinstance(values["prior"], float):
            raise UserError(f"means of the columns {columns}; the config declares {sorted(categories)}: train again")
        if values["numeric"] != [name for name, kind in spec.state.items() if kind == "numeric"]:
            raise UserError(f"numeric columns {values['numeric']}; the config declares others: train again")
        return cls(columns, tables, values["numeric"], values["prior"])


def _codes(frame: pd.DataFrame, group: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Code of each row's joined categories and the joined text of each code."""
    parts = [_column_codes(frame[name]) for name in group]
    joint = parts[0][0].astype(np.int64)
    for codes, values in parts[1:]:
        joint = joint * len(values) + codes
    codes, distinct = pd.factorize(joint)
    first = np.full(len(distinct), len(frame), dtype=np.int64)
    np.minimum.at(first, codes, np.arange(len(frame)))
    texts = [np.asarray(values, dtype=object)[part[first]] for part, values in parts]
    return codes, ["\x1f".join(map(str, row)) for row in zip(*texts)]


def _column_codes(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(np.int64), column.cat.categories.astype(str).to_numpy(dtype=object)
    codes, values = pd.factorize(column.astype(str))
    return codes, np.asarray(values, dtype=object)


@dataclass
class TreeModel:
    """A fitted ensemble of trees as flat arrays; log link: score = exp(sum of leaves)."""

    means: StateMeans
    shape: tuple[int, ...]
    roots: np.ndarray  # int64 (trees,) first node of each tree
    feature: np.ndarray  # int64 (nodes,); −1: leaf
    threshold: np.ndarray  # float64 (nodes,): left when feature ≤ threshold; a leaf's value
    left: np.ndarray  # int64 (nodes,)
    right: np.ndarray  # int64 (nodes,)

    def values(self, states: pd.DataFrame) -> np.ndarray:
        """Expected revenue of every joint action, float32 (S, A)."""
        features = np.ascontiguousarray(self.means.transform(states))
        arrays = (self.roots, self.feature, self.threshold, self.left, self.right)
        return np.asarray(np.exp(_box_scores(features, np.array(self.shape), *arrays)).astype(np.float32))

    def rows(self, frame: pd.DataFrame, spec: RequestSpec) -> np.ndarray:
        """Expected revenue of each row's own state and action, float64 (M,)."""
        features = np.concatenate([self.means.transform(frame), frame[list(spec.sub_actions)].to_numpy(np.float64)], 1)
        return np.asarray(
            np.exp(_row_scores(features, self.roots, self.feature, self.threshold, self.left, self.right))
        )

    def payload(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        return {"means": self.means.to_dict(), "shape": list(self.shape), **arrays}

    @classmethod
    def from_payload(cls, payload: dict[str, Any], spec: RequestSpec) -> TreeModel:
        """What ``payload`` described; content that does not fit the spec or itself is a UserError."""
        require_keys(payload, {"means", "shape", *_ARRAYS})
        if tuple(payload["shape"]) != spec.shape:
            raise UserError(f"shape {payload['shape']}; expected {list(spec.shape)}: train again")
        means, arrays = StateMeans.from_dict(payload["means"], spec), [payload[name].numpy() for name in _ARRAYS]
        _check_nodes(len(means.columns) + len(means.numeric) + len(spec.shape), *arrays)
        return cls(means, spec.shape, *arrays)


_ARRAYS = ("roots", "feature", "threshold", "left", "right")


def _check_nodes(
    features: int, roots: np.ndarray, feature: np.ndarray, threshold: np.ndarray, left: np.ndarray, right: np.ndarray
) -> None:
    """A UserError unless the nodes are whole trees: the compiled loops follow them unchecked.

    Each node is a leaf or leads to two later ones, and is once a root or a child: a root that got lost leaves a tree out.
    """
    nodes, inner = np.arange(len(feature)), feature >= 0
    kinds = [part.dtype for part in (roots, feature, threshold, left, right)]
    good = (
        kinds == [np.int64, np.int64, np.float64, np.int64, np.int64]
        and feature.shape == threshold.shape == left.shape == right.shape == (len(nodes),)
        and roots.ndim == 1
        and len(roots) > 0
        and bool(((feature >= -1) & (feature < features)).all())
        and bool(((left > nodes) & (right > nodes))[inner].all())
        and np.array_equal(np.sort(np.concatenate([roots, left[inner], right[inner]])), nodes)
    )
    if not good:
        raise UserError("trees: nodes, children and columns do not fit each other: train again")


def fit_trees(frame: pd.DataFrame, spec: RequestSpec, config: TreesConfig, seed: int, threads: int) -> TreeModel:
    """Fit on the rows of a request log.

    LightGBM's limits are absolute, so revenue far from 1 is counted in a power of a million near its mean.
    """
    import lightgbm

    unit = 1e6 ** round(math.log(float(frame[spec.reward].mean()), 1e6))
    frame = frame.assign(**{spec.reward: frame[spec.reward] / unit})
    means = StateMeans.fit(frame, spec, config.smoothing, config.pairs)
    encoded = _held_out_means(frame, spec, config, seed)
    features = np.concatenate([encoded, frame[list(spec.sub_actions)].to_numpy(np.float64)], axis=1)
    data = lightgbm.Dataset(features, frame[spec.reward].to_numpy(np.float64))
    parameters = {
        "objective": "tweedie",
        "tweedie_variance_power": config.tweedie_power,
        "num_leaves": config.leaves,
        "learning_rate": config.lr,
        "min_data_in_leaf": config.min_rows,
        "num_threads": threads,
        "seed": integer_seed(seed, "trees") % 2**31,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    booster = lightgbm.train(parameters, data, num_boost_round=config.trees)
    roots, feature, threshold, left, right = _flat(booster.dump_model())
    first = slice(0, roots[1] if len(roots) > 1 else len(feature))
    threshold[first] += np.where(feature[first] < 0, math.log(unit), 0.0)  # one leaf of the first tree is in every sum
    return TreeModel(means, spec.shape, roots, feature, threshold, left, right)


def _held_out_means(frame: pd.DataFrame, spec: RequestSpec, config: TreesConfig, seed: int) -> np.ndarray:
    """Features of the training rows, each from means that the row itself was not part of: else trees trust them too much."""
    part = numpy_generator(seed, "trees", "means").permutation(len(frame)) % config.mean_folds
    fitted = [StateMeans.fit(frame[part != k], spec, config.smoothing, config.pairs) for k in range(config.mean_folds)]
    pieces = [means.transform(frame[part == k]) for k, means in enumerate(fitted)]
    features = np.empty((len(frame), pieces[0].shape[1]))
    for k, piece in enumerate(pieces):
        features[part == k] = piece
    return features


def _flat(dump: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """LightGBM's nested trees as arrays."""
    nodes: list[list[float]] = []  # feature, threshold, left, right

    def add(node: dict[str, Any]) -> int:
        at, leaf = len(nodes), "leaf_value" in node
        nodes.append([-1, node["leaf_value"], -1, -1] if leaf else [node["split_feature"], node["threshold"], -1, -1])
        if not leaf:
            nodes[at][2:] = add(node["left_child"]), add(node["right_child"])
        return at

    roots = np.array([add(tree["tree_structure"]) for tree in dump["tree_info"]], dtype=np.int64)
    feature, threshold, left, right = np.array(nodes, dtype=np.float64).T.copy()
    return roots, feature.astype(np.int64), threshold, left.astype(np.int64), right.astype(np.int64)


@njit(nogil=True, cache=True)
def _row_scores(
    features: np.ndarray, roots: np.ndarray, feature: np.ndarray, threshold: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:  # fmt: skip
    scores = np.zeros(features.shape[0])
    for i in range(features.shape[0]):
        for root in roots:
            node = root
            while feature[node] >= 0:
                node = left[node] if features[i, feature[node]] <= threshold[node] else right[node]
            scores[i] += threshold[node]
    return scores


@njit(nogil=True, cache=True)
def _box_scores(
    features: np.ndarray, shape: np.ndarray, roots: np.ndarray, feature: np.ndarray, threshold: np.ndarray,
    left: np.ndarray, right: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Sum of leaves for every joint action of every state: a leaf covers a box ``low ≤ sub-actions < high``."""
    states, known = features.shape
    dims, size = len(shape), 1
    for d in range(dims):
        size *= shape[d]
    scores = np.zeros((states, size))
    deepest = len(feature) + 1
    stack = np.empty(deepest, np.int64)
    lows, highs = np.empty((deepest, dims), np.int64), np.empty((deepest, dims), np.int64)
    low, high = np.empty(dims, np.int64), np.empty(dims, np.int64)
    for s in range(states):
        for root in roots:
            stack[0], depth = root, 1
            lows[0], highs[0] = 0, shape
            while depth > 0:
                depth -= 1
                node = stack[depth]
                low[:], high[:] = lows[depth], highs[depth]
                while feature[node] >= 0:
                    f = feature[node] - known
                    if f < 0:
                        node = left[node] if features[s, feature[node]] <= threshold[node] else right[node]
                        continue
                    cut = np.int64(np.floor(threshold[node])) + 1  # values below cut go left
                    if cut >= high[f]:
                        node = left[node]
                    elif cut <= low[f]:
                        node = right[node]
                    else:
                        stack[depth] = right[node]
                        lows[depth], highs[depth] = low, high
                        lows[depth, f] = cut
                        depth += 1
                        high[f] = cut
                        node = left[node]
                _add_box(scores[s], shape, low, high, threshold[node])
    return scores


@njit(nogil=True, cache=True)
def _add_box(out: np.ndarray, shape: np.ndarray, low: np.ndarray, high: np.ndarray, amount: float) -> None:
    dims = len(shape)
    at = low.copy()
    while True:
        start = 0
        for d in range(dims):
            start = start * shape[d] + at[d]
        for j in range(high[dims - 1] - low[dims - 1]):
            out[start + j] += amount
        d = dims - 2
        while d >= 0:
            at[d] += 1
            if at[d] < high[d]:
                break
            at[d] = low[d]
            d -= 1
        if d < 0:
            return
