"""examples.llm_router: allocations worked out by hand, members against slow references, whole runs on tiny folders, bad input."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from examples.llm_router import router as router_module
from examples.llm_router.config import RouterConfig
from examples.llm_router.features import PromptFeatures, word_counts
from examples.llm_router.judging import STRATEGIES, judged
from examples.llm_router.nets import Nets
from examples.llm_router.prompts import Prompts, load_folder, split
from examples.llm_router.ridge import Ridge, leave_one_out
from examples.llm_router.router import learn
from examples.llm_router.run import run
from examples.llm_router.strategies import at_random, cheapest_first, shares
from marca_common.cli import run_cli
from marca_common.errors import UserError

PRICES = {"small": {"input_price": 0.1, "output_price": 0.1}, "large": {"input_price": 0.5, "output_price": 1.5}}
WORDS = ["river", "stone", "cloud", "apple", "train", "paper", "night", "glass"]


def poems_and_sums(rows: int, seed: int) -> pd.DataFrame:
    """The small model is right on poems only, the large one on both: their words tell them apart."""
    generator = np.random.default_rng(seed)
    poem = generator.random(rows) < 0.5
    word = [" ".join(generator.choice(WORDS, 3)) for _ in range(rows)]
    text = [f"Write a poem about {w}, number {i} of {seed}" if p else f"What is {i} + {seed} + 7?" for i, (p, w) in enumerate(zip(poem, word))]  # fmt: skip
    return pd.DataFrame({"question": text, "small": poem.astype(float), "large": 1.0})


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A folder as LLMRouter's; the test file is packed and has its columns in another order."""
    folder = tmp_path / "nine"
    folder.mkdir()
    poems_and_sums(120, 1).to_csv(folder / "train.csv", index=False)
    poems_and_sums(60, 2)[["large", "question", "small"]].to_csv(folder / "test.csv.gz", index=False)
    (folder / "llm_prices.json").write_text(json.dumps(PRICES))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder as RouteLLM's: one file with domains, one with answers instead."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    frame = poems_and_sums(90, 3).rename(columns={"question": "prompt", "small": "weak", "large": "strong"})
    frame = frame.assign(weak=frame["weak"] > 0, strong=frame["strong"] > 0)  # True and False, as text in the file
    frame.assign(domain="arts").to_csv(folder / "mmlu.csv", index=False)
    frame.assign(weak_response="so,\nand so", strong_response="no").to_csv(folder / "gsm8k.csv.gz", index=False)
    return folder


def config(folder: Path, **keys: Any) -> RouterConfig:
    return RouterConfig(data=str(folder), **({"folds": 2, "bootstrap_draws": 50, "budgets": [0.2, 0.6, 1.0]} | keys))


def test_a_budget_by_hand() -> None:
    """Prices 1 and 4, 2.5 a prompt: from four prompts at 1 the 6 left over pay two upgrades, those worth most to the decider."""
    prices = np.array([1.0, 4.0])
    scores = np.array([[0.0, 1.0], [0.5, 1.0], [1.0, 1.0], [0.2, 1.0]])
    expected = np.array([[0.5, 0.6], [0.1, 0.9], [0.2, 0.9], [0.5, 0.5]])  # the router wrongly spends on prompt 3
    found = {name: (one * scores).sum(axis=1) for name, one in shares(scores, expected, prices, 2.5).items()}
    assert found["router"].tolist() == [0.0, 1.0, 1.0, 0.2]
    assert found["clairvoyant"].tolist() == [1.0, 0.5, 1.0, 1.0]
    for blind in ("static", "random", "cheapest_first"):  # half of each prompt to either model
        np.testing.assert_allclose(found[blind], [0.5, 0.75, 1.0, 0.6])


def test_the_static_mixture_leaves_out_a_model_below_the_hull() -> None:
    scores = np.tile([0.2, 0.3, 0.8], (5, 1))  # at 2 the middle model has .3, a mixture of the others .4
    static = shares(scores, scores, np.array([1.0, 2.0, 4.0]), 2.0)["static"]
    np.testing.assert_allclose(static, np.tile([2 / 3, 0.0, 1 / 3], (5, 1)))


