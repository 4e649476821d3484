"""C(s, a): what an action results in, and what serving that result costs in core-milliseconds (Appendix B, Eq. 26)."""
