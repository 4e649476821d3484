"""The cascade: joint actions, stages, one request at a time."""
