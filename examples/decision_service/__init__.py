"""How is a policy served? Decisions over HTTP at a price that the balancer pushes, and a log that the next training reads."""
