"""How each strategy looks in every figure: its label and its colour, from the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marca_common.figures import COLORS

BASELINE_COLOR = "#7F7F7F"
PALETTE = [*COLORS[:-1], "#8C564B", "#9467BD", "#BCBD22", "#17BECF", "#7F3C8D", "#3D5A2A"]


@dataclass(frozen=True)
class Look:
    """Label and colour of a strategy."""

    label: str
    color: str


def strategy_looks(strategies: Mapping[str, Mapping[str, Any]], baseline: str) -> dict[str, Look]:
    """Looks by name in the config's order; grey is the baseline, each other one takes its own or the next free colour."""
    taken = {one.get("color") for one in strategies.values()}
    free = iter([color for color in PALETTE * 3 if color not in taken])
    looks = {}
    for name, one in strategies.items():
        color = one.get("color") or (BASELINE_COLOR if name == baseline else next(free))
        looks[name] = Look(one.get("label") or name, color)
    return looks
