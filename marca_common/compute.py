"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import os

import torch

from marca_common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """``auto`` takes CUDA when there is one; ``cuda`` without one is a UserError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: got 'cuda'; this machine has no usable CUDA device (use cpu or auto)")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def take_own_gpu() -> None:
    """Of several GPUs of a machine, each rank that ``torchrun`` starts there works on one of its own."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16 products; without them they are many times slower than single precision."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def set_threads(threads: int) -> None:
    """Number of threads torch uses inside one operation; a busy core makes more threads slower, not faster."""
    torch.set_num_threads(threads)
