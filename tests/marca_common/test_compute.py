"""What a process is told about memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource

import torch

from marca_common.compute import keep_freed_memory


def update():
    held = [torch.ones(2**22) for _ in range(10)]  # 160 MB, freed together


keep_freed_memory()
for _ in range(3):
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_taken_again_without_the_system() -> None:
    """Ten rounds of 40,960 pages; most often nearly all of them come new from the system where nothing is kept."""
    done = subprocess.run([sys.executable, "-c", ROUNDS], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 4096
