"""Train one learner on a request log: ``python -m awrq_mixer.train --config configs/awrq_mixer/demo.yaml``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners import BOOSTED, STACK, find_learner
from awrq_mixer.learners.base import Batch, Learner, Totals
from awrq_mixer.learners.row_shards import FOLDER, remove_others
from awrq_mixer.learners.state_memory import StateMemory, remembers_rows
from awrq_mixer.networks.agents import initialise
from awrq_mixer.serving.predictor import Predictor, row_shards
from awrq_mixer.training import boosted, stacked
from awrq_mixer.training.sampled_rows import sampled
from awrq_mixer.training.shards import ShardedLog, StreamedRows, load_shards
from awrq_mixer.training.training_log import Log, load_log, make_batch, odd_data
from awrq_mixer.training.training_rows import MemoryRows, Rows
from awrq_mixer.training.training_state import TrainingState, learning_curve
from awrq_mixer.training.validation import ValidationSet, make_validation_set
from awrq_mixer.training.whole_states import StateRows, sorted_by_state
from marca_common.cli import run_cli
from marca_common.compute import keep_freed_memory, multiplies_bf16, resolve_device, set_threads, take_own_gpu
from marca_common.progress import progress
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder
from marca_common.seeding import torch_generator
from marca_common.shared_batches import averaged
from marca_common.torch_seeding import use_generator, use_places


@dataclass
class TrainResult:
    """A trained learner and how training went."""

    model: Predictor
    summary: dict[str, Any]
    warnings: list[str]


def train(config: TrainConfig, out: str | Path) -> TrainResult:
    """Train a learner of Q(s, a) on a request log; write the best checkpoint, metrics and the learning curve to ``out``.

    A run that was interrupted goes on from its last checkpoint and ends with the same weights; a finished one is
    read back. Raises UserError for bad input and for a loss that is not a number (the last good checkpoint stays).
    Start it with ``torchrun --standalone --nproc-per-node N -m awrq_mixer.train …`` to share every batch among N processes;
    with ``stream:`` the log stays in its Parquet shards, and what a learner remembers of it lies in files beside the checkpoint.
    """
    set_threads(config.threads)
    keep_freed_memory()
    take_own_gpu()
    with Ranks() as ranks:
        if ranks.size > 1 and config.learner in BOOSTED:
            raise ranks.refusal(f"learner: {config.learner!r} is trained by one process; got {ranks.size}")
        return _train(config, out, ranks)


def _train(config: TrainConfig, out: str | Path, ranks: Ranks, rows: Path | None = None) -> TrainResult:
    """``rows``: where rows sorted by state are kept, if not in the run's own folder."""
    started = time.perf_counter()
    run = RunFolder(out, config, resumes_from=("members" if config.learner == STACK else "last.pt", FOLDER))
    with ranks.folder(run):
        log = load_shards(config, ranks) if config.stream else ranks.each(lambda: load_log(config))
        used = config.without_columns(log.identifiers)
        validation = make_validation_set(log.validation, log.spec, config.validation_rows, config.seed)
        loaded = time.perf_counter()
        for note in odd_data(log.encoder, log.identifiers, log.spec.reward, log.reward_range):
            run.warn(note)
        if validation is None and config.split.validation:
            run.warn(
                "no state earns revenue twice in the validation rows: nothing can be compared, the last step is kept"
            )
        model, summary = _fitted(used, log, validation, run, ranks, rows or run.path / FOLDER)
        summary["load_s"] = round(loaded - started, 3)
        ranks.lead(lambda: run.write_summary(summary))
    if rows is None and ranks.rank == 0:  # those of a stack's halves, and of earlier runs here
        remove_others(run.path / FOLDER, row_shards(model.scorer))
    return TrainResult(model, summary, run.warnings)


def _remembers(config: TrainConfig) -> bool:
    return issubclass(find_learner(config.learner), StateMemory) and remembers_rows(config)


def _fitted(
    config: TrainConfig,
    log: Log | ShardedLog,
    validation: ValidationSet | None,
    run: RunFolder,
    ranks: Ranks,
    rows: Path,
) -> tuple[Predictor, dict[str, Any]]:
    if config.learner == STACK:
        evidence = log if isinstance(log, Log) else sampled(log, config, ranks)

        def train_member(one: TrainConfig, folder: Path) -> Predictor:
            return _train(one, folder, ranks, rows).model

        return stacked.fit(config, evidence, validation, run, train_member, ranks)
    if config.learner in BOOSTED:
        assert isinstance(log, Log)
        return ranks.lead(lambda: boosted.fit(config, log, validation, run))
    return _fit(config, log, validation, run, ranks, rows)


