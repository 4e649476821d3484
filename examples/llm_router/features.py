"""What a prompt looks like as numbers: the directions of its words, and plain statistics of its text.

Words: counts of words and pairs of words, hashed, weighted by rarity (TF-IDF) and projected on the leading singular vectors
of the training prompts. Statistics: length, digits, capitals and the like tell one kind of task from another.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

BUCKETS = 2**18  # of the hashed words and pairs
LEAST_PROMPTS = 3  # a bucket of fewer training prompts says nothing
DIRECTIONS = 100  # singular vectors kept
WAVES = 300  # random Fourier features of the statistics
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class PromptFeatures:
    """Features fitted to training prompts, for any others."""

    buckets: np.ndarray  # int64 (V,) those with enough training prompts
    rarity: np.ndarray  # (V,) their weights
    directions: np.ndarray  # (V, K)
    middle: np.ndarray  # (16,) mean of each statistic
    spread: np.ndarray  # (16,)
    frequencies: np.ndarray  # (16, WAVES)
    phases: np.ndarray  # (WAVES,)
    domains: list[str]

    @classmethod
    def fit(cls, texts: list[str], domains: list[str], generator: np.random.Generator) -> PromptFeatures:
        """Rarity, directions, scales and the known domains of training prompts."""
        counts, plain = word_counts(texts), statistics(texts)
        prompts = np.bincount(counts.indices, minlength=BUCKETS)
        buckets = np.flatnonzero(prompts >= LEAST_PROMPTS)
        rarity = 1.0 + np.log((1.0 + len(texts)) / (1.0 + prompts[buckets]))
        size = plain.shape[1]
        return cls(
            buckets,
            rarity,
            _directions(_weighted(counts[:, buckets], rarity), generator),
            plain.mean(axis=0),
            plain.std(axis=0) + 1e-9,
            generator.standard_normal((size, WAVES)) / np.sqrt(size),
            generator.uniform(0.0, 2 * np.pi, WAVES),
            sorted(set(domains)),
        )

    def of(self, texts: list[str], domains: list[str]) -> np.ndarray:
        """Features of prompts: directions of words, one column per known domain, waves; (S, K + domains + WAVES)."""
        words = _weighted(word_counts(texts)[:, self.buckets], self.rarity) @ self.directions
        known = np.array(domains, dtype=object)[:, None] == np.array(self.domains, dtype=object)
        angle = (statistics(texts) - self.middle) / self.spread @ self.frequencies + self.phases
        return np.hstack([words, known, np.sqrt(2.0 / WAVES) * np.cos(angle)])


def word_counts(texts: list[str]) -> sparse.csr_array:
    """1 + log of how often a prompt has each word, each pair of words, and its first and last ones; (S, BUCKETS)."""
    found = [Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in _grams(text)) for text in texts]
    ends = np.cumsum([0, *map(len, found)])
    buckets = np.fromiter((bucket for one in found for bucket in one), np.int64, ends[-1])
    times = np.fromiter((count for one in found for count in one.values()), np.float64, ends[-1])
    return sparse.csr_array((1.0 + np.log(times), buckets, ends), shape=(len(texts), BUCKETS))


def _grams(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    pairs = [f"2 {one} {other}" for one, other in pairwise(words)]
    ends = [f"first {' '.join(words[:1])}", f"first two {' '.join(words[:2])}", f"last {' '.join(words[-1:])}"]
    return [f"1 {word}" for word in words] + pairs + ends


def statistics(texts: list[str]) -> np.ndarray:
    """Plain numbers of each text, float64 (S, 16)."""
    return np.array([_statistics(text) for text in texts], dtype=np.float64)


def _statistics(text: str) -> list[float]:
    words, size = text.split(), max(len(text), 1)
    count, end = max(len(words), 1), text.rstrip()[-1:]
    kinds = [sum(map(test, text)) / size for test in (str.isdigit, str.isupper, str.isalnum, str.isspace)]
    marks = [float(text.count(mark)) for mark in "?$\\(,"]
    lengths = [np.log1p(size), np.log1p(count), size / count, len(set(words)) / count]
    return [*lengths, *kinds, text.count("\n") / size, *marks, float(end == "?"), float(end == ".")]


def _weighted(counts: sparse.csr_array, rarity: np.ndarray) -> sparse.csr_array:
    """Counts times rarity, each row of length 1."""
    weighted = counts.multiply(rarity[None]).tocsr()
    length = np.sqrt(weighted.multiply(weighted).sum(axis=1))
    return sparse.csr_array(weighted.multiply(1.0 / np.maximum(length, 1e-12)[:, None]))


def _directions(weighted: sparse.csr_array, generator: np.random.Generator) -> np.ndarray:
    """Leading right singular vectors, by a random start and power iterations (Halko, Martinsson and Tropp 2011)."""
    size = min(DIRECTIONS + 20, *weighted.shape)
    basis = weighted @ generator.standard_normal((weighted.shape[1], size))
    for _ in range(3):
        basis = weighted @ (weighted.T @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    return np.asarray(np.linalg.svd(basis.T @ weighted, full_matrices=False)[2][:DIRECTIONS].T)
