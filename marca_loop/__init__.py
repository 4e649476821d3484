"""Where the rooms meet: one run of the whole loop, the strategies, and the simulated day on which they compete."""
