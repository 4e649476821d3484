"""Q(s, a): what each joint action is worth, learned offline from logs."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
