"""The HTML page: self-contained, figures embedded."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from marca_common.files import write_text


@dataclass(frozen=True)
class Figure:
    """A PNG, and the sentence under it that says what to see in it."""

    path: Path
    caption: str = ""


@dataclass
class Section:
    """A heading, a text, figures, and tables by title."""

    title: str
    text: str
    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


def write_page(path: Path, title: str, lead: str, facts: dict[str, Any], sections: list[Section]) -> Path:
    """Write the report; a figure that does not exist is a programming error and raises."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    environment.filters |= {"picture": _picture, "least_width": _least_width, "table": _table}
    write_text(
        path,
        environment.get_template("html_page.html.j2").render(title=title, lead=lead, facts=facts, sections=sections),
    )
    return path


def _picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _least_width(path: Path) -> int:
    """Pixels below which the writing in a PNG cannot be read: a narrower screen scrolls the figure in its own box."""
    width = int.from_bytes(path.read_bytes()[16:20], "big")
    return round(0.58 * width)


def _table(frame: pd.DataFrame) -> str:
    html: str = frame.to_html(
        index=False, border=0, float_format=lambda x: f"{x:,.4g}" if abs(x) < 1000 else f"{x:,.0f}", na_rep="–"
    )
    return html
