"""What a platform would have logged."""
