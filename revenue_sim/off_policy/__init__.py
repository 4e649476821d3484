"""Off-policy estimates and their intervals: checked logs, estimators, what a log cannot tell."""
