"""Samples per second of every learner's update: `python -m benchmarks.train_throughput [--quick]`.

Batch 2048, recurrent width 256, K = 20 (the paper's sizes; Q heads straight on the recurrent state), the shape of the open
world's log. `share_of_bound`: against the same sizes' matrix products alone (forward, both gradients, and the target's
forward where there is one), timed in the same run, both
by CPU time, so that other work on the machine counts less. AWRQ-Mixer has a row in bf16, too, where the device multiplies it.
`--device cuda` times a GPU.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from awrq_mixer.config import OptimiserConfig, TrainConfig
from awrq_mixer.learners import LEARNERS
from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.agents import initialise
from awrq_mixer.networks.space import Space
from awrq_mixer.training.training_state import make_optimiser
from benchmarks._results import add_keep
from marca_common.compute import keep_freed_memory, multiplies_bf16, resolve_device, set_threads
from marca_common.run_folder import versions
from marca_common.seeding import torch_generator
from marca_common.tables import write_table
from marca_common.torch_seeding import use_generator

SPACE = Space((101, 7, 401, 3), 0, ((4, 5, 5, 2), (5,)))
QUICK = ["dqn", "qmix", "awrq_mixer", "regression"]


def main() -> None:
    """Time every learner and write train_throughput.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four learners, a few updates each")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="AWRQ-Mixer also compiled (minutes)")
    add_keep(parser)
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    keep_freed_memory()
    seconds = 2.0 if arguments.quick else 10.0
    bound, bound_core = product_bound(arguments, seconds)
    rows = []
    for name in QUICK if arguments.quick else LEARNERS:
        for precision, compiled in _variants(name, arguments):
            per_s, per_core = throughput(name, precision, compiled, arguments, seconds)
            share = per_core / bound_core if name == "awrq_mixer" else None
            rows.append(
                {
                    "learner": name,
                    "precision": precision,
                    "compiled": compiled,
                    "samples_per_s": per_s,
                    "samples_per_core_s": per_core,
                    "share_of_bound": share,
                }
            )
            print(
                f"{name:<24} {precision} compiled={compiled} {per_s:>9.0f} samples/s {per_core:>9.0f} per core",
                flush=True,
            )
    table = pd.DataFrame(rows).assign(
        bound_samples_per_s=bound,
        bound_samples_per_core_s=bound_core, batch=arguments.batch, hidden=arguments.hidden, heads=arguments.heads,
        threads=arguments.threads, device=arguments.device, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        torch=versions()["torch"], cpus=versions()["cpus"], seed=0,
    )  # fmt: skip
    write_table(table, arguments.results / "train_throughput.csv")


def _variants(name: str, arguments: argparse.Namespace) -> list[tuple[str, bool]]:
    both = [("fp32", False)]
    if name == "awrq_mixer" and multiplies_bf16(resolve_device(arguments.device)):
        both += [("bf16", False)]
    return both + [(precision, True) for precision, _ in both if arguments.compile and name == "awrq_mixer"]


def throughput(
    name: str, precision: str, compiled: bool, arguments: argparse.Namespace, seconds: float
) -> tuple[float, float]:
    """Updates (target, loss, gradients, clipping, Adam) in samples per second of the wall, and of a core."""
    device = resolve_device(arguments.device)
    learner, batch = make(name, arguments, device)
    optimiser = make_optimiser(learner, OptimiserConfig())
    loss_of = torch.compile(learner.loss) if compiled else learner.loss

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = loss_of(batch)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learner.online.parameters(), 1.0)
        optimiser.step()

    return _per_second(update, arguments.batch, seconds, device)


def make(name: str, arguments: argparse.Namespace, device: torch.device) -> tuple[Learner, Batch]:
    """A learner of the asked sizes and a random batch."""
    config = TrainConfig.model_validate(
        {
            "learner": name,
            "network": {"hidden": arguments.hidden, "heads": arguments.heads, "oov_rate": 0.0},
            "plus": {"surrogate": "predicted_value" if name == "latent_classes" else None},
        }
    )
    g = torch_generator(0, "throughput")
    rows = arguments.batch

    def draw(n: int) -> torch.Tensor:
        return torch.randint(0, n, (rows,), generator=g)

    codes = torch.stack([draw(n) for n in SPACE.categories], 1)
    actions = torch.stack([draw(n) for n in SPACE.sizes], 1)
    reward = torch.rand(rows, generator=g) * (torch.rand(rows, generator=g) < 0.3)
    batch = Batch(codes, torch.zeros(rows, 0), actions, reward, torch.rand(rows, generator=g)).to(device)
    learner = LEARNERS[name](SPACE, config).to(device)
    initialise(learner, "torch", g)
    learner.generator = torch_generator(0, "noise", device=device.type)
    learner.prepare(batch, torch.full((SPACE.n_joint,), 1 / SPACE.n_joint, device=device))
    use_generator(learner, learner.generator)
    return learner.train(), batch


def product_bound(arguments: argparse.Namespace, seconds: float) -> tuple[float, float]:
    """As throughput, for samples per second of AWRQ-Mixer's matrix products alone: agents' input, recurrence and heads, online 3×, target 1×."""
    device, b, h, k = resolve_device(arguments.device), arguments.batch, arguments.hidden, arguments.heads
    shapes = [(64, 3 * h)] * 2 + [(h, 3 * h)] * 3 + [(h, k * n) for n in SPACE.sizes]
    pairs = [(torch.randn(b, i, device=device), torch.randn(i, o, device=device)) for i, o in shapes]
    gradients = [torch.randn(b, o, device=device) for _, o in shapes]

    def products() -> None:
        for (x, w), g in zip(pairs, gradients):
            x @ w  # target
            x @ w  # online
            x.T @ g  # gradient of the weights
            g @ w.T  # gradient of the input

    return _per_second(products, b, seconds, device)


def _per_second(work: Callable[[], Any], items: int, seconds: float, device: torch.device) -> tuple[float, float]:
    """Items per wall-clock second, and per second of CPU time of this process (all its threads added up)."""
    for _ in range(2):
        work()
    _wait(device)
    start, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        work()
        done += items
    _wait(device)
    return done / (time.perf_counter() - start), done / (time.process_time() - cpu)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
