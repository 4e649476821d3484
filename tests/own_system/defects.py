"""Defects to seed into a clean foreign log, one at a time, and the finding that each has to lead to.

A defect changes the frames of the example (text or numbers as in its files), the declaration, or the files themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

Frames = dict[str, pd.DataFrame]
Change = Callable[[Frames, np.random.Generator], None]


def nothing(frames: Frames, draw: np.random.Generator) -> None:
    """The tables stay as they are."""


@dataclass(frozen=True)
class Defect:
    """What is done to the tables, and the kind, file and column of what must be found."""

    name: str
    kind: str
    role: str  # requests, minutes or load_tests
    column: str | None
    change: Change = nothing
    overrides: Sequence[str] = ()  # of the declaration
    files: Callable[[Path], None] | None = None  # done to the folder of files, last
    among: Sequence[str] = field(
        default=()
    )  # kinds that may be found beside it, since they are the same defect's doing


def _some(frame: pd.DataFrame, share: float, draw: np.random.Generator) -> np.ndarray:
    return draw.random(len(frame)) < share


def put(role: str, column: str, value: object, share: float | None = None) -> Change:
    """A value in one row of a column (the 18th), or in a random share of them."""

    def change(frames: Frames, draw: np.random.Generator) -> None:
        frame = frames[role]
        rows = np.arange(len(frame)) == 17 if share is None else _some(frame, share, draw)
        if isinstance(value, str):
            frame[column] = frame[column].astype(object)
        frame.loc[rows, column] = value

    return change


def scaled(role: str, *columns: str, by: float) -> Change:
    """Columns in another unit."""

    def change(frames: Frames, draw: np.random.Generator) -> None:
        for column in columns:
            frames[role][column] = frames[role][column] * by

    return change


def exchanged(role: str, one: str, other: str) -> Change:
    """Two columns under each other's name."""

    def change(frames: Frames, draw: np.random.Generator) -> None:
        frames[role] = frames[role].rename(columns={one: other, other: one})

    return change


def renamed(role: str, one: str, other: str) -> Change:
    """A column under another name."""

    def change(frames: Frames, draw: np.random.Generator) -> None:
        frames[role] = frames[role].rename(columns={one: other})

    return change


def where(role: str, rows: Callable[[pd.DataFrame], pd.Series], column: str, value: object) -> Change:
    """A value in chosen rows."""

    def change(frames: Frames, draw: np.random.Generator) -> None:
        frame = frames[role]
        frame.loc[rows(frame), column] = value

    return change


def only(role: str, rows: Callable[[pd.DataFrame], pd.Series]) -> Change:
    """The other rows are lost."""

    def change(frames: Frames, draw: np.random.Generator) -> None:
        frames[role] = frames[role][rows(frames[role])].reset_index(drop=True)

    return change


def made(role: str, column: str, value: Callable[[pd.DataFrame, np.random.Generator], object]) -> Change:
    """A column computed from the others."""

    def change(frames: Frames, draw: np.random.Generator) -> None:
        frames[role][column] = value(frames[role], draw)

    return change


def _copied(frames: Frames, draw: np.random.Generator) -> None:
    frame = frames["requests"]
    frames["requests"] = pd.concat([frame, frame.iloc[3000:3400]], ignore_index=True)


def _minutes_twice(frames: Frames, draw: np.random.Generator) -> None:
    frame = frames["minutes"]
    frames["minutes"] = pd.concat([frame, frame.iloc[[500]]], ignore_index=True)


def _sub_action_propensity(frame: pd.DataFrame, draw: np.random.Generator) -> pd.Series:
    """How often ``cut`` is taken: the propensity of one decision in the place of the joint one."""
    return frame["cut"].map(frame["cut"].value_counts(normalize=True))


