"""C(s, a): what an action results in, and what serving that result costs in core-milliseconds (Appendix B, Eq. 26)."""

import marca_common  # noqa: F401 (settles what must be before anything else is imported)
