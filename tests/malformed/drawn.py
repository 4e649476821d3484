"""Drawn tables: a cell of any text in any column, in a file that is dressed in any sound way."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.malformed.bad_tables import Trait, changed, quoted, rows_of, text, turned
from tests.malformed.cases import Case, Expected
from tests.malformed.inputs import Table

DRAWN = 150  # cases per table
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DRESSES: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "with a byte-order mark": b"\xef\xbb\xbf".__add__,
    "in quotes": quoted,
    "turned": turned,
    "with Windows line ends": lambda data: data.replace(b"\n", b"\r\n"),
}
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
_NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats().map(repr),
    st.sampled_from(["0", "1", "5", "-0", "1e2", ".5", "5.", "+1", "true"]),
)


def drawn_tables(table: Table, put: Callable[[str, bytes], Path], most: int = DRAWN) -> Iterator[Case]:
    """Cases of one table; the same ones every time."""
    drawn: list[tuple[str, str, str, bool]] = []
    names = st.sampled_from(list(table.columns))

    @settings(max_examples=most, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(names, st.one_of(_TEXT, _NUMBERS), st.sampled_from(list(_DRESSES)), st.booleans())
    def draw(column: str, value: str, dress: str, squeezed: bool) -> None:
        drawn.append((column, value, dress, squeezed))

    draw()
    rows = rows_of(table.data)
    for column, value, dress, squeezed in dict.fromkeys(drawn):
        data = _DRESSES[dress](text(changed(rows, 2, rows[0].index(column), value)))
        path = put("drawn.csv.gz" if squeezed else "drawn.csv", gzip.compress(data, mtime=0) if squeezed else data)
        kind = f"{value!r} in {column}, {dress}{', gzip' if squeezed else ''}"
        attempt: Callable[[], Any] = partial(table.read, path)
        yield Case(
            "tables",
            f"{table.name} (drawn)",
            kind,
            _expected(Trait.of(table.columns[column]), value),
            attempt,
            (str(path),),
        )


def _expected(trait: Trait, value: str) -> Expected:
    """By a reference of its own: what a column of this kind has to do with this text."""
    value = value.strip()
    if trait.kind == "category":
        return "either"
    if trait.kind == "time":
        return "either" if re.match(r"\d{4}", value) else "refused"
    if trait.nullable and value.lower() in ("", "nan", "na", "null", "none"):
        return "either"
    value = {"true": "1", "false": "0"}.get(value.lower(), value)
    if not _NUMBER.fullmatch(value):
        return "refused"
    number = float(value)
    whole = trait.kind != "int" or number.is_integer()
    return "either" if whole and trait.low <= number <= trait.high and abs(number) < float("inf") else "refused"
