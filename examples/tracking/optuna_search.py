"""Search a learner's settings with Optuna: ``python -m examples.tracking.optuna_search --config configs/tracking/optuna_search.yaml``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field, model_validator

from awrq_mixer.config import TrainConfig
from awrq_mixer.train import train
from marca_common.cli import run_cli
from marca_common.config import Config, dump_yaml, parse_config, to_dict
from marca_common.errors import UserError
from marca_common.figures import new_figure, save_figure
from marca_common.files import write_text
from marca_common.progress import progress
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

MEASURE = (
    "validation_shape_gain"  # of a learner's summary.json: what Q explains of revenue within states, on held-out rows
)


class Range(Config):
    """Values of one key: between two ends, or one of a list."""

    low: float | None = Field(default=None, description="least value; null: see choices")
    high: float | None = Field(default=None, description="largest value; null: see choices")
    log: bool = Field(default=False, description="even in the logarithm")
    whole: bool = Field(default=False, description="whole numbers")
    choices: list[int | float | str | bool] | None = Field(
        default=None, description="values to choose from; null: low to high"
    )

    @model_validator(mode="after")
    def _fits(self) -> Range:
        ends = self.low is not None and self.high is not None
        if ends == (self.choices is not None):
            raise ValueError("give either low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low, high: got {self.low:g}, {self.high:g}; expected low below high")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(f"low: got {self.low:g}; expected more than 0 with log")
        return self

    def value(self, trial: Trial, name: str) -> Any:
        """What a trial tries."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


class OptunaSearch(Config):
    """What ``python -m examples.tracking.optuna_search`` needs."""

    seed: int = Field(default=0, ge=0, description="seed of the search")
    learner: TrainConfig = Field(description="awrq_mixer.train: what every trial starts from")
    space: dict[str, Range] = Field(
        min_length=1, description="keys of the learner, such as optimiser.lr, and what to try"
    )
    trials: int = Field(default=20, ge=1, description="trainings")


@dataclass(frozen=True)
class SearchResult:
    """A row per trial, as in trials.csv, and the best trial's settings."""

    trials: pd.DataFrame
    best: dict[str, Any]


def search(config: OptunaSearch, out: str | Path) -> SearchResult:
    """Train with settings that Optuna proposes; the best have the largest shape gain on validation rows.

    Writes ``trials/N`` (run folders), ``trials.csv``, ``best.yaml`` (the learner's config with the best settings), and a figure. A stopped
    search goes on; what was proposed before is kept in ``study.jsonl``. Choose on development logs only: the best of
    many trials is partly lucky.
    """
    optuna = _optuna()
    with RunFolder(out, config, resumes_from="study.jsonl") as run:
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(run.path / "study.jsonl"))
        )
        study = optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)
        for number in progress(range(len(_finished(study)), config.trials), what="trials", unit="trial"):
            # A stopped search proposes what an undisturbed one does.
            seed = int(numpy_generator(config.seed, "optuna", number).integers(2**32))
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            trial = study.ask()
            tried = {name: one.value(trial, name) for name, one in config.space.items()}
            learned = train(with_settings(config.learner, tried), run.path / "trials" / str(number))
            gain = learned.summary.get(MEASURE)
            if gain is None or not math.isfinite(gain):
                raise UserError(f"learner: got no {MEASURE}; expected validation rows whose states earn more than once")
            study.tell(trial, float(gain))
        table = _table(study)
        write_table(table, run.path / "trials.csv")
        best = dict(study.best_params)
        write_text(run.path / "best.yaml", dump_yaml(with_settings(config.learner, best)))
        _draw(table, run.path / "trials.png")
        run.write_summary({MEASURE: study.best_value, "trial": int(table[MEASURE].idxmax()), "settings": best})
    return SearchResult(table, best)


def with_settings(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """A config with some keys, such as ``optimiser.lr``, replaced; UserError where one is unknown or does not fit."""
    values = to_dict(config)
    for name, value in settings.items():
        *parts, last = name.split(".")
        place: Any = values
        for part in parts:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise UserError(f"space: got {name!r}; expected keys of awrq_mixer.train, such as optimiser.lr")
        place[last] = value
    return parse_config(TrainConfig, values, "space")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("optuna: not installed; expected the extra `tracking`: pip install -e .[tracking]") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _finished(study: Study) -> list[FrozenTrial]:
    return [one for one in study.trials if one.value is not None]


def _table(study: Study) -> pd.DataFrame:
    return pd.DataFrame([{"trial": k, MEASURE: one.value, **one.params} for k, one in enumerate(_finished(study))])


def _draw(table: pd.DataFrame, path: Path) -> None:
    figure, axis = new_figure(1, 1, width=6, height=3.2)
    axis.plot(table["trial"], table[MEASURE], "o", ms=4, label="trial")
    axis.plot(table["trial"], table[MEASURE].cummax(), label="best so far")
    axis.set(xlabel="trial", ylabel="shape gain, validation rows", title="Settings tried")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_cli(search, OptunaSearch, default_config="configs/tracking/optuna_search.yaml", default_out="runs/optuna")
