"""Files in the formats of the paper's public samples, with numbers of our own.

Of the 48 columns of the minute table only the names that the format is known by are used; ``x1`` … ``x16`` stand for the others.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

STATE = ["uv", "w", "g", "i"]
ACTIONS = ["a1", "a2", "a3", "a4", "a5"]
SIZES = (4, 5, 5, 2, 5)
OTHERS = [f"x{i}" for i in range(1, 17)]
MEASURED = ["nsum", "downgrade_tp90", "downgrade_avg", "cpu1", "cpu2", *OTHERS]


def write(frame: pd.DataFrame, path: Path, *, header: bool = True, separator: str = ",") -> str:
    """Write the frame as text; returns the path as text."""
    frame.to_csv(path, header=header, index=False, sep=separator, lineterminator="\n")
    return str(path)


def states(rows: int, rng: np.random.Generator, idc: str = "IDC_") -> pd.DataFrame:
    """State columns ``uv,w,g,i`` of so many requests, of at most 48 states."""
    columns = {"uv": rng.integers(4, size=rows), "w": rng.integers(3, size=rows), "g": rng.integers(2, size=rows)}
    return pd.DataFrame(columns).assign(i=[f"{idc}{one}" for one in rng.integers(2, size=rows)])


def actions(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Sub-actions ``a1..a5`` of so many requests."""
    return pd.DataFrame({name: rng.integers(size, size=rows) for name, size in zip(ACTIONS, SIZES)})


def module1(rows: int, seed: int = 0) -> pd.DataFrame:
    """``uv,w,g,i,a1..a5,reward``: reward grows with a5."""
    rng = np.random.default_rng(seed)
    frame = states(rows, rng).join(actions(rows, rng))
    return frame.assign(reward=np.round(rng.gamma(2, 1, rows) * (1 + frame["a5"]), 4))


def module2(rows: int, seed: int = 0) -> pd.DataFrame:
    """``uv,w,g,i,a1..a5`` and two labels: what retrieval and pre-ranking passed on."""
    frame = module1(rows, seed).drop(columns="reward")
    label1 = 10 * (1 + frame["a2"] + frame["a3"])
    return frame.assign(label1=label1, label2=np.minimum(label1, 8 * (1 + frame["a5"])))


def module3(minutes: int, seed: int = 0, *, first: int = 694, moving: bool = True) -> pd.DataFrame:
    """The minute table of two data centres, 48 columns: literal dates, minutes of the day, the next minute with an underscore."""
    rng = np.random.default_rng(seed)
    return pd.concat([_minutes(f"IDC_{k}", minutes, first, moving, rng) for k in range(2)], ignore_index=True)


def _minutes(idc: str, minutes: int, first: int, moving: bool, rng: np.random.Generator) -> pd.DataFrame:
    """One data centre: λ lowers the CPU of the minute that the underscored columns hold."""
    minute = first + np.arange(minutes + 1)
    price = rng.uniform(0.1, 1.0, (minutes, 2)) * moving
    traffic = 60_000 * (1 + 0.2 * np.sin(2 * np.pi * minute / 1440)) * np.exp(rng.normal(0, 0.03, minutes + 1))
    before = np.vstack([[0.5, 0.5], price])
    cpu = 45 * (traffic / 60_000)[:, None] * np.exp(-0.4 * before + rng.normal(0, 0.01, before.shape))
    values = {"nsum": traffic.round(), "downgrade_tp90": rng.uniform(0, 1, minutes + 1).round(3)}
    values |= {"downgrade_avg": (values["downgrade_tp90"] / 2).round(3), "cpu1": cpu[:, 0], "cpu2": cpu[:, 1]}
    values |= {name: rng.normal(size=minutes + 1).round(3) for name in OTHERS}
    measured = pd.DataFrame(values)[MEASURED]
    keys = pd.DataFrame({"idc": idc, "group": "main", "dt": "yyyy-mm-dd", "tm": minute[:-1] % 1440})
    prices = pd.DataFrame(price, columns=["lambda_value1", "lambda_value2"])
    later = measured.iloc[1:].reset_index(drop=True).add_suffix("_")
    return pd.concat([keys, measured.iloc[:-1], prices, later], axis=1)


def state_counts(rows: int = 200, seed: int = 0, idc: str = "idc") -> pd.DataFrame:
    """``uv,w,g,i,sn,num``: requests of each state, ``rows`` in all."""
    counts = states(rows, np.random.default_rng(seed), idc).value_counts().reset_index(name="num")
    return counts.assign(sn=range(len(counts)))[[*STATE, "sn", "num"]]


def action_counts(rows: int = 200, kinds: int = 1000, seed: int = 1) -> pd.DataFrame:
    """``a1..a5,an,num``: uses of joint actions, ``rows`` in all, among the ``kinds`` that are scored."""
    number = np.random.default_rng(seed).choice(scored_actions(kinds), rows)
    counts = pd.Series(number).value_counts().sort_index()
    table = pd.DataFrame(np.stack(np.unravel_index(counts.index, SIZES), axis=1), columns=ACTIONS)
    return table.assign(an=counts.index, num=counts.to_numpy())


def scored_actions(kinds: int) -> np.ndarray:
    """Joint indices of so many actions, spread over all 1,000."""
    return np.linspace(0, 999, kinds).astype(int)


def scores(of: pd.DataFrame, kinds: int = 1000, seed: int = 2) -> pd.DataFrame:
    """``index,key,value`` of these states and so many of the 1,000 actions."""
    joint = ["_".join(map(str, action)) for action in itertools.product(*map(range, SIZES))]
    chosen = [joint[index] for index in scored_actions(kinds)]
    keys = ["_".join(map(str, state)) for state in of[STATE].itertuples(index=False)]
    pairs = [f"{key}_{action}" for key in keys for action in chosen]
    values = np.random.default_rng(seed).gamma(2, 1, len(pairs)).round(4)
    return pd.DataFrame({"index": range(len(pairs)), "key": pairs, "value": values})


def predictions(rows: int, kinds: int = 1000, seed: int = 0, idc: str = "idc") -> pd.DataFrame:
    """``t,uv,w,g,i,a1..a5,a1_output..a5_output,q_re_output,q_pre_output,q_final_output,consumption``."""
    rng = np.random.default_rng(seed)
    chosen = np.stack(np.unravel_index(rng.choice(scored_actions(kinds), rows), SIZES), axis=1)
    frame = states(rows, rng, idc).join(actions(rows, rng))
    frame = frame.join(pd.DataFrame(chosen, columns=[f"{name}_output" for name in ACTIONS]))
    for name in ("q_re_output", "q_pre_output", "q_final_output", "consumption"):
        frame[name] = rng.gamma(2, 1, rows).round(4)
    frame.insert(0, "t", range(rows))
    return frame
