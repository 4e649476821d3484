"""Prompts with every model's score, read from a folder in one of two formats.

*Scored*: ``train.csv`` and ``test.csv`` with ``question`` and one column of scores per model, and ``llm_prices.json`` (LLMRouter's).
*Pairs*: files with ``prompt``, ``weak``, ``strong`` and perhaps ``domain`` (RouteLLM's); each file is a data set of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from examples.llm_router.config import RouterConfig
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.seeding import numpy_generator
from marca_common.tables import Column, checked_frame, read_all_columns

LEAST = 20  # distinct prompts to learn from, and as many to judge by
EXPECTED = (
    "train.csv and test.csv (question, a column of scores per model), or files with prompt, weak and strong; .gz or not"
)


@dataclass(frozen=True)
class Prompts:
    """Prompts and what each model's answer to them is worth."""

    texts: list[str]
    domains: list[str]  # "" where the file names none
    scores: np.ndarray  # float64 (S, A), 0 wrong to 1 right

    def rows(self, which: np.ndarray) -> Prompts:
        """The prompts at ``which``, places (M,)."""
        return Prompts([self.texts[i] for i in which], [self.domains[i] for i in which], self.scores[which])

    def keys(self) -> list[str]:
        """What makes two prompts one: their words, whatever the case and white space."""
        return [" ".join(text.lower().split()) for text in self.texts]


@dataclass(frozen=True)
class DataSet:
    """Prompts to learn from and prompts to judge by, none in both, and the models' prices."""

    name: str
    models: list[str]
    prices: np.ndarray  # float64 (A,) list price per token; no format has token counts, so it is the cost of a prompt
    train: Prompts
    test: Prompts


def load_folder(config: RouterConfig) -> list[DataSet]:
    """All data sets of a folder; whatever is missing in it, or does not fit, is a UserError."""
    folder = Path(config.data)
    if not folder.is_dir():
        raise UserError(f"data: {folder}: no such folder; expected one with {EXPECTED}")
    files = _tables(folder)
    if "train" not in files and "test" not in files:
        return [_pair(config, name, path) for name, path in files.items()]
    for name in ("train", "test"):
        if name not in files:
            raise UserError(f"data: {folder}: has no {name}.csv; expected {EXPECTED}")
    return [_scored(config, folder, files["train"], files["test"])]


def _tables(folder: Path) -> dict[str, Path]:
    """The folder's CSV files by their names without endings."""
    files: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.name.endswith((".csv", ".csv.gz"))):
        name = path.name.removesuffix(".gz").removesuffix(".csv")
        if name in files:
            raise UserError(f"data: {folder}: holds {files[name].name} and {path.name}; expected one of them")
        files[name] = path
    if not files:
        raise UserError(f"data: {folder}: holds no CSV files; expected {EXPECTED}")
    return files


def _scored(config: RouterConfig, folder: Path, train_file: Path, test_file: Path) -> DataSet:
    frame = read_all_columns(train_file)
    models = sorted(str(name) for name in frame.columns if name not in ("question", "domain"))
    if len(models) < 2:
        raise UserError(f"{train_file}: scores of {len(models)} models; expected columns of at least two")
    prices = _prices(config, models, folder / "llm_prices.json")
    test = _prompts(read_all_columns(test_file), "question", models, test_file)
    train = _without(_prompts(frame, "question", models, train_file), test)
    return _checked(DataSet(folder.resolve().name, models, prices, train, test), folder)


def _pair(config: RouterConfig, name: str, path: Path) -> DataSet:
    models = ["weak", "strong"]
    prompts = _prompts(read_all_columns(path), "prompt", models, path)
    train, test = split(prompts, config.test_share, numpy_generator(config.seed, "llm_router", "split"))
    return _checked(DataSet(name, models, _prices(config, models), train, test), path)


def _prompts(frame: pd.DataFrame, text: str, models: list[str], place: Path) -> Prompts:
    scores = [Column(model, low=0.0, high=1.0) for model in models]
    schema = [Column(text, "category"), Column("domain", "category", required=False), *scores]
    table = checked_frame(frame, schema, str(place))
    domains = table["domain"] if "domain" in table else pd.Series([""] * len(table))
    return Prompts(table[text].astype(str).tolist(), domains.astype(str).tolist(), table[models].to_numpy(np.float64))


def split(prompts: Prompts, test_share: float, generator: np.random.Generator) -> tuple[Prompts, Prompts]:
    """(train, test) by distinct prompt: one that stands in several rows is on one side with all of them."""
    codes, keys = pd.factorize(np.array(prompts.keys(), dtype=object))
    held_out = np.zeros(len(keys), bool)
    held_out[generator.permutation(len(keys))[: round(test_share * len(keys))]] = True
    return prompts.rows(np.flatnonzero(~held_out[codes])), prompts.rows(np.flatnonzero(held_out[codes]))


def _without(train: Prompts, test: Prompts) -> Prompts:
    """The training prompts that the test file does not have as well."""
    seen = set(test.keys())
    return train.rows(np.array([i for i, key in enumerate(train.keys()) if key not in seen], dtype=np.int64))


def _checked(data: DataSet, place: Path) -> DataSet:
    for name, prompts in (("learn from", data.train), ("judge by", data.test)):
        if (found := len(set(prompts.keys()))) < LEAST:
            raise UserError(f"{place}: {found} prompts to {name}; expected at least {LEAST}, none in both parts")
    return data


def _prices(config: RouterConfig, models: list[str], file: Path | None = None) -> np.ndarray:
    """Price of each model: the config's, or else the mean of the file's prices of input and output."""
    listed = read_json(file) if file is not None and file.is_file() else {}
    if not isinstance(listed, dict):
        raise UserError(f"{file}: expected a mapping of models to their prices, got {type(listed).__name__}")
    return np.array([config.prices.get(model) or _listed(listed, model, file) for model in models])


def _listed(listed: dict[str, Any], model: str, file: Path | None) -> float:
    if model not in listed:
        raise UserError(f"{file or 'prices'}: no price of the model {model!r}; expected one there or under prices")
    entry = listed[model] if isinstance(listed[model], dict) else {}
    found = [entry.get(key) for key in ("input_price", "output_price")]
    for key, price in zip(("input_price", "output_price"), found):
        if isinstance(price, bool) or not isinstance(price, (int, float)) or price <= 0:
            raise UserError(f"{file}: {model}: {key}: got {price!r}; expected a positive number")
    return float(np.mean(found))  # type: ignore[arg-type]
