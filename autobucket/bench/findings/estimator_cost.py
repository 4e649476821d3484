"""What the estimator itself costs per request: predicting the results of all joint actions is computation, too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from marca_common.seeding import numpy_generator

if TYPE_CHECKING:
    from autobucket.results.estimator import Estimator


def estimator_cost(checkpoint: Path, requests: int, seed: int) -> dict[str, float]:
    """Core-ms per request of scoring every joint action, one request at a time and all at once; CPU clock, one thread."""
    import torch  # only here: a bench without an estimator starts without it

    from autobucket.results.estimator import Estimator

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        estimator = Estimator.load(checkpoint)
        states = _states(estimator, requests, seed)
        estimator.results(states.head(2))  # first calls allocate
        started = time.process_time()
        for i in range(requests):
            estimator.results(states.iloc[[i]])
        single = time.process_time() - started
        started = time.process_time()
        estimator.results(states)
        batch = time.process_time() - started
        joint = len(estimator.spec.joint_table())
    finally:
        torch.set_num_threads(threads)
    return {"joint_actions": joint, "single_ms": 1000 * single / requests, "batched_ms": 1000 * batch / requests}


def _states(estimator: Estimator, requests: int, seed: int) -> pd.DataFrame:
    """Made-up states out of the categories that the estimator knows."""
    generator = numpy_generator(seed, "autobucket", "bench", "states")
    encoder = estimator.encoder
    columns = {name: generator.choice(words, requests) for name, words in encoder.vocabularies.items()}
    columns |= {name: generator.normal(encoder.means[name], encoder.scales[name], requests) for name in encoder.means}
    return pd.DataFrame(columns)
