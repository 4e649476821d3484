"""How does a log become a trained learner: rows, validation, state of a run, boosted trees."""
