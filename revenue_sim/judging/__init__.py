"""What a model's decisions are worth in the truth's numbers."""
