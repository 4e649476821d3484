"""How a benchmark that reads data of a user's own ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from marca_common.errors import UserError


def script(main: Callable[[], None]) -> None:
    """Run ``main``; what the user can mend is one line and exit code 2, as in the programs."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
