"""The table of load-test rows, which a test bench or a synthetic world writes and ``autobucket.fit_costs`` reads."""

from __future__ import annotations

from collections.abc import Iterable

from marca_common.tables import Column, Schema


def load_test_schema(settings: Iterable[str], lengths: Iterable[str]) -> Schema:
    """Columns as in data/README.md: ``settings`` are categories (channels, switches), ``lengths`` realised queue lengths.

    A row at ``qps`` 0 measures the idle service; its lengths may be empty.
    """
    return [
        Column("idc", "category"),
        Column("service", "category"),
        Column("round", "int", 0),
        *(Column(name, "category") for name in settings),
        *(Column(name, low=0, nullable=True) for name in lengths),
        Column("degradation", low=0, required=False),
        Column("bucket", "category", required=False),
        Column("qps", low=0),
        Column("machines", "int", 1),
        Column("cores", "int", 1),
        Column("cpu_percent", low=0, high=100),
    ]