def _fit(
    config: TrainConfig,
    log: Log | ShardedLog,
    validation: ValidationSet | None,
    run: RunFolder,
    ranks: Ranks,
    folder: Path,
) -> tuple[Predictor, dict[str, Any]]:
    device, began = resolve_device(config.device), time.perf_counter()
    rows = _rows(config, log, device, ranks, folder)
    sorting = {"sort_s": round(time.perf_counter() - began, 3)} if isinstance(rows, StateRows) else {}
    learner = ranks.each(lambda: make_learner(config, log, rows.known, ranks))
    if isinstance(rows, StateRows):
        assert isinstance(learner, StateMemory)
        learner.shards = rows.shards
    predictor = Predictor(learner, config, log.encoder, device)
    if isinstance(rows, MemoryRows):
        rows.keep_together(learner, run)
    state = TrainingState.start(config, run, learner, predictor, rows, ranks)
    size, started = state.batch_size, time.perf_counter()
    total, done = state.total_steps * size, state.step * size
    bar = progress(what=config.learner, total=total, initial=done, unit="row", disable=ranks.rank > 0)
    update = torch.compile(learner.loss) if config.compile else learner.loss
    low = config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(device))
    try:
        for part in rows.batches(size, config.seed, state.step):
            if state.step >= state.total_steps or state.out_of_patience:
                break
            batch = part.rows
            batch.reward = batch.reward / learner.reward_scale
            if part.places:
                use_places(learner, part.places)
            learner.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                loss, logged = update(batch)
            state.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            loss, *rest = averaged(learner.online.parameters(), [loss, *logged.values()], ranks, part.share)
            logged = dict(zip(logged, rest))
            norm = torch.nn.utils.clip_grad_norm_(learner.online.parameters(), config.optimiser.clip or math.inf)
            _require_finite(loss, norm, state.step + 1, config, ranks)
            state.optimiser.step()
            state.schedule.step()
            state.count(float(loss.detach()), float(norm), logged)
            learner.after_step(state.step)
            bar.update(size)
            if state.step % config.eval_every == 0 or state.step == state.total_steps:
                state.report(validation)
    finally:
        bar.close()
    model, summary = _finish(config, run, state, predictor, time.perf_counter() - started)
    return model, summary | sorting


def _rows(config: TrainConfig, log: Log | ShardedLog, device: torch.device, ranks: Ranks, folder: Path) -> Rows:
    if isinstance(log, Log):
        return MemoryRows(make_batch(log.train, log.spec, log.encoder, config.plus.surrogate).to(device), ranks)
    if _remembers(config):
        return StateRows(log, sorted_by_state(log, config, ranks, folder), config, device, ranks)
    return StreamedRows(log, config, device, ranks)


def make_learner(
    config: TrainConfig, log: Log | ShardedLog, known: Batch | Totals, ranks: Ranks | None = None
) -> Learner:
    """A learner with weights drawn from the config's seed, the same on every device, prepared on the training rows ``known``."""
    device = resolve_device(config.device)
    learner = find_learner(config.learner)(log.space, config)
    initialise(learner, config.network.init, torch_generator(config.seed, "weights"))
    learner.to(device)
    learner.generator = torch_generator(config.seed, "noise", device=device.type)
    learner.prepare(known, torch.from_numpy(log.profile).float().to(device))
    use_generator(learner, learner.generator)
    if ranks is not None and ranks.size > 1:
        use_generator(learner, learner.generator, ranks.rank, ranks.size)
        learner.over_ranks = ranks.summed
    return learner


def _require_finite(loss: torch.Tensor, norm: torch.Tensor, step: int, config: TrainConfig, ranks: Ranks) -> None:
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise ranks.refusal(
            f"{config.learner}: loss {float(loss.detach()):g}, gradient norm {float(norm):g} at step {step}; expected finite numbers. "
            "The last good checkpoint is kept; try a smaller optimiser.lr"
        )


def _finish(
    config: TrainConfig, run: RunFolder, state: TrainingState, predictor: Predictor, seconds: float
) -> tuple[Predictor, dict[str, Any]]:
    state.restore_best()

    def write() -> None:
        predictor.save(run.path / "best.pt")
        learning_curve(run.path / "metrics.csv", run.path / "learning_curve.png", config.learner)

    state.group.lead(write)
    summary = state.summary() | {
        "train_s": round(seconds, 3),
        "samples_per_s": round(state.steps_here * state.batch_size / max(seconds, 1e-9), 1),
    }
    return predictor, summary


if __name__ == "__main__":
    run_cli(train, TrainConfig, default_config="configs/awrq_mixer/default.yaml", default_out="runs/awrq_mixer")
