"""Ratings of films: where they come from and what their files look like."""
