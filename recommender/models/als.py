"""Matrix factorisation of likes by alternating least squares (Hu, Koren and Volinsky, ICDM 2008).

Written here because a request needs the same ten lines, to fold in what its user has liked since the fit.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse


def fit_als(
    likes: sparse.csr_matrix, factors: int, confidence: float, ridge: float, sweeps: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users (U, factors) and films (I, factors), float64, of a 0/1 matrix of likes (U, I)."""
    films = generator.normal(0, 0.1, (likes.shape[1], factors))
    turned = likes.T.tocsr()
    for _ in range(sweeps):
        users = _solved(likes, films, confidence, ridge)
        films = _solved(turned, users, confidence, ridge)
    return _solved(likes, films, confidence, ridge), films


def fold_in(liked: np.ndarray, films: np.ndarray, gram: np.ndarray, confidence: float) -> np.ndarray:
    """The vector (d,) of who liked the films ``liked`` (m,); ``gram`` is films' films plus the ridge (d, d).

    Minimises Σ_i c_i (p_i − x·y_i)² + ridge |x|² with p = 1 and c = 1 + confidence for likes, p = 0 and c = 1 for others.
    """
    own = films[liked]
    return np.asarray(np.linalg.solve(gram + confidence * own.T @ own, (1 + confidence) * own.sum(axis=0)))


def gram_of(films: np.ndarray, ridge: float) -> np.ndarray:
    """What ``fold_in`` needs of all films together (d, d)."""
    return np.asarray(films.T @ films + ridge * np.eye(films.shape[1]))


def _solved(likes: sparse.csr_matrix, other: np.ndarray, confidence: float, ridge: float) -> np.ndarray:
    gram = gram_of(other, ridge)
    rows = np.split(likes.indices, likes.indptr[1:-1])
    return np.stack([fold_in(row, other, gram, confidence) for row in rows])
