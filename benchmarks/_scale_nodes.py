"""What would a day of 10¹¹ requests take on 64 machines? From measured parts, and from an allocation of 64 simulated ranks."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from marca_common.ranks import Ranks

T = TypeVar("T")
REQUESTS = 1e11  # a day
STATES = 1e10  # distinct states among them
# Per parameter and update: a sum over ranks sends and receives every number once, in single precision.
GRADIENT_BYTES = 2 * 4


class SimulatedRanks(Ranks):
    """Ranks of a group, one after the other in one process: their results, what each would receive, and the time of the slowest.

    Time on the network is not simulated.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.spared_s = 0.0  # what ranks side by side would have saved

    def lead(self, work: Callable[[], T]) -> T:
        """Done once."""
        return work()

    def _together(self, work: Callable[[], T]) -> list[T]:
        results = self._each(work)
        self.gathered_bytes += sum(len(pickle.dumps((one, None))) for one in results)
        return results

    def _added_up(self, work: Callable[[], Any]) -> Any:
        parts = [one for one in self._each(work) if one is not None]
        total = sum(parts[1:], parts[0])
        reached = 1 + (self.size - 1).bit_length()  # of rank 0: its own, and one from each branch of the tree
        self.gathered_bytes += reached * len(pickle.dumps((total, None)))
        return total

    def _each(self, work: Callable[[], T]) -> list[T]:
        results, spent = [], []
        for rank in range(self.size):
            self.rank = rank
            started = time.perf_counter()
            results.append(work())
            spent.append(time.perf_counter() - started)
        self.rank = 0
        self.spared_s += sum(spent) - max(spent)
        return results


def node_row(allocated: Callable[[Ranks], dict[str, Any]], nodes: int, states: int, actions: int) -> dict[str, Any]:
    """A row of scale.csv: an allocation of ``nodes`` simulated ranks. ``wall_s`` is one rank's, ``cpu_s`` all ranks'.

    ``allocated``: allocates, and returns what must be equal whatever the number of ranks.
    """
    known, ranks = allocated(Ranks()), SimulatedRanks(nodes)
    started = time.perf_counter()
    found = allocated(ranks)
    spent = time.perf_counter() - started
    head = {"job": "allocate", "engine": "simulated", "ranks": nodes, "rows": states, "pairs": states * actions}
    return head | {
        "wall_s": spent - ranks.spared_s,
        "cpu_s": spent,
        "reduced_mb": ranks.gathered_bytes / 1e6,
        "edges": found["edges"],
        "passes": found["passes"],
        "equal": found == known,
    }


def day_table(table: pd.DataFrame, nodes: int) -> pd.DataFrame:
    """A day's work per node, by scaling the rows of scale.csv; core-hours are those of one core of the measuring machine."""
    train = table[(table["job"] == "train") & (table["engine"] == "torchrun")].iloc[-1]
    score = table[(table["job"] == "score") & (table["engine"] == "loop")].iloc[-1]
    hulls = table[(table["job"] == "allocate") & (table["engine"] == "loop")].iloc[-1]
    simulated = table[table["engine"] == "simulated"].iloc[-1]
    ranks, day_rows = train["ranks"], REQUESTS / nodes
    log_gb, hull_gb = (1e-3 * one["file_mb"] / one["rows"] for one in (train, hulls))
    updates = day_rows / (train["batch"] / ranks)
    rows = [
        ("survey of the log", 1, day_rows * train["load_s"] * ranks / train["rows"], day_rows * log_gb, 0.0),
        ("training, one epoch", 1, day_rows / (train["samples_per_s"] / ranks), day_rows * log_gb,
         updates * GRADIENT_BYTES * train["parameters"] / 1e6),
        ("scoring", 1, STATES / nodes * score["wall_s"] / score["rows"], STATES / REQUESTS * day_rows * log_gb, 0.0),
        ("allocation", hulls["passes"], STATES / nodes * hulls["cpu_s"] / hulls["rows"], STATES / nodes * hull_gb, simulated["reduced_mb"]),
    ]  # fmt: skip
    names = ["part", "passes", "core_s", "read_gb_a_pass", "received_mb"]
    found = pd.DataFrame(rows, columns=names)
    found.insert(2, "core_hours", found.pop("core_s") / 3600)
    return found.assign(nodes=nodes, requests=REQUESTS, states=STATES)


def print_day(table: pd.DataFrame, path: Path) -> None:
    """Say which file holds it."""
    print(f"\na day per node ({path}):")
    print(table.to_string(index=False))
