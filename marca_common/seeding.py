"""Named random generators: one seed, as many independent streams as there are names.

A stream depends only on the seed and its name, so adding a consumer never changes another one's numbers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, names: tuple[str | int, ...]) -> list[int]:
    digest = hashlib.blake2b("\x1f".join(map(str, names)).encode(), digest_size=16).digest()
    return [seed, *np.frombuffer(digest, dtype=np.uint32).tolist()]


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for the stream ``names`` under ``seed``."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_entropy(seed, names))))


def integer_seed(seed: int, *names: str | int) -> int:
    """A 63-bit integer for libraries that take one (LightGBM, numba kernels)."""
    return int(np.random.SeedSequence(_entropy(seed, names)).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """A torch generator for the stream ``names`` under ``seed``."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(integer_seed(seed, *names))
    return generator
