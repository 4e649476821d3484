"""One request served, with the CPU that each service took for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from recommender.cascade.action_space import Setting
from recommender.cascade.stages import Cascade
from recommender.request import Request


@dataclass(frozen=True)
class Served:
    """An answer and what it cost."""

    page: np.ndarray  # films, best first, int64 (at most ``slots``,)
    retrieved: int
    preranked: int
    cpu_ms: tuple[float, float]  # retrieval, ranking; core-milliseconds of the whole process


def serve_accounted(cascade: Cascade, request: Request, setting: Setting) -> Served:
    """As ``cascade.serve``, with the process' clock read between retrieval and ranking. The kept answer is retrieval."""
    start = time.process_time_ns()
    if setting.cached:
        page = cascade.kept_answer(request)
        return Served(page, 0, 0, ((time.process_time_ns() - start) / 1e6, 0.0))
    films, fused = cascade.channels.retrieve(request, setting)
    between = time.process_time_ns()
    kept = cascade.prerank(request, films, setting.truncation)
    page = cascade.rank(request, films[kept], fused[kept], setting.ranker)
    end = time.process_time_ns()
    return Served(page, len(films), int(kept.sum()), ((between - start) / 1e6, (end - between) / 1e6))