def test_blind_odds_by_hand() -> None:
    prices = np.array([4.0, 1.0, 2.0, 1.0])
    np.testing.assert_allclose(cheapest_first(prices, 1.0), [0, 0.5, 0, 0.5])
    np.testing.assert_allclose(cheapest_first(prices, 1.5), [0, 0.25, 0.5, 0.25])
    np.testing.assert_allclose(cheapest_first(prices, 3.0), [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(cheapest_first(prices, 4.0), [1, 0, 0, 0])
    np.testing.assert_allclose(
        at_random(prices, 1.5), [0.125, 0.375, 0.125, 0.375]
    )  # half the prompts draw from all four
    np.testing.assert_allclose(at_random(prices, 3.0), np.full(4, 0.25))  # dearer than 2 a prompt it cannot be


@pytest.mark.parametrize("seed", range(5))
def test_no_strategy_exceeds_the_budget_and_none_beats_the_clairvoyant(seed: int) -> None:
    generator = np.random.default_rng(seed)
    prices = generator.choice([0.1, 0.2, 0.9], 6)
    scores, expected = generator.random((2, 40, 6))
    for budget in generator.uniform(prices.min(), prices.max(), 4):
        found = shares(scores, expected, prices, budget)
        for share in found.values():
            np.testing.assert_allclose(share.sum(axis=1), 1.0)
            assert share.min() >= 0
            assert (share @ prices).mean() <= budget * (1 + 1e-9)
        worth = {name: (share * scores).sum(axis=1).mean() for name, share in found.items()}
        step = 1 / 40  # whole prompts leave less than one upgrade on the table
        assert max(worth.values()) <= worth["clairvoyant"] + step
        assert worth["static"] >= max(worth["random"], worth["cheapest_first"]) - 1e-9


def test_intervals_of_prompts_that_are_all_alike_have_no_width(tmp_path: Path) -> None:
    scores = np.tile([0.25, 0.5], (30, 1))
    table = judged("alike", scores, scores, np.array([1.0, 2.0]), config(tmp_path, budgets=[1.0]))
    assert table["strategy"].tolist() == list(STRATEGIES)
    np.testing.assert_allclose(table["ci_low"], table["accuracy"])
    np.testing.assert_allclose(table["ci_high"], table["accuracy"])
    np.testing.assert_allclose(table["accuracy"], [0.5, 0.5, 0.375, 0.5, 0.5])  # random: a mean of both models
    assert table.loc[table["strategy"] == "static", ["lead_over_static", "lead_low", "lead_high"]].eq(0).all(axis=None)


def test_leads_are_of_paired_prompts(tmp_path: Path) -> None:
    """Scores vary from prompt to prompt, the router's gain does not: its lead has a narrow interval, its accuracy a wide one."""
    level = np.linspace(0.1, 0.9, 50)
    scores = np.column_stack([level, 0.5 * level, 1.1 * level])
    table = judged("paired", scores, scores, np.array([1.0, 1.0, 1.0]), config(tmp_path, budgets=[1.0]))
    row = table.set_index("strategy").loc["random"]
    assert row["ci_high"] - row["ci_low"] > 0.1
    np.testing.assert_allclose(row[["lead_over_static", "lead_low", "lead_high"]].to_list(), 2.6 / 3.3 - 1)


def test_leave_one_out_is_what_refitting_without_each_row_gives() -> None:
    generator = np.random.default_rng(0)
    x, y, penalty = generator.normal(size=(12, 3)), generator.normal(size=(12, 2)), 0.7
    x -= x.mean(axis=0)
    left, power, _ = np.linalg.svd(x, full_matrices=False)
    errors = []
    for row in range(12):  # the fit with all rows but one; the intercept is not penalised
        others = np.arange(12) != row
        wide = np.column_stack([np.ones(11), x[others]])
        weights = np.linalg.solve(wide.T @ wide + np.diag([0, *[penalty] * 3]), wide.T @ y[others])
        errors.append((y[row] - np.r_[1, x[row]] @ weights) ** 2)
    found = leave_one_out(left, y - y.mean(axis=0), power**2 / (power**2 + penalty))
    np.testing.assert_allclose(found, np.mean(errors, axis=0))


def test_ridge_finds_a_line_and_stays_at_the_means_where_features_say_nothing() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(400, 2))
    y = np.column_stack([0.5 + 0.1 * x[:, 0], 0.3 - 0.2 * x[:, 1]])
    np.testing.assert_allclose(Ridge.fit(x, y).expected(x), y, atol=1e-3)
    noise = generator.random((400, 2))
    spread = Ridge.fit(generator.normal(size=(400, 50)), noise).expected(generator.normal(size=(400, 50))).std(axis=0)
    assert spread.max() < 0.5 * noise.std()


def test_nets_learn_who_is_right_and_repeat_themselves() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(300, 3))
    y = np.column_stack([x[:, 0] > 0, x[:, 0] < 0]).astype(float)
    found = Nets.fit(x, y, seed=0).expected(x)
    assert ((found[:, 0] > found[:, 1]) == (x[:, 0] > 0)).mean() > 0.9
    assert 0 <= found.min() <= found.max() <= 1
    again = Nets.fit(x, y, seed=0)
    for _ in range(2):  # nothing is drawn any more once it is fitted
        np.testing.assert_array_equal(found, again.expected(x))


