"""Plumbing that every package shares and that knows no science: configs, tables, seeds, checkpoints, runs."""
