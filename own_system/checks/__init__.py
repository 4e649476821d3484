"""What can be wrong with a platform's tables, one file per question."""
