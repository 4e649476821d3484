"""One definition of each number that more than one room prints; the list stands in docs/metrics.md."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
