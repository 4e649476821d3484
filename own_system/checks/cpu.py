"""Is CPU in the unit that is declared?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from own_system.findings import Findings

_SHARE = 1.5  # CPU that never exceeds this is a share of 1


def check_cpu_unit(percent: pd.Series, unit: str, file: str, column: str, findings: Findings) -> bool:
    """Whether readings, here in percent, had the declared ``unit`` (percent or share) in the file; NaN: lost."""
    largest, factor = float(np.nanmax(percent)), 1.0 if unit == "percent" else 0.01
    if (unit == "percent" and largest <= _SHARE) or largest > 100 * _SHARE:
        value = f"the largest is {largest * factor:g}; declared is {unit}"
        findings.add("cpu_unit", file, value, column=column)
    elif largest > 100:
        row = int(percent.index[int(np.nanargmax(percent))])
        value = f"got {largest * factor:g}; expected a number from 0 to {100 * factor:g}"
        findings.add("out_of_range", file, value, column=column, row=row)
    else:
        return True
    return False
