"""Where the rooms meet: one run of the whole loop, the strategies, and the simulated day on which they compete."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
