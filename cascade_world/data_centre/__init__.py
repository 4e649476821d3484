"""How machines answer: a plant that serves minute by minute under a price."""
