"""How does a controller do before it is let near production? Plants, traffic, scenarios, the closed loop, metrics."""