def test_words_by_hand() -> None:
    counts = word_counts(["One one two", ""])
    entries = sorted(np.round(counts[[0]].data, 6))
    assert entries == [1.0] * 6 + [round(1 + np.log(2), 6)]  # two, one·one, one·two, first, first two, last; one twice
    assert counts[[1]].sum() == 3  # no words: the empty first and last ones


def test_features_of_new_prompts_and_of_an_unknown_domain() -> None:
    texts, domains = poems_and_sums(40, 5)["question"].tolist(), ["arts", "law"] * 20
    features = PromptFeatures.fit(texts, domains, np.random.default_rng(0))
    known, unknown = features.of(texts, domains), features.of(["Something else?", ""], ["law", "sports"])
    size = features.directions.shape[1]
    assert np.linalg.norm(known[:, :size], axis=1).max() <= 1 + 1e-9
    assert known[:2, size : size + 2].tolist() == [[1, 0], [0, 1]]
    assert unknown[:, size : size + 2].tolist() == [[0, 1], [0, 0]]
    assert np.isfinite(unknown).all()
    np.testing.assert_allclose(features.directions.T @ features.directions, np.eye(size), atol=1e-9)


def test_a_word_of_two_prompts_counts_for_nothing() -> None:
    texts = ["rare word here", "rare word there", "word"]
    features = PromptFeatures.fit(texts, [""] * 3, np.random.default_rng(0))
    kept = set(features.buckets)
    assert word_counts(["word"]).indices[0] in kept
    assert kept.isdisjoint(word_counts(["rare"]).indices)


class Memory:
    """A member that expects ``seen`` of prompts that it was fitted to, and ``new`` of others."""

    def __init__(self, seen: float, new: float) -> None:
        self.seen, self.new, self.known = seen, new, set[bytes]()

    @staticmethod
    def key(row: np.ndarray) -> bytes:
        return bytes((np.round(row, 6) + 0.0).tobytes())  # a matrix product may differ in its last digit

    def fit(self, features: np.ndarray, scores: np.ndarray, *_: int) -> Memory:
        fitted = Memory(self.seen, self.new)
        fitted.known = {self.key(row) for row in features}
        return fitted

    def expected(self, features: np.ndarray) -> np.ndarray:
        return np.array([[self.seen if self.key(row) in self.known else self.new] * 2 for row in features])


@pytest.mark.parametrize("ridge, nets, weight", [(0.4, 0.0, 0.0), (0.0, 0.4, 1.0), (0.0, 0.8, 0.5), (0.3, 0.7, 0.25)])
def test_members_are_blended_by_what_they_say_of_prompts_they_were_not_given(
    monkeypatch: pytest.MonkeyPatch, ridge: float, nets: float, weight: float
) -> None:
    """All scores are .4. What a member says of prompts that it has seen, 9, must not count."""
    monkeypatch.setattr(router_module, "Ridge", Memory(9.0, ridge))
    monkeypatch.setattr(router_module, "Nets", Memory(9.0, nets))
    texts = [i * "again and " for i in range(1, 41)]  # no two have the same features
    router, out_of_fold = learn(Prompts(texts, [""] * 40, np.full((40, 2), 0.4)), folds=4, seed=0)
    assert router.nets_weight == weight
    np.testing.assert_allclose(out_of_fold, 0.4)
    np.testing.assert_allclose(router.expected(Prompts(texts, [""] * 40, np.zeros((40, 2)))), 9.0)


