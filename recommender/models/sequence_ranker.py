"""The large ranker: a recurrent network over the history, to which each candidate attends."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from marca_common.progress import progress
from marca_common.seeding import numpy_generator, torch_generator
from recommender.config import ModelsConfig
from recommender.models.taste_models import FEATURES
from recommender.request import Request

_BATCH = 64


class SequenceRanker(nn.Module):
    """GRU over the last ``sequence`` films → attention from each candidate → network over all, plus candidate times last state."""

    def __init__(self, films: int, factors: int, width: int, sequence: int) -> None:
        super().__init__()
        self.sequence = sequence
        self.nothing = films  # in place of a film
        self.film = nn.Embedding(films + 1, factors, padding_idx=films)
        self.flag = nn.Embedding(2, factors)
        self.memory = nn.GRU(factors, width, batch_first=True)
        self.query = nn.Linear(factors, width)
        self.score = nn.Sequential(
            nn.Linear(factors + 2 * width + len(FEATURES), width), nn.ReLU(), nn.Linear(width, 1)
        )
        self.mean = nn.Buffer(torch.zeros(len(FEATURES)))
        self.scale = nn.Buffer(torch.ones(len(FEATURES)))

    def forward(self, history: Tensor, flags: Tensor, films: Tensor, features: Tensor) -> Tensor:
        """Logits (B, C) of candidates ``films`` (B, C) with ``features`` (B, C, F); ``history``, ``flags`` (B, T).

        Shorter histories are filled up at their end, so that no state depends on what fills them.
        """
        nothing = torch.eq(history, self.nothing)
        length = (~nothing).sum(dim=1).clamp(min=1)
        states = self.memory(self.film(history) + self.flag(flags))[0]  # (B, T, W)
        last = states[torch.arange(len(states)), length - 1][:, None]  # (B, 1, W)
        own = self.film(films)  # (B, C, D)
        query = self.query(own) / states.shape[2] ** 0.5
        weight = query @ states.transpose(1, 2)  # (B, C, T)
        weight = weight.masked_fill(nothing[:, None, :], -1e9).softmax(dim=2)
        known = (features - self.mean) / self.scale
        parts = [own, weight @ states, last.expand(-1, own.shape[1], -1), known]
        logits: Tensor = self.score(torch.cat(parts, dim=2))[:, :, 0] + (query * last).sum(dim=2)
        return logits

    def read(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """The end of the history and its like flags, int64 (T,), at least one place."""
        films, flags = request.films[-self.sequence :], request.flags[-self.sequence :].astype(np.int64)
        if not len(films):
            return np.array([self.nothing]), np.zeros(1, np.int64)
        return films, flags

    @torch.inference_mode()
    def rank_scores(self, request: Request, films: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Scores (n,) of candidates (n,) with features (n, F)."""
        history, flags = (torch.from_numpy(part)[None] for part in self.read(request))
        known = torch.from_numpy(features.astype(np.float32))[None]
        return np.asarray(self(history, flags, torch.from_numpy(films)[None], known)[0].numpy().astype(np.float64))


def fit_sequence_ranker(
    requests: list[Request], films: np.ndarray, features: np.ndarray, liked: np.ndarray, vectors: np.ndarray,
    config: ModelsConfig, seed: int,
) -> SequenceRanker:  # fmt: skip
    """Train on requests (V), candidates (V, C; −1: none), their features (V, C, F) and likes (V, C).

    Film vectors begin as those of ALS (I, D).
    """
    network = _begun(vectors, features[films >= 0], config, seed)
    read = [network.read(request) for request in requests]
    history = np.full((len(read), config.sequence), network.nothing)
    flags = np.zeros_like(history)
    for row, (one, flag) in enumerate(read):
        history[row, : len(one)], flags[row, : len(one)] = one, flag
    there = films >= 0
    parts = [torch.from_numpy(x) for x in (history, flags, np.where(there, films, network.nothing))]
    known, label = (torch.from_numpy(x.astype(np.float32)) for x in (features, liked))
    mask = torch.from_numpy(there)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.01)
    order = numpy_generator(seed, "large order")
    starts = range(0, len(read), _BATCH)
    for _ in progress(range(config.epochs), what="large ranker", unit="epoch"):
        rows = torch.from_numpy(order.permutation(len(read)))
        for first in starts:
            at = rows[first : first + _BATCH]
            logits = network(*(part[at] for part in parts), known[at])
            chance = logits.masked_fill(~mask[at], -1e9).log_softmax(dim=1)
            loss = -(label[at] * chance).sum() / label[at].sum().clamp(min=1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def _begun(vectors: np.ndarray, features: np.ndarray, config: ModelsConfig, seed: int) -> SequenceRanker:
    network = SequenceRanker(len(vectors), vectors.shape[1], config.width, config.sequence)
    generator = torch_generator(seed, "large weights")
    for name, weight in network.named_parameters():
        if name != "film.weight":
            bound = weight.shape[-1] ** -0.5
            nn.init.uniform_(weight, -bound, bound, generator=generator)
    with torch.no_grad():
        network.film.weight[:-1] = torch.from_numpy(vectors / max(vectors.std(), 1e-9) * 0.3)
        network.film.weight[-1] = 0
    network.mean.copy_(torch.from_numpy(features.mean(axis=0)))
    network.scale.copy_(torch.from_numpy(np.maximum(features.std(axis=0), 1e-6)))
    return network
