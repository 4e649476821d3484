"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import ctypes
import os

import torch

from marca_common.errors import UserError

# glibc's mallopt: its number of a setting, and bytes
_KEEP = {"M_TRIM_THRESHOLD": (-1, 512 << 20), "M_TOP_PAD": (-2, 64 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}


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


def keep_freed_memory() -> None:
    """Keep what is freed for the next array: an update takes and frees the same megabytes again and again.

    glibc would give them back to the system, which clears every page before it is taken again. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for number, size in _KEEP.values():
            mallopt(number, size)
