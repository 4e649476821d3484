"""How a foreign table is laid out: the keys that every config with a table of the user's has in common."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from marca_common.config import Config
from marca_common.table_files import Separator
from marca_common.tables import Negative


class TableFormat(Config):
    """Layout of a table: header row, separator, and what numbers below 0 mean where none is expected."""

    header: list[str] | None = Field(default=None, description="column names of a file without a header row, in order")
    separator: Separator = Field(default=",", description="field separator of CSV files")
    negative: dict[str, Negative] = Field(
        default={},
        description="column → what a value below 0 is: clip (noise around 0, count it as 0) or drop (leave the row out)",
    )

    @property
    def reading(self) -> dict[str, Any]:
        """These keys as options of ``read_table``."""
        return {"header": self.header, "separator": self.separator, "negative": self.negative}
