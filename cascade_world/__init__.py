"""The open stand-in for private logs: users and traffic, a cascade, revenue, costs and CPUs, with known truth."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
