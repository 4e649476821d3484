"""What a request brings and costs: the cascade, its parameters, the cost curves and the computed truth."""
