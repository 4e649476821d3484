"""Models that are trained once on what lies before the split."""
