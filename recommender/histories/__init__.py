"""What a platform knows of a user at a moment, and what it may not know yet."""
