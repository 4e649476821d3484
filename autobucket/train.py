"""Train the action-result estimator: `python -m autobucket.train --config configs/autobucket/default.yaml`."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autobucket.evaluate import metrics_table
from autobucket.results.estimator import Estimator, build_model
from autobucket.results.estimator_config import TrainConfig
from autobucket.results.log_rows import EncodedRows, encode, read_log, require_learnable, split
from autobucket.results.tasks import Task
from marca_common.checkpoint import (
    check_weights,
    content_of,
    generator_state,
    load_checkpoint,
    load_optimiser,
    load_weights,
    require_keys,
    restore_generator,
    restore_plain,
    save_checkpoint,
)
from marca_common.cli import run_cli
from marca_common.compute import resolve_device, set_threads, take_own_gpu
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.progress import MetricsLog, progress
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder
from marca_common.seeding import torch_generator
from marca_common.shared_batches import averaged, require_as_many, require_shareable, shareable
from marca_common.spread import is_flat
from marca_common.tables import write_table
from marca_common.torch_seeding import use_generator

_RESUME = "autobucket-training"
_PLAIN = ["evaluation", "best", "kept", "snapshots", "seconds", "cpu_seconds", "rows_seen"]
_EVALUATION_BATCH = 8192


@dataclass
class TrainResult:
    """A finished training."""

    estimator: Estimator
    summary: dict[str, Any]
    out: Path


def train(config: TrainConfig, out: str | Path) -> TrainResult:
    """Learn what actions result in from a request log (MMoE over DCN, Appendix B); each task stops by itself.

    Writes ``estimator.pt``, ``metrics.csv``, ``evaluation.csv`` (test rows) and ``summary.json``; an interrupted run
    goes on from its last evaluation, a finished one is returned as it is. Start it with
    ``torchrun --standalone --nproc-per-node N -m autobucket.train …`` to share every batch among N processes.
    """
    set_threads(config.threads)
    take_own_gpu()
    run = RunFolder(out, config, resumes_from="last.pt")
    with Ranks() as ranks:
        require_shareable("optimiser.batch_size", config.optimiser.batch_size, ranks)
        with ranks.folder(run):
            finished = run.path / "summary.json"
            if ranks.lead(lambda: run.resuming and finished.exists()):
                return ranks.each(
                    lambda: TrainResult(Estimator.load(run.path / "estimator.pt"), read_json(finished), run.out)
                )
            training = ranks.each(lambda: _Training(config, run, ranks))
            training.loop()
            estimator = training.estimator()
            return TrainResult(estimator, ranks.lead(lambda: training.finish(estimator)), run.out)


class _Training:
    """Everything that an interrupted training must find again."""

    def __init__(self, config: TrainConfig, run: RunFolder, ranks: Ranks) -> None:
        self.config, self.run, self.ranks = config, run, ranks
        self.device = resolve_device(config.device)
        frame = read_log(config.data, config.tasks)
        train_frame, validation_frame, test_frame = split(config.data, frame)
        config.data.spec.require_rows(len(train_frame), config.data.requests)
        for part in (train_frame, validation_frame):
            require_learnable(config.data, part, config.tasks)
        self.test_frame = test_frame if len(test_frame) else validation_frame
        spec = config.data.spec
        self.encoder = StateEncoder.fit(train_frame, spec.state, str(config.data.requests))
        self.rows = encode(train_frame, self.encoder, spec, config.tasks).to(self.device)
        self.validation = encode(validation_frame, self.encoder, spec, config.tasks).to(self.device)
        labels, joint = self.rows.labels.cpu().numpy(), self.rows.joint.cpu().numpy()
        self.tasks = [
            Task.fit(name, task, labels[:, t], joint, spec.n_joint)
            for t, (name, task) in enumerate(config.tasks.items())
        ]
        self._say_what_is_odd(labels)
        self.model = build_model(config, self.encoder, torch_generator(config.seed, "autobucket", "weights"))
        self.model.to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.optimiser.lr, weight_decay=config.optimiser.weight_decay, fused=True
        )
        self.order = torch_generator(config.seed, "autobucket", "order")
        self.noise = torch_generator(config.seed, "autobucket", "dropout", device=str(self.device))
        use_generator(self.model, self.noise, ranks.rank, ranks.size)
        self.evaluation = self.steps = 0
        self.best = [math.inf] * len(self.tasks)
        self.kept = [-1] * len(self.tasks)  # evaluation whose weights a task keeps
        self.snapshots: dict[int, dict[str, Tensor]] = {}
        self.seconds = self.cpu_seconds = 0.0  # in training steps: wall time, and CPU time of all ranks
        self.rows_seen = 0
        if run.resuming and (run.path / "last.pt").exists():
            self._restore()

    def _say_what_is_odd(self, labels: np.ndarray) -> None:
        for note in self.encoder.constant_columns():
            self.run.warn(note)
        for j, (name, size) in enumerate(self.config.data.spec.sizes.items()):
            values = torch.unique(self.rows.actions[:, j])
            if size > 1 and len(values) == 1:
                self.run.warn(f"column {name!r} is {int(values)} in all training rows: its other choices are guessed")
        for t, task in enumerate(self.tasks):
            if is_flat(labels[:, t]):
                self.run.warn(f"column {task.name!r} is {labels[0, t]:g} in all training rows: no action changes it")

    def loop(self) -> None:
        """Passes over the rows until every task has stopped or the epochs are used up."""
        settings, ranks = self.config.optimiser, self.ranks
        columns = ["evaluation", "epoch", "lr", "rows_per_s", "train_loss", *(f"{t.name}_loss" for t in self.tasks)]
        resume = self.evaluation if self.evaluation else None
        log = ranks.lead(lambda: MetricsLog(self.run.path / "metrics.csv", columns, resume))
        total = settings.epochs * settings.evaluations_per_epoch
        steps = len(self.rows) * (total - self.evaluation) // settings.evaluations_per_epoch
        quiet = ranks.rank > 0
        with progress(total=steps, what="autobucket.train", unit="rows", unit_scale=True, disable=quiet) as bar:
            while self.evaluation < total and self.active():
                started, cpu = time.perf_counter(), time.process_time()
                loss, lr = self._interval(bar)
                elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
                losses = self._validate()
                self.evaluation += 1
                self._keep(losses)
                self.seconds += elapsed
                self.cpu_seconds += float(ranks.summed(torch.tensor(cpu, dtype=torch.float64)))
                epoch = self.evaluation / settings.evaluations_per_epoch
                rate = len(self.rows) / settings.evaluations_per_epoch / elapsed
                named = {f"{task.name}_loss": value for task, value in zip(self.tasks, losses)}
                row = {"epoch": epoch, "lr": lr, "rows_per_s": rate, "train_loss": loss}
                if ranks.rank == 0:
                    log.write(evaluation=self.evaluation, **row, **named)
                ranks.lead(self._save)

    def active(self) -> list[int]:
        """Tasks that still improve: the others' losses are left out, so they no longer move the shared experts."""
        return [t for t, task in enumerate(self.tasks) if self.evaluation - max(self.kept[t], 0) < task.patience]

    def estimator(self) -> Estimator:
        """The tasks, each with the weights it kept."""
        return Estimator(self.config, self.encoder, self.tasks, self.kept, self.snapshots)

    def finish(self, estimator: Estimator) -> dict[str, Any]:
        """Write the estimator, its errors on the test rows and the summary, which is returned."""
        estimator.save(self.run.path / "estimator.pt")
        table = metrics_table(estimator, self.test_frame, slices=[])
        write_table(table, self.run.path / "evaluation.csv")
        summary = self._summary() | {"test": _by_task(table)}
        self.run.write_summary(summary)
        return summary

    def _summary(self) -> dict[str, Any]:
        kept = {
            task.name: self.kept[t] / self.config.optimiser.evaluations_per_epoch for t, task in enumerate(self.tasks)
        }
        return {
            "rows": len(self.rows),
            "seed": self.config.seed,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "kept_epoch": kept,
            "validation_loss": {task.name: self.best[t] for t, task in enumerate(self.tasks)},
            "train_s": self.seconds,
            "train_cpu_s": self.cpu_seconds,
            "train_rows_per_s": self.rows_seen / max(self.seconds, 1e-9),
            "train_rows_per_cpu_s": self.rows_seen / max(self.cpu_seconds, 1e-9),
        }

    def _interval(self, bar: Any) -> tuple[float, float]:
        """One evaluation interval of steps; returns the mean loss and the last learning rate.

        Rows at its end that ranks cannot share evenly, at most one less than there are ranks, are left out.
        """
        settings, ranks = self.config.optimiser, self.ranks
        per_epoch = settings.evaluations_per_epoch
        part = self.evaluation % per_epoch
        if part == 0:
            self.permutation = torch.randperm(len(self.rows), generator=self.order).to(self.device)
        order = self.permutation[len(self.rows) * part // per_epoch : len(self.rows) * (part + 1) // per_epoch]
        order = shareable(order, ranks)
        self.model.train()
        active, total, lr = self.active(), torch.zeros((), device=self.device), settings.lr
        for self.steps, start in enumerate(range(0, len(order), settings.batch_size)):
            share = (self.evaluation + start / len(order)) / (settings.epochs * per_epoch)
            lr = self._set_lr(share)
            batch = order[start : start + settings.batch_size]
            loss = self._step(self.rows.take(batch.chunk(ranks.size)[ranks.rank]), active)
            total += loss * len(batch)
            bar.update(len(batch))
        self.rows_seen += len(order)
        return float(total) / max(len(order), 1), lr

    def _step(self, batch: EncodedRows, active: list[int]) -> Tensor:
        state, action = self.model.embed_states(batch.codes, batch.numbers), self.model.embed_actions(batch.actions)
        outputs = self.model(state, action, active)
        losses = [
            self.tasks[t].weight * self.tasks[t].loss_of(o, batch.labels[:, t], batch.joint)
            for t, o in zip(active, outputs)
        ]
        loss = torch.stack(losses).sum()
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        loss = averaged(self.model.parameters(), [loss.detach()], self.ranks)[0]
        self._require_finite(float(loss), "training loss")
        if self.config.optimiser.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimiser.gradient_clip)
        self.optimiser.step()
        return loss

    def _set_lr(self, share: float) -> float:
        settings = self.config.optimiser
        low = settings.final_lr_share
        factor = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)) if settings.schedule == "cosine" else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * factor
        return settings.lr * factor

    def _validate(self) -> list[float]:
        """Mean loss of each task; ranks share the batches, which are the same and added in the same order with any number of them."""
        self.model.eval()
        parts = self.ranks.map(self._losses, list(self.validation.batches(_EVALUATION_BATCH)))
        total = sum(parts, torch.zeros(len(self.tasks), dtype=torch.float64))
        losses: list[float] = (total / len(self.validation)).tolist()
        for task, value in zip(self.tasks, losses):
            self._require_finite(value, f"validation loss of {task.name}")
        return losses

    @torch.no_grad()
    def _losses(self, batch: EncodedRows) -> Tensor:
        """Each task's loss, added up over the rows of a batch, float64 (tasks,)."""
        state = self.model.embed_states(batch.codes, batch.numbers)
        outputs = self.model(state, self.model.embed_actions(batch.actions))
        losses = [
            task.loss_of(o, batch.labels[:, t], batch.joint) for t, (task, o) in enumerate(zip(self.tasks, outputs))
        ]
        return torch.stack(losses).double().cpu() * len(batch)

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise self.ranks.refusal(
                f"autobucket: {what} is {value:g} in evaluation interval {self.evaluation + 1}, after {self.steps} steps of it; "
                "expected a finite number. Try a smaller optimiser.lr"
            )

    def _keep(self, losses: list[float]) -> None:
        """Weights of this evaluation become those of every task that is better than before."""
        better = [t for t in range(len(self.tasks)) if losses[t] < self.best[t]]
        for t in better:
            self.best[t], self.kept[t] = losses[t], self.evaluation
        if better:
            self.snapshots[self.evaluation] = copy.deepcopy(self.model.state_dict())
        self.snapshots = {e: weights for e, weights in self.snapshots.items() if e in self.kept}

    def _save(self) -> None:
        payload = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "order": generator_state(self.order),
            "noise": generator_state(self.noise),
            "permutation": self.permutation.cpu(),
            "evaluation": self.evaluation,
            "best": self.best,
            "kept": self.kept,
            "snapshots": self.snapshots,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "rows_seen": self.rows_seen,
            "ranks": self.ranks.size,
        }
        save_checkpoint(self.run.path / "last.pt", _RESUME, self._columns(), payload)

    def _restore(self) -> None:
        saved = load_checkpoint(self.run.path / "last.pt", _RESUME, self._columns())
        with content_of(self.run.path / "last.pt"):
            require_keys(saved, {*_PLAIN, "model", "optimiser", "order", "noise", "permutation", "ranks"})
            require_as_many(saved["ranks"], self.ranks)
            load_weights(self.model, saved["model"], "model")
            for moment, weights in saved["snapshots"].items():
                check_weights(self.model, weights, f"snapshot {moment}")
            load_optimiser(self.optimiser, saved["optimiser"])
            restore_generator(self.order, saved["order"])
            restore_generator(self.noise, saved["noise"])
            self.permutation = saved["permutation"].to(self.device)
            restore_plain(self, saved, _PLAIN)
            sizes = len(self.best), len(self.kept), len(self.permutation)
            if sizes != (len(self.tasks), len(self.tasks), len(self.rows)) or set(self.kept) != set(self.snapshots):
                raise UserError("its tasks, rows and weights do not fit each other: start anew")

    def _columns(self) -> list[str]:
        spec = self.config.data.spec
        return [*spec.state, *spec.sub_actions, *(task.name for task in self.tasks)]


def _by_task(table: Any) -> dict[str, dict[str, float]]:
    wide = table[table["slice"] == "all"].pivot(index="task", columns="metric", values="value")
    return {str(task): {str(k): float(v) for k, v in row.dropna().items()} for task, row in wide.iterrows()}


if __name__ == "__main__":
    run_cli(train, TrainConfig, default_config="configs/autobucket/default.yaml", default_out="runs/autobucket")