def _decided(frame: pd.DataFrame, draw: np.random.Generator) -> np.ndarray:
    """``cut`` by page and tier alone, as a deterministic rule."""
    values, pages = np.array([4, 10, 30, 70, 150]), frame["page"].map({"home": 0, "search": 1, "feed": 2})
    return np.asarray(values[(frame["tier"].to_numpy() // 5 + pages.to_numpy(np.int64)) % 5])


def _followed_load(frame: pd.DataFrame, draw: np.random.Generator) -> np.ndarray:
    """λ that answers the CPU of the minute before and moves by nothing else."""
    before = frame.groupby("dc")["util_rank"].shift(1).fillna(0.3).to_numpy()
    return np.asarray(1e5 * (0.2 + 3 * before**2))


def _cut_off(path: Path) -> None:
    data = (path / "requests.csv").read_bytes()
    (path / "requests.csv").write_bytes(data[: len(data) // 2].rsplit(b"\n", 1)[0] + b'\n"2026-01-09')


def _files_exchanged(path: Path) -> None:
    (path / "minutes.csv").rename(path / "other.csv")
    (path / "load_tests.csv").rename(path / "minutes.csv")
    (path / "other.csv").rename(path / "load_tests.csv")


def _day(frame: pd.DataFrame, column: str = "when") -> pd.Series:
    return pd.to_datetime(frame[column]).dt.strftime("%m-%d")


def _age(frame: pd.DataFrame, draw: np.random.Generator) -> np.ndarray:
    """A numeric state column of which 2 % are a placeholder."""
    age = draw.integers(18, 80, len(frame))
    return np.where(draw.random(len(frame)) < 0.02, -999, age)


_WITH_AGE = ("state={tier: category, page: category, audience: category, site: category, age: numeric}",)
_WITH_EXTRA = ("state={tier: category, page: category, audience: category, site: category, extra: category}",)
_UNLOGGED = ("requests.columns.propensity=null",)

DEFECTS = [
    # reading
    Defect("no such file", "unreadable_file", "requests", None, overrides=["requests.file={folder}/gone.csv"]),
    Defect("another separator", "unreadable_file", "requests", None, overrides=['requests.separator=";"']),
    Defect("an export cut off", "unreadable_file", "requests", None, files=_cut_off),
    Defect("files exchanged", "swapped_files", "minutes", None, files=_files_exchanged),
    Defect("a column of another name", "missing_column", "requests", "depth_b", renamed("requests", "depth_b", "deep_b")),
    Defect("an empty category", "empty_value", "requests", "page", put("requests", "page", None)),
    Defect("an empty amount", "empty_value", "requests", "income_cents", put("requests", "income_cents", np.nan)),
    Defect("a decimal comma", "not_a_number", "requests", "income_cents", put("requests", "income_cents", "12,5")),
    Defect("no time", "not_a_time", "requests", "when", put("requests", "when", "yesterday")),
    Defect("a time that clocks skip", "not_a_time", "requests", "when", put("requests", "when", "2026-03-29 02:30:00")),
    Defect("a negative amount", "out_of_range", "requests", "income_cents", put("requests", "income_cents", -250.0)),
    Defect("rows twice", "duplicate_rows", "requests", None, _copied),
    # actions
    Defect("an action value not declared", "undeclared_action", "requests", "depth_a", put("requests", "depth_a", 200, 0.01)),
    Defect("a declared value never logged", "unlogged_action", "requests", "cut", overrides=[
        "agents.preranking={cut: [4, 10, 30, 70, 150, 400]}"], among=["missing_support"]),
    Defect("a value hardly logged", "rare_action", "requests", "cut", only(
        "requests", lambda f: (f["cut"] != 150) | (f.index % 500 == 0))),
    Defect("100 % one action", "one_action", "requests", "cut", put("requests", "cut", 30, 1.1), _UNLOGGED),
    Defect("an action by rule", "no_exploration", "requests", "cut", made("requests", "cut", _decided), _UNLOGGED,
           among=["uncovered_group"]),
    Defect("no exploration in a group", "thin_overlap", "requests", "scorer", where(
        "requests", lambda f: f["page"] == "search", "scorer", "large"), _UNLOGGED, among=["uncovered_group"]),
    Defect("a value never taken in a group", "uncovered_group", "requests", "cut", where(
        "requests", lambda f: (f["page"] == "feed") & (f["cut"] == 150), "cut", 70), _UNLOGGED),
    # propensities
    Defect("a propensity of zero", "propensity_range", "requests", "p_taken", put("requests", "p_taken", 0.0)),
    Defect("propensities in percent", "propensity_range", "requests", "p_taken", scaled("requests", "p_taken", by=100)),
    Defect("the propensity of one decision", "propensity_sum", "requests", "p_taken", made(
        "requests", "p_taken", _sub_action_propensity), among=["missing_support"]),
    Defect("propensities a hundredth", "propensity_too_small", "requests", "p_taken", scaled("requests", "p_taken", by=0.01),
           among=["propensity_uninformative"]),
    Defect("one propensity for all", "propensity_uninformative", "requests", "p_taken", made(
        "requests", "p_taken", lambda f, draw: 1 / 1000)),
    Defect("propensities of other rows", "propensity_misplaced", "requests", "p_taken", made(
        "requests", "p_taken", lambda f, draw: draw.permutation(f["p_taken"].to_numpy())), among=["propensity_too_small", "propensity_sum"]),
    # states
    Defect("a constant column", "constant_column", "requests", "extra", made("requests", "extra", lambda f, draw: "x"), _WITH_EXTRA),
    Defect("an identifier as state", "identifier_column", "requests", "extra", made(
        "requests", "extra", lambda f, draw: [f"r{i}" for i in range(len(f))]), _WITH_EXTRA),
    Defect("spellings mixed", "variant_spellings", "requests", "page", made(
        "requests", "page", lambda f, draw: np.where(draw.random(len(f)) < 0.05, f["page"].str.upper(), f["page"]))),
    Defect("a placeholder number", "placeholder_value", "requests", "age", made("requests", "age", _age), _WITH_AGE),
    Defect("a column twice", "redundant_columns", "requests", "extra", made(
        "requests", "extra", lambda f, draw: "t" + f["tier"].astype(str)), _WITH_EXTRA),
    Defect("an outcome as state", "leaking_state", "requests", "extra", made(
        "requests", "extra", lambda f, draw: np.where(f["income_cents"] > 0, "converted", "not")), _WITH_EXTRA),
    # revenue and results
    Defect("no revenue joined", "flat_revenue", "requests", "income_cents", scaled("requests", "income_cents", by=0)),
    Defect("hardly any revenue", "sparse_revenue", "requests", "income_cents", made(
        "requests", "income_cents", lambda f, draw: f["income_cents"] * (np.arange(len(f)) % 200 == 0))),
    Defect("one amount in another unit", "dominant_payment", "requests", "income_cents", put("requests", "income_cents", 5e7)),
    Defect("payments without a mean", "heavy_tail", "requests", "income_cents", made(
        "requests", "income_cents", lambda f, draw: (f["income_cents"] > 0) * 100 * np.minimum((1 - draw.random(len(f))) ** -1.0, 1500))),
    Defect("a side column beyond reach", "unusable_numbers", "requests", "guess", put("requests", "guess", 1e30)),
    Defect("revenue as side column", "side_column_is_revenue", "requests", "guess", made(
        "requests", "guess", lambda f, draw: f["income_cents"])),
    Defect("a stuck result", "flat_result", "requests", "ranked", put("requests", "ranked", 30, 1.1)),
    Defect("results exchanged", "results_swapped", "requests", "fetched", overrides=[
        "results={retrieved: ranked, preranked: fetched}"], among=["length_not_measured"]),
    # over time
    Defect("a clock years ahead", "odd_time", "requests", "when", put("requests", "when", "2036-01-09 10:00:00")),
    Defect("a lost day", "gap", "requests", "when", only("requests", lambda f: _day(f) != "01-10")),
    Defect("a day without revenue", "revenue_outage", "requests", "income_cents", where(
        "requests", lambda f: _day(f) == "01-12", "income_cents", 0.0)),
    Defect("another currency from a day on", "revenue_shift", "requests", "income_cents", made(
        "requests", "income_cents", lambda f, draw: f["income_cents"] * np.where(_day(f) >= "01-13", 100, 1))),
    Defect("a column renamed inside", "drift", "requests", "page", made(
        "requests", "page", lambda f, draw: f["page"].where((_day(f) < "01-13") | (f["page"] != "home"), "front"))),
    Defect("a fallback for a day", "frozen_column", "requests", "scorer", where(
        "requests", lambda f: _day(f) == "01-11", "scorer", "small"), _UNLOGGED),
    Defect("another zone", "zone_mismatch", "requests", "when", made(
        "requests", "when", lambda f, draw: (pd.to_datetime(f["when"]) + pd.Timedelta(hours=8)).astype(str))),
    Defect("minutes of another month", "times_apart", "minutes", "minute", made(
        "minutes", "minute", lambda f, draw: (pd.to_datetime(f["minute"]) + pd.Timedelta(days=31)).astype(str))),
    # minutes
    Defect("a minute twice", "duplicate_minutes", "minutes", "minute", _minutes_twice),
    Defect("minutes lost", "missing_minutes", "minutes", "minute", only("minutes", lambda f: (f.index % 1000 < 300) | (f.index % 1000 > 350))),
    Defect("every fifth minute", "not_minutes", "minutes", "minute", only(
        "minutes", lambda f: pd.to_datetime(f["minute"]).dt.minute % 5 == 0), among=["price_effect_unknown"]),
    Defect("CPU in percent", "cpu_unit", "minutes", "util_recall", scaled("minutes", "util_recall", "util_rank", by=100)),
    Defect("CPU above all cores", "out_of_range", "minutes", "util_rank", put("minutes", "util_rank", 1.2)),
    Defect("a stuck sensor", "stuck_sensor", "minutes", "util_rank", where(
        "minutes", lambda f: (f.index >= 400) & (f.index < 460), "util_rank", 0.4321)),
    Defect("readings lost", "lost_readings", "minutes", "util_rank", put("minutes", "util_rank", np.nan, 0.3)),
    Defect("no traffic", "no_traffic", "minutes", "calls", scaled("minutes", "calls", by=0)),
    Defect("a negative λ", "out_of_range", "minutes", "price_rank", put("minutes", "price_rank", -1.0)),
    Defect("λ that never moved", "price_never_moves", "minutes", "price_rank", put("minutes", "price_rank", 300000.0, 1.1)),
    Defect("λ by rule", "price_effect_unknown", "minutes", None, made("minutes", "price_rank", _followed_load)),
    Defect("λ columns exchanged", "prices_swapped", "minutes", "price_recall", exchanged("minutes", "price_recall", "price_rank")),
    Defect("one wild λ", "price_outlier", "minutes", "price_rank", put("minutes", "price_rank", 1e9)),
    Defect("λ per core-millisecond", "price_unit", "minutes", "price_recall", overrides=["price_per=core_ms"]),
    Defect("traffic per second", "cost_mismatch", "minutes", "util_recall", overrides=["minutes.traffic=requests_per_second"]),
    # load tests
    Defect("a load test of another service", "unknown_service", "load_tests", "component", where(
        "load_tests", lambda f: f["component"] == "rank-svc", "component", "search-svc"), among=["unmeasured_service"]),
    Defect("a service not measured", "unmeasured_service", "load_tests", "component", only(
        "load_tests", lambda f: (f["component"] != "rank-svc") | (f["dc"] == "south"))),
    Defect("a data centre of another name", "unknown_data_centre", "load_tests", "dc", made(
        "load_tests", "dc", lambda f, draw: f["dc"].replace("south", "sud"))),
    Defect("a setting not measured", "unmeasured_setting", "load_tests", "scorer_used", only(
        "load_tests", lambda f: f["scorer_used"] == "small")),
    Defect("a setting of another name", "unknown_setting", "load_tests", "opened", made(
        "load_tests", "opened", lambda f, draw: f["opened"].str.replace("graph", "graf")), among=["unmeasured_setting"]),
    Defect("too few measurements", "few_load_tests", "load_tests", None, only(
        "load_tests", lambda f: (f["component"] != "rank-svc") | (f["rate"] == 0) | (f.groupby(["dc", "component"]).cumcount() < 7))),
    Defect("the idle service not measured", "no_idle_rows", "load_tests", "rate", only("load_tests", lambda f: f["rate"] > 0)),
    Defect("CPU of load tests as share", "cpu_unit", "load_tests", "busy", scaled("load_tests", "busy", by=0.01)),
    Defect("repetitions differ", "unrepeatable", "load_tests", "busy", made(
        "load_tests", "busy", lambda f, draw: np.where(f["rate"] > 0, f["busy"] * draw.lognormal(-0.5, 0.6, len(f)), f["busy"]).clip(0, 100))),
    Defect("lengths in another unit", "length_not_measured", "load_tests", "fetched_mean", scaled("load_tests", "fetched_mean", by=0.1)),
    Defect("a length that is missing", "empty_value", "load_tests", "ranked_mean", put("load_tests", "ranked_mean", np.nan)),
    Defect("machines that are none", "out_of_range", "load_tests", "hosts", put("load_tests", "hosts", 0)),
]  # fmt: skip
