"""How does CPU follow from traffic and prices? The minute table, the model learned from it, and its correction online."""
