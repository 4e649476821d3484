"""What does a result cost? Load-test rows, their additive monotone fit, and C(s, a) from estimator and maps."""
