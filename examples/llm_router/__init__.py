"""Which language model answers which prompt: the engine of this repository on computation that is not a recommender's."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
