"""Values of a column in one form, whatever file or frame they come from: categories as text, numbers, instants in UTC."""

from __future__ import annotations

import difflib
import numbers
import re
import zoneinfo
from contextlib import suppress
from decimal import Decimal
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field

from marca_common.errors import UserError

_WHOLE = re.compile(r"-?(?:0|[1-9]\d*)\.0+")
_OFFSET = re.compile(r"\d:\d\d.*(?:[Zz]|[+-]\d\d(?::?\d\d)?)\s*$")
_DATE = r"\d{4}-\d\d-\d\d"
_TIME = re.compile(r"\s*\d{4}-?\d\d-?\d\d")
_BOOLEANS = {"true": "1", "false": "0"}
_FORBIDDEN = re.compile("[\x00\x1f]")  # they end and join text elsewhere
_OWN, _FEWEST = 0.95, 100  # distinct values a row of an identifier; rows from which on a share means something


class BadValue(Exception):
    """A value that its column can't hold; the caller knows the column's name and place."""

    def __init__(self, row: int, expected: str) -> None:
        super().__init__(row, expected)
        self.row, self.expected = row, expected


def category(value: Any) -> str:
    """The text that stands for a category value.

    True, ``true`` and 1 are "1", False, ``false`` and 0 are "0"; whole numbers lose their fraction (``3.0`` is "3"); bytes are
    UTF-8. Anything else is its usual text; ``007``, ``NA`` and ``None`` stay as they are.
    """
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, (float, np.floating)) and float(value).is_integer() and abs(float(value)) < 1e15:
        value = int(value)
    text = value if isinstance(value, str) else str(value)
    if _WHOLE.fullmatch(text):
        text = text.partition(".")[0]
        return "0" if text == "-0" else text
    return _BOOLEANS.get(text.lower(), text)


def is_identifier(values: int, rows: int) -> bool:
    """Whether a column of so many distinct ``values`` tells rows apart, not kinds of rows: hardly any value comes back."""
    return rows >= _FEWEST and values >= _OWN * rows


def as_categories(values: pd.Series) -> pd.Series:
    """Values as a categorical column of text; BadValue for a missing or impossible one.

    Categories are sorted, but a column that is categorical text already stays as it is.
    """
    try:
        column = values.astype("category")
    except TypeError:  # lists and other values that can't be told apart quickly
        raise BadValue(0, "a category: text, a number or a boolean") from None
    codes = column.cat.codes.to_numpy()
    found = list(column.cat.categories)
    bad = {i for i, value in enumerate(found) if not _is_category(value)} | {-1}
    rows = np.flatnonzero(np.isin(codes, list(bad)))
    if len(rows):
        raise BadValue(int(rows[0]), "a category")
    words = [category(value) for value in found]
    if words == found and isinstance(column.cat.categories.dtype, pd.StringDtype):
        return column
    known = sorted(set(words))
    place = {word: i for i, word in enumerate(known)}
    lookup = np.array([place[word] for word in words], dtype=np.int64)
    return pd.Series(pd.Categorical.from_codes(lookup[codes], pd.Index(known, dtype="str")), index=values.index)


def categories(frame: pd.DataFrame, name: str) -> pd.Series:
    """A frame's column as categories of text; a UserError where it is missing or a value can't be one."""
    if name not in frame:
        raise UserError(f"column {name!r} is missing; found {', '.join(map(str, frame.columns))}")
    try:
        return as_categories(frame[name])
    except BadValue as bad:
        value = shown(frame[name], bad.row)
        raise UserError(f"row {bad.row + 1}, column {name!r}: got {value}; expected {bad.expected}") from None


