"""A request as the cascade sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Request:
    """Who asks and what is known of them now."""

    user: int
    films: np.ndarray  # rated so far, oldest first, int64 (n,)
    liked: np.ndarray  # the liked ones among them, int64 (m,)
    flags: np.ndarray  # which of ``films`` are liked, bool (n,)
    kept: np.ndarray  # the answer that is kept for the user; empty: none, int64 (k,)
