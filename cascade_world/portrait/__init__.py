"""What the world is like: its declared properties and their figures."""
