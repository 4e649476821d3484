"""λ: the price of computation, steered so that CPUs stay at their budget."""
