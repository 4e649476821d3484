"""One page for a run: draws the simulated day and gathers every room's figures and tables into a single HTML file."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
