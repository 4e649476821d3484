"""What an allocation would have earned, and how far it is from the best possible."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