def test_rows_of_one_prompt_stay_together() -> None:
    texts = [f"prompt {i % 50}" if i % 2 else f"  Prompt\n{i % 50} " for i in range(200)]
    whole = Prompts(texts, [""] * 200, np.arange(200.0)[:, None])
    assert len(set(whole.keys())) == 50
    train, test = split(whole, 0.3, np.random.default_rng(0))
    assert not set(train.keys()) & set(test.keys())
    assert len(test.texts) == 60  # 15 of 50 prompts, four rows each
    assert sorted([*train.scores[:, 0], *test.scores[:, 0]]) == list(range(200))


def test_a_training_prompt_that_is_tested_as_well_is_left_out(scored: Path) -> None:
    frame = pd.read_csv(scored / "train.csv")
    again = pd.read_csv(scored / "test.csv.gz")[frame.columns].head(10)
    again["question"] = again["question"].str.upper()
    pd.concat([frame, again]).to_csv(scored / "train.csv", index=False)
    (data,) = load_folder(config(scored))
    assert len(data.train.texts) == 120
    assert not set(data.train.keys()) & set(data.test.keys())


def test_prices_of_the_config_go_before_the_file(scored: Path) -> None:
    (data,) = load_folder(config(scored))
    assert dict(zip(data.models, data.prices)) == {"small": 0.1, "large": 1.0}  # the mean of .5 and 1.5
    (data,) = load_folder(config(scored, prices={"small": 0.3}))
    assert dict(zip(data.models, data.prices)) == {"small": 0.3, "large": 1.0}


