"""The example service's models and items: what a small cascade really computes, in numpy, on one thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHANNELS = {"similar": 20_000, "popular": 12_000, "behaviour": 24_000, "graph": 28_000}  # channel → items in its index
DIMENSIONS = {"light": 16, "heavy": 40}  # width of the vectors that a retrieval model scans
HIDDEN = {"light": (512,), "heavy": (768, 256)}  # hidden units of the network that scores what it found
WIDTH = 40  # full item and user vector
N_ITEMS = 30_000
SLOTS = 24


@dataclass
class Network:
    """A plain ReLU network that ends in one score."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]

    @classmethod
    def make(cls, generator: np.random.Generator, sizes: tuple[int, ...]) -> Network:
        """Random weights; what it computes costs what a trained one would."""
        pairs = list(zip(sizes, (*sizes[1:], 1)))
        weights = [generator.normal(0, (2 / a) ** 0.5, (a, b)).astype(np.float32) for a, b in pairs]
        return cls(weights, [np.zeros(b, np.float32) for _, b in pairs])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scores (n,) of rows (n, d)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            x = np.maximum(x @ weight + bias, 0)
        scores: np.ndarray = (x @ self.weights[-1] + self.biases[-1])[:, 0]
        return scores


def user_vector(user: int) -> np.ndarray:
    """The user's vector (WIDTH,), the same for the same user."""
    return np.random.default_rng(user).normal(size=WIDTH).astype(np.float32)


def supply(user: int, channel: str, value: str) -> int:
    """Candidates that a channel holds for a user; more for valuable ones, who left more traces."""
    generator = np.random.default_rng([user, list(CHANNELS).index(channel)])
    return int(generator.integers(30, 100)) + {"low": 0, "mid": 10, "high": 20}.get(value, 0)


def item_vectors() -> np.ndarray:
    """All items (N_ITEMS, WIDTH)."""
    return np.random.default_rng(1).normal(size=(N_ITEMS, WIDTH)).astype(np.float32)


class Retrieval:
    """Channels over item matrices, merged, de-duplicated and scored by the light or heavy model."""

    def __init__(self) -> None:
        generator = np.random.default_rng(2)
        self.vectors = item_vectors()
        self.items = {name: generator.permutation(N_ITEMS)[:n] for name, n in CHANNELS.items()}
        self.index = {
            (name, model): np.ascontiguousarray(self.vectors[self.items[name], :d])
            for name in CHANNELS
            for model, d in DIMENSIONS.items()
        }
        self.networks = {name: Network.make(generator, (2 * WIDTH, *hidden)) for name, hidden in HIDDEN.items()}

    def __call__(self, user: int, value: str, lengths: dict[str, int], model: str) -> tuple[np.ndarray, np.ndarray]:
        """(ids, scores) of the items found, best first; at most ``lengths[channel]`` from each channel."""
        vector = user_vector(user)
        parts = [
            self._channel(name, min(length, supply(user, name, value)), vector, model)
            for name, length in lengths.items()
        ]
        ids = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
        scores = self.networks[model](pairs(vector, self.vectors[ids]))
        order = np.argsort(-scores)
        return ids[order], scores[order]

    def _channel(self, name: str, length: int, vector: np.ndarray, model: str) -> np.ndarray:
        query = np.roll(vector, 9 * list(CHANNELS).index(name))  # every channel looks for something else
        found = self.index[name, model] @ query[: DIMENSIONS[model]]
        best = np.argpartition(-found, length)[:length]
        return self.items[name][best]


class Ranking:
    """Pre-ranking network over all that was retrieved, truncation, ranking network, and a diverse page."""

    def __init__(self) -> None:
        generator = np.random.default_rng(3)
        self.vectors = item_vectors()
        self.preranking = Network.make(generator, (2 * WIDTH, 96))
        self.ranking = Network.make(generator, (2 * WIDTH, 768, 384))

    def __call__(self, user: int, ids: np.ndarray, truncation: int, degradation: float) -> tuple[np.ndarray, int]:
        """(page, items ranked): the ids shown, and how many the ranker scored."""
        vector = user_vector(user)
        features = pairs(vector, self.vectors[ids])
        kept = np.argsort(-self.preranking(features))[:truncation]
        scores = self.ranking(features[kept])
        order = kept[np.argsort(-scores)]
        return self._page(ids[order], degradation), len(kept)

    def _page(self, ids: np.ndarray, degradation: float) -> np.ndarray:
        """Slots filled one by one, away from what is shown already; each level of degradation halves the diverse part."""
        slots = min(SLOTS, len(ids))
        diverse = int(slots * 0.5 ** max(degradation, 0.0)) if degradation > 0 else slots
        page, rest = [0], list(range(1, len(ids[: 2 * SLOTS])))
        vectors = self.vectors[ids[: 2 * SLOTS]]
        while len(page) < diverse and rest:
            likeness = (vectors[rest] @ vectors[page].T).max(axis=1)
            page.append(rest.pop(int(np.argmin(likeness + 0.1 * np.arange(len(rest))))))
        return ids[page + rest[: slots - len(page)]]


def pairs(vector: np.ndarray, items: np.ndarray) -> np.ndarray:
    """User beside item, (n, 2 · WIDTH)."""
    return np.concatenate([np.broadcast_to(vector, items.shape), items], axis=1)
