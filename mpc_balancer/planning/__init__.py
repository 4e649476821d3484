"""Which prices over the next N steps are best? The objective of a plan, and the problem that solvers get."""