def test_the_router_tells_poems_from_sums(scored: Path, tmp_path: Path) -> None:
    """Half the prompts need the large model: with .6 of its cost nearly all can be right, a mixture gets three in four."""
    found = run(config(scored), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/llm_router.csv")
    assert table.columns.tolist() == [
        "data", "budget", "strategy", "accuracy", "ci_low", "ci_high", "lead_over_static", "lead_low", "lead_high", "spend",
    ]  # fmt: skip
    at = table[table["budget"] == 0.6].set_index("strategy")
    assert at.loc["router", "accuracy"] > 0.95
    assert at.loc["static", "accuracy"] < 0.85
    assert at.loc["router", "lead_low"] > 0
    assert (table["spend"] <= table["budget"] + 1e-6).all()
    assert found.summary["nine"]["prompts"] == {"train": 120, "test": 60}
    assert found.summary["nine"]["lead_over_static"]["0.6"] == pytest.approx(
        at.loc["router", "lead_over_static"], abs=1e-6
    )
    assert (tmp_path / "out/llm_router.png").stat().st_size > 10_000
    assert set(pd.read_csv(tmp_path / "out/cross_validated.csv")["strategy"]) == set(STRATEGIES)


def test_each_pair_file_is_a_data_set_and_a_run_repeats_itself(pairs: Path, tmp_path: Path) -> None:
    first, second = (run(config(pairs), tmp_path / name) for name in "ab")
    assert first.table["data"].unique().tolist() == ["gsm8k", "mmlu"]
    assert first.summary["mmlu"]["prompts"] == {"train": 63, "test": 27}
    pd.testing.assert_frame_equal(first.table, second.table)


Change = Callable[[Path], Any]


def edited(file: str, column: str, value: Any) -> Change:
    """Put a value into the third row of a column; without a value the column goes."""

    def change(folder: Path) -> None:
        frame = pd.read_csv(folder / file)
        if value is None:
            frame = frame.drop(columns=column)
        else:
            frame[column] = frame[column].astype(object)
            frame.loc[2, column] = value
        frame.to_csv(folder / file, index=False)

    return change


def prices(**models: Any) -> Change:
    return lambda folder: (folder / "llm_prices.json").write_text(json.dumps({**PRICES, **models}))


def fewer(file: str, rows: int) -> Change:
    return lambda folder: pd.read_csv(folder / file).head(rows).to_csv(folder / file, index=False)


def only(name: str, text: str) -> Change:
    """A folder with one file in it."""

    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (only("notes.txt", "nothing"), r"holds no CSV files; expected train.csv and test.csv"),
        (only("train.csv", "question,a,b\nq,1,0\n"), r"has no test.csv; expected"),
        (only("other.csv", "text,weak,strong\nq,1,0\n"), r"other.csv: column 'prompt' is missing; found text, weak, strong"),
        (only("other.csv.gz", "prompt,weak\nq,1\n"), r"other.csv.gz: column 'strong' is missing"),
        (only("few.csv", "prompt,weak,strong\n" + "".join(f"q{i},1,0\n" for i in range(30))), "few.csv: .* prompts to .*at least 20"),
        (only("none.csv", "prompt,weak,strong\n"), r"none.csv: the file has no rows"),
        (edited("train.csv", "question", None), r"train.csv: column 'question' is missing"),
        (edited("test.csv.gz", "large", None), r"test.csv.gz: column 'large' is missing"),
        (edited("train.csv", "small", 1.2), r"train.csv: row 3, column 'small': got .*1.2.*; expected a number from 0 to 1"),
        (edited("train.csv", "small", np.nan), r"train.csv: row 3, column 'small': got an empty value; expected a number"),
        (edited("test.csv.gz", "small", "good"), r"test.csv.gz: row 3, column 'small': got 'good'; expected a"),
        (edited("train.csv", "question", np.nan), r"train.csv: row 3, column 'question': got an empty value"),
        (fewer("train.csv", 19), r"19 prompts to learn from; expected at least 20"),
        (fewer("test.csv.gz", 5), r"5 prompts to judge by; expected at least 20"),
        (lambda folder: (folder / "llm_prices.json").unlink(), r"llm_prices.json: no price of the model 'large'"),
        (lambda folder: (folder / "llm_prices.json").write_text("[1]"), r"llm_prices.json: expected a mapping of models"),
        (lambda folder: (folder / "llm_prices.json").write_text("{"), r"llm_prices.json: not valid JSON"),
        (prices(small=0.1), r"llm_prices.json: small: input_price: got None; expected a positive number"),
        (prices(small={"input_price": 0.1, "output_price": -1}), r"small: output_price: got -1; expected a positive number"),
        (prices(small={"input_price": True, "output_price": 1}), r"small: input_price: got True; expected"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_one_line(scored: Path, tmp_path: Path, change: Any, message: str) -> None:
    change(scored)
    with pytest.raises(UserError, match=message):
        run(config(scored), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pair_without_a_price_is_refused(pairs: Path) -> None:
    with pytest.raises(UserError, match="prices: no price of the model 'strong'; expected one there or under prices"):
        load_folder(config(pairs, prices={"weak": 1.0}))


def test_a_budget_below_the_cheapest_model_is_refused_with_the_least(scored: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"budgets: got 0.05; the cheapest model alone needs 0.1"):
        run(config(scored, budgets=[0.05]), tmp_path / "out")


def test_a_file_that_stands_there_packed_and_unpacked_is_refused(scored: Path) -> None:
    (scored / "train.csv.gz").write_bytes(gzip.compress((scored / "train.csv").read_bytes()))
    with pytest.raises(UserError, match=r"holds train.csv and train.csv.gz; expected one of them"):
        load_folder(config(scored))


def test_a_static_mixture_that_is_never_right_has_no_lead(tmp_path: Path) -> None:
    wrong = np.zeros((30, 2))
    table = judged("wrong", wrong, wrong, np.array([1.0, 2.0]), config(tmp_path, budgets=[0.75]))
    assert table["accuracy"].eq(0).all()
    assert table["lead_over_static"].isna().all()


def test_one_model_is_no_choice(scored: Path) -> None:
    edited("train.csv", "large", None)(scored)
    with pytest.raises(UserError, match="scores of 1 models; expected columns of at least two"):
        load_folder(config(scored))


def test_the_program_leaves_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"default_config": "configs/other_computation/llm_router.yaml", "default_out": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as left:
        run_cli(
            run, RouterConfig, **sets, flags={"--data": ("data", "folder")}, argv=["--data", str(tmp_path / "gone")]
        )
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert "gone: no such folder; expected one with train.csv" in error
    assert error.count("\n") == 1
