"""The test bench: real load on a real service, its own CPU clocks, core-milliseconds per request (Appendix B, Eq. 26).

The test bench: built here.
"""