def words(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A column's values as category text, object (M,); a UserError as in ``categories``."""
    return np.asarray(categories(frame, name), dtype=object)


def as_numbers(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as float64 (M,), NaN where they are none, and which values are missing, bool (M,). Booleans are 0 and 1."""
    missing = values.isna().to_numpy(dtype=bool)
    if values.dtype.kind in "mMc":
        return np.full(len(values), np.nan), missing
    if values.dtype.kind not in "biuf":
        values = values.astype(object).map(_number, na_action="ignore")
    found = pd.to_numeric(values, errors="coerce")
    return found.to_numpy(dtype=np.float64, na_value=np.nan), missing


def as_instants(values: pd.Series, timezone: str) -> pd.Series:
    """Times as naive datetime64 in UTC; those without an offset are read in ``timezone``. BadValue where one can't be.

    An hour that the end of summer time repeats is told by the order of its rows: the clock goes back once.
    """
    if not len(values):
        return pd.Series(np.zeros(0, "datetime64[us]"), index=values.index)
    expected = "a time such as 2026-01-31 12:00:00"
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        times = values.dt.tz_convert("UTC").dt.tz_localize(None)
        local = np.zeros(len(values), dtype=bool)
    elif values.dtype.kind == "M":
        times, local = values, np.ones(len(values), dtype=bool)
    elif values.dtype.kind in "biufc":
        raise BadValue(0, expected)
    else:
        times, local = _parsed(values)
    bad = times.isna().to_numpy()
    if bad.any():
        raise BadValue(int(np.argmax(bad)), expected)
    return times if timezone == "UTC" else _from_zone(times, local, timezone)


def _parsed(values: pd.Series) -> tuple[pd.Series, np.ndarray]:
    """Times of text, naive where they carry no offset and else in UTC, NaT where they are none; and which are naive."""
    if isinstance(values.dtype, pd.StringDtype):
        with suppress(ValueError):  # one pass where all are alike; the parser also takes words such as `now`
            if values.str.match(_DATE).all():
                times = pd.to_datetime(values, format="ISO8601")
                if times.dtype.kind == "M":
                    return times, np.ones(len(values), dtype=bool)
    text = values.astype(object).map(_time_text, na_action="ignore")
    plain = text.where(text.notna() & text.where(text.notna(), "").str.match(_TIME))
    local = ~plain.where(plain.notna(), "").str.contains(_OFFSET).to_numpy(dtype=bool)
    times = pd.to_datetime(plain.where(local), errors="coerce", format="ISO8601").astype("datetime64[us]")
    other = pd.to_datetime(plain.where(~local), errors="coerce", format="ISO8601", utc=True)
    return times.where(local, other.dt.tz_localize(None).astype("datetime64[us]")), local


def shown(values: pd.Series, row: int) -> str:
    """A value as a message shows it."""
    value = values.iloc[row]
    if not isinstance(value, (list, dict, np.ndarray)) and (pd.isna(value) or value == ""):
        return "an empty value"
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    except ValueError:  # Python's limit for whole numbers
        return "a number of more digits than can be shown"
    return text if len(text) <= 120 else f"{text[:119]}…"


def _zone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        near = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected an IANA time zone such as Asia/Shanghai{hint}")
    return name


CategoryText = Annotated[str, BeforeValidator(category)]
Zone = Annotated[str, AfterValidator(_zone), Field(description="zone of times that carry none, such as Asia/Shanghai")]


def _is_plain(kind: type) -> bool:
    return (
        issubclass(kind, (str, bytes, numbers.Number, np.generic, pd.Timestamp, Decimal))
        or kind.__module__ == "datetime"
    )


def _is_category(value: Any) -> bool:
    if not _is_plain(type(value)):
        return False
    try:
        return bool(text := category(value)) and not _FORBIDDEN.search(text)
    except ValueError:  # bytes that are not UTF-8, or a number that Python won't write out
        return False


def _number(value: Any) -> Any:
    """What pandas reads as the same number; text it would read by rules of its own (hexadecimal, digits in groups) is none."""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = value.strip()
        return _BOOLEANS.get(text.lower(), text) if not re.search("[_xX]", text) else "none"
    try:
        return float(value) if isinstance(value, (Decimal, numbers.Real)) else "none"
    except OverflowError:
        return np.inf


def _time_text(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.isoformat() if hasattr(value, "isoformat") else value if isinstance(value, str) else "none"


def _from_zone(times: pd.Series, local: np.ndarray, timezone: str) -> pd.Series:
    naive = pd.DatetimeIndex(times[local])
    early, late = (_localised(naive, timezone, summer) for summer in (True, False))
    if np.isnat(early).any():
        raise BadValue(
            int(np.flatnonzero(local)[np.argmax(np.isnat(early))]), f"a time that the clocks of {timezone} show"
        )
    second = _second_pass(naive, np.asarray(early != late), local, timezone)
    out = times.to_numpy().copy()
    out[local] = np.where(second, late, early)
    return pd.Series(out, index=times.index)


def _localised(naive: pd.DatetimeIndex, timezone: str, summer: bool) -> np.ndarray:
    flags = np.full(len(naive), summer)
    found = naive.tz_localize(timezone, ambiguous=flags, nonexistent="NaT").tz_convert("UTC").tz_localize(None)
    return np.asarray(found.to_numpy())


def _second_pass(naive: pd.DatetimeIndex, twice: np.ndarray, local: np.ndarray, timezone: str) -> np.ndarray:
    """Which of the times that occur ``twice`` belong to the second hour, bool (N,)."""
    second = np.zeros(len(naive), dtype=bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], twice.astype(np.int8), [0]])))
    for start, end in edges.reshape(-1, 2):
        back = start + 1 + np.flatnonzero(np.diff(naive[start:end].to_numpy()) < np.timedelta64(0))
        if len(back) != 1:
            row = int(np.flatnonzero(local)[start])
            raise BadValue(
                row, f"an offset, since {timezone} shows this time twice (or the rows of both hours, in order)"
            )
        second[back[0] : end] = True
    return second
