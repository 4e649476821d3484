"""λ: the price of computation, steered so that CPUs stay at their budget."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
